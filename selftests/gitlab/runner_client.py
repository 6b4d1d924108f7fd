"""A runner's side of the protocol, written from its documentation; neither gitlab-runner's code nor ours."""

from __future__ import annotations

import ssl
import time
import zlib
from pathlib import Path
from typing import Any

import httpx

INFO = {
    "name": "gitlab-runner",
    "version": "16.0.1",
    "revision": "79704081",
    "platform": "linux",
    "architecture": "amd64",
    "executor": "kubernetes",
    "shell": "bash",
    "features": {"variables": True, "image": True, "services": True, "refspecs": True, "trace_reset": True},
    "config": {"gpus": ""},
}
_TAKE_S = 20.0


class Runner:
    """One runner process: a token and a system id."""

    def __init__(
        self,
        url: str,
        token: str,
        runner_id: int = 0,
        *,
        system_id: str = "s_contract",
        verify: Path | None = None,
    ) -> None:
        self.token, self.id, self.system_id = token, runner_id, system_id
        self.http = httpx.Client(
            base_url=f"{url}/api/v4",
            timeout=90,
            trust_env=False,
            verify=ssl.create_default_context(cafile=str(verify)) if verify else True,
        )
        self.last_update = ""

    def close(self) -> None:
        self.http.close()

    def request(self, info: dict[str, Any] | None = None, **extra: Any) -> httpx.Response:
        """POST jobs/request; keeps X-GitLab-Last-Update for the next one."""
        body = {"info": info or INFO, "token": self.token, "system_id": self.system_id, **extra}
        if self.last_update:
            body["last_update"] = self.last_update
        answer = self.http.post("/jobs/request", json=body)
        self.last_update = answer.headers.get("X-GitLab-Last-Update", "")
        return answer

    def take(self, timeout_s: float = _TAKE_S) -> dict[str, Any]:
        """Ask until a job is handed out."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            answer = self.request()
            if answer.status_code == 201:
                job: dict[str, Any] = answer.json()
                return job
            assert answer.status_code == 204, f"jobs/request was answered {answer.status_code}: {answer.text}"
        raise AssertionError(f"no job was handed out within {timeout_s:.0f} s")

    def patch(self, job: dict[str, Any], data: bytes, start: int = 0, **headers: str) -> httpx.Response:
        """PATCH a piece of the log that begins at byte ``start``."""
        sent = {
            "Content-Type": "text/plain",
            "Content-Range": f"{start}-{start + len(data) - 1}",
            "JOB-TOKEN": job["token"],
            **headers,
        }
        return self.http.patch(f"/jobs/{job['id']}/trace?debug_trace=false", content=data, headers=sent)

    def put(self, job: dict[str, Any], state: str, log: bytes = b"", **extra: Any) -> httpx.Response:
        """PUT a state, with the log's checksum and size as gitlab-runner sends them."""
        checksum = f"crc32:{zlib.crc32(log):08x}"
        body = {
            "info": INFO,
            "token": job["token"],
            "state": state,
            "checksum": checksum,
            "output": {"checksum": checksum, "bytesize": len(log)},
            **extra,
        }
        return self.http.put(f"/jobs/{job['id']}", json=body)

    def finish(
        self, job: dict[str, Any], state: str = "success", log: bytes = b"", **extra: Any
    ) -> httpx.Response:
        """PUT a final state until it is accepted: 202 means "ask again"."""
        for _ in range(30):
            answer = self.put(job, state, log, **extra)
            if answer.status_code != 202:
                return answer
            time.sleep(float(answer.headers.get("X-GitLab-Trace-Update-Interval", "1")))
        raise AssertionError("the final state is never accepted: 202 again and again")
