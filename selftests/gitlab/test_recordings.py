"""The requests that the real gitlab-runner 16.0.1 made, sent again: all are answered as the protocol wants.

Tokens and job ids are exchanged for living ones. Where a log is refused with 416 the sender does what
gitlab-runner does: it goes on from the byte that the answer names. At the end the log must be the one the
runner meant, which its own CRC-32 and size in the final PUT tell.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from selftests.gitlab.conftest import Server, commit_to
from selftests.gitlab.runner_client import Runner

HERE = Path(__file__).parent / "recordings"
INFO = json.loads((HERE / "runner-info.json").read_text())
PROTOCOL, REGISTER, CLI = (
    json.loads((HERE / f"{name}.json").read_text()) for name in ("protocol", "register", "cli")
)
JOBS = sorted(name for name in PROTOCOL if name.startswith("job-"))
IDLE = sorted(name for name in PROTOCOL if name.startswith(("idle-", "request-")))

# Artifacts, and tokens that are known beforehand, differ elsewhere.
pytestmark = pytest.mark.embedded_only


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
        yield client


def send(http: httpx.Client, record: dict[str, Any], path: str, **changes: Any) -> httpx.Response:
    """Send a recorded request; ``changes`` go over its JSON body, ``headers`` over its headers."""
    headers = {**record["headers"], **changes.pop("headers", {})}
    if "json" in record:
        body = {**record["json"], **changes}
        if body.get("info") == "@runner-info.json":
            body["info"] = INFO
        return http.request(record["method"], path, content=json.dumps(body).encode(), headers=headers)
    return http.request(record["method"], path, content=record.get("body", "").encode(), headers=headers)


class Replay:
    """One recorded job, sent again for a living one."""

    def __init__(self, http: httpx.Client, records: list[dict[str, Any]], runner: Runner) -> None:
        self.http, self.records, self.runner = http, records, runner
        self.job: dict[str, Any] = {}
        self.log = self._whole_log()
        self.answers: list[int] = []

    def _whole_log(self) -> bytes:
        """The runner's log, put together from all pieces it sent, also the repeated ones."""
        log = bytearray()
        for record in self.records:
            if record["method"] == "PATCH":
                start, data = int(record["headers"]["Content-Range"].split("-")[0]), record["body"].encode()
                log[start : start + len(data)] = data
        return bytes(log)

    def run(self, before: Callable[[dict[str, Any]], None] = lambda record: None) -> None:
        for record in self.records:
            before(record)
            answer = self._one(record)
            if answer is not None:
                self.answers.append(answer.status_code)

    def _one(self, record: dict[str, Any]) -> httpx.Response | None:
        method, path = record["method"], record["path"]
        if path == "/api/v4/jobs/request":
            answer = send(self.http, record, path, token=self.runner.token)
            if answer.status_code == 201:
                self.job = answer.json()
            assert answer.status_code in (201, 204)
            return answer
        if ".git/" in path:
            return None  # real git is used in test_git.py
        path = f"/api/v4/jobs/{self.job['id']}" + path[len("/api/v4/jobs/") :].lstrip("0123456789")
        if method == "PATCH":
            return self._patch(record, path)
        if method == "PUT":
            return send(self.http, record, path, token=self.job["token"])
        return self._artifacts(record, path)

    def _patch(self, record: dict[str, Any], path: str) -> httpx.Response:
        answer = send(self.http, record, path, headers={"Job-Token": self.job["token"]})
        if answer.status_code == 416:
            start = int(answer.headers["Range"].removeprefix("0-"))
            end = int(record["headers"]["Content-Range"].split("-")[1]) + 1
            if start < end:
                headers = {
                    **record["headers"],
                    "Job-Token": self.job["token"],
                    "Content-Range": f"{start}-{end - 1}",
                }
                return self.http.patch(path, content=self.log[start:end], headers=headers)
        return answer

    def _artifacts(self, record: dict[str, Any], path: str) -> httpx.Response:
        headers = {**record["headers"], "Job-Token": self.job["token"]}
        answer = self.http.request(record["method"], path, content=b"--x--", headers=headers)
        assert answer.status_code == (404 if record["method"] == "GET" else 405)
        return answer

    @property
    def final(self) -> dict[str, Any]:
        """The body of the last PUT with a final state."""
        puts = [record["json"] for record in self.records if record["method"] == "PUT"]
        final: dict[str, Any] = next(body for body in reversed(puts) if body["state"] != "running")
        return final


@pytest.mark.parametrize("case", [name for name in JOBS if "cancel" not in name])
def test_job(case: str, http: httpx.Client, runner: Runner, project: Any, tag: str) -> None:
    records = PROTOCOL[case]
    commit_to(project, f"build:\n  tags: [{tag}]\n  script: [echo]\n")
    project.pipelines.create({"ref": "main"})
    replay = Replay(http, records, runner)
    replay.run()
    assert set(replay.answers) <= {201, 202, 200, 403, 404, 405}
    job = project.jobs.get(replay.job["id"])
    final = replay.final
    assert job.status == final["state"]
    assert job.attributes.get("failure_reason") == final.get("failure_reason")
    log = job.trace()
    assert log == replay.log
    assert final["output"] == {"checksum": f"crc32:{zlib.crc32(log):08x}", "bytesize": len(log)}


@pytest.mark.parametrize("case", [name for name in JOBS if "cancel" in name])
def test_canceled_job(case: str, http: httpx.Client, runner: Runner, project: Any, tag: str) -> None:
    """Canceled just before the runner heard of it then: 403 from there on, and it stays canceled."""
    records = PROTOCOL[case]
    commit_to(project, f"build:\n  tags: [{tag}]\n  script: [echo]\n")
    project.pipelines.create({"ref": "main"})
    replay, told = Replay(http, records, runner), _index_of_the_news(records)

    def cancel(record: dict[str, Any]) -> None:
        if record is records[told]:
            project.jobs.get(replay.job["id"]).cancel()

    replay.run(cancel)
    assert replay.answers[-1] == 403
    assert project.jobs.get(replay.job["id"]).status == "canceled"


def _index_of_the_news(records: list[dict[str, Any]]) -> int:
    """The last PATCH or PUT before the one with the final words and the final PUT."""
    updates = [i for i, record in enumerate(records) if record["method"] in ("PATCH", "PUT")]
    return updates[-3]


@pytest.mark.parametrize("case", IDLE)
def test_idle_runner_is_never_refused(case: str, http: httpx.Client, runner: Runner) -> None:
    last = ""
    for record in PROTOCOL[case][:3]:
        extra = {"last_update": last} if "last_update" in record["json"] else {}
        answer = send(http, record, record["path"], token=runner.token, **extra)
        assert answer.status_code == 204
        last = answer.headers["X-GitLab-Last-Update"]


@pytest.mark.parametrize("case", sorted(REGISTER))
def test_register(case: str, http: httpx.Client, server: Server, runner: Runner, project: Any) -> None:
    """Each request of `register`: verify, the legacy registration, taking a manager back."""
    registration, legacy = project.runners_token, ""
    for record in REGISTER[case]:
        if "json" not in record:
            continue  # where a redirect led to that this GitLab never sends
        path, token = record["path"], record["json"].get("token", "")
        bad, refused = "BAD" in token or record["recorded_answer"] == 403, (403,)
        if not path.startswith("/api/v4/"):
            path = path[path.index("/api/v4/") :] if "/api/v4/" in path else "/api/v4/runners/verify"
        if record["method"] == "POST" and path == "/api/v4/runners":
            answer = send(http, record, path, token="GR1348941wrongwrongwrong0" if bad else registration)
            assert answer.status_code == (403 if bad else 201)
            if not bad:
                legacy = answer.json()["token"]
                shown = server.gl.runners.get(answer.json()["id"])
                assert shown.description == record["json"]["description"]
        elif bad:
            assert send(http, record, path, token="glrt-wrongwrongwrongwrong").status_code in refused
        else:
            answer = send(http, record, path, token=legacy or runner.token)
            assert answer.status_code == (204 if record["method"] == "DELETE" else 200)
            if answer.status_code == 200:
                assert answer.json()["id"] > 0
                assert answer.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("case", sorted(CLI))
def test_command(case: str, http: httpx.Client, server: Server, project: Any) -> None:
    """`verify`, `unregister` and `reset-token`; a token that GitLab doesn't know is 403 everywhere."""
    for record in CLI[case]:
        wanted = {"runner_type": "project_type", "project_id": project.id, "tag_list": ["replay"]}
        token, system_id = server.gl.user.runners.create(wanted).token, record["json"].get("system_id")
        if system_id and record["method"] == "DELETE":
            body = {"token": token, "system_id": system_id}
            assert http.post("/api/v4/runners/verify", json=body).status_code == 200
        if record["recorded_answer"] in (403, 404):
            token = "glrt-wrongwrongwrongwrong"
        answer = send(http, record, record["path"], token=token)
        expected = {"DELETE": 204, "POST": 201 if "reset" in record["path"] else 200}[record["method"]]
        assert answer.status_code == (403 if "wrong" in token else expected)


def test_git_authentication(http: httpx.Client, running_job: dict[str, Any], project: Any) -> None:
    path = f"/{project.path_with_namespace}.git/info/refs?service=git-upload-pack"
    anonymous, basic = PROTOCOL["git-over-http"][:2]
    answer = http.get(path, headers=anonymous["headers"])
    assert answer.status_code == 401
    assert "www-authenticate" in answer.headers
    credentials = base64.b64encode(f"gitlab-ci-token:{running_job['token']}".encode()).decode()
    answer = http.get(path, headers={**basic["headers"], "Authorization": f"Basic {credentials}"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-git-upload-pack-advertisement"
    assert answer.content.startswith(b"000eversion 2\n")


def test_registry_authentication(embedded: Callable[..., Server]) -> None:
    """docker, containerd and skopeo ask for tokens; each gets one, containerd's POST a 404 first."""
    server = embedded(registry_host="registry.test")
    credentials = base64.b64encode(f"root:{server.token}".encode()).decode()
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        for record in PROTOCOL["registry-jwt-auth"]:
            headers = dict(record["headers"])
            if "Authorization" in headers:
                headers["Authorization"] = f"Basic {credentials}"
            body = record.get("body", "").encode()
            answer = http.request(record["method"], record["path"], content=body, headers=headers)
            assert answer.status_code == (404 if record["method"] == "POST" else 200)
            if answer.status_code == 200:
                assert answer.json()["token"].count(".") == 2
