"""A GitLab for one recording: it gives the recorded answers in order, and keeps what it was asked.

The recordings (recordings/runner/) are what gitlab-runner 16.0.1 sent to a throw-away server and what that
answered. Only requests of the runner API are replayed; git goes to a real repository when one is given.
"""

import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RECORDED_BASE = "http://10.99.0.1:8080"
_COMMAND = b"\x1b[32;1m$ "  # how a job's log shows a command before it runs
_ORDINARY: dict[str, Mapping[str, Any]] = {
    "POST": {"status": 204, "headers": {}},
    "PATCH": {
        "status": 202,
        "headers": {"Content-Type": "text/plain", "Job-Status": "running"},
        "body": "202",
    },
    "PUT": {
        "status": 200,
        "headers": {"Content-Type": "application/json", "Job-Status": "running"},
        "body": "200",
    },
}


@dataclass
class Request:
    """One request as it came; `t` in seconds since the server started."""

    t: float
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    answer: Mapping[str, Any]

    @property
    def json(self) -> Any:
        """The body as JSON, None when it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass
class Replay:
    """Answers are used in order, for each method and path; then those of a GitLab without news."""

    records: Sequence[Mapping[str, Any]]
    rewrite: Mapping[str, str] = field(default_factory=dict)
    address: str = "127.0.0.1"
    repositories: Path | None = None
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> "Replay":
        self._queues: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for record in self.records:
            key = "", _job(record["path"])
            if record["method"] not in ("PATCH", "PUT"):
                key = record["method"], _bare(record["path"])
            self._queues.setdefault(key, []).append(record)
        self.script_runs: float | None = None  # since when, in seconds since the start
        self._accepted: dict[str, int] = {}
        kept = [r for r in self.records if r["method"] == "PATCH" and r["answer"]["status"] == 202]
        self._whole = kept[-1]["answer"].get("headers", {}).get("Range") if kept else None
        self.started = time.monotonic()
        self._lock = threading.Lock()
        replay = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                replay.answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer((self.address, 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def base(self) -> str:
        """URL of this server."""
        return f"http://{self.address}:{self._server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Keep one request and give the next recorded answer for it."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        if self.repositories and "/git-upload-pack" in handler.path + handler.path.replace("?service=", "/"):
            _git(handler, body, self.repositories)
            return
        with self._lock:
            t = time.monotonic() - self.started
            answer = self._next(handler.command, handler.path)
            headers = dict(handler.headers)
            if answer["status"] == 202 and "Content-Range" in headers:
                self._accepted[_job(handler.path)] = int(headers["Content-Range"].partition("-")[2]) + 1
                if _COMMAND in body and self.script_runs is None:
                    self.script_runs = t
            self.requests.append(Request(t, handler.command, handler.path, headers, body, answer))
        data = json.dumps(answer["json"]) if "json" in answer else answer.get("body") or ""
        for old, new in {RECORDED_BASE: self.base, **self.rewrite}.items():
            data = data.replace(old, new)
        handler.send_response(answer["status"])
        for name, value in answer.get("headers", {}).items():
            handler.send_header(name, value.replace(RECORDED_BASE, self.base))
        if answer["status"] != 204:
            handler.send_header("Content-Length", str(len(data.encode())))
        handler.end_headers()
        if answer["status"] != 204:
            handler.wfile.write(data.encode())

    def _next(self, method: str, path: str) -> Mapping[str, Any]:
        """The next recorded answer; patches may be more or fewer than recorded, updates keep their place."""
        queue = self._queues.get(
            ("", _job(path)) if method in ("PATCH", "PUT") else (method, _bare(path)), []
        )
        if method == "PUT":
            while queue and queue[0]["method"] == "PATCH" and _is_plain(queue[0]["answer"]):
                queue.pop(0)
        early = (
            method == "PATCH" and not self.script_runs
        )  # odd answers came while the job's own commands ran
        if queue and queue[0]["method"] == method and not (early and not _is_plain(queue[0]["answer"])):
            answer: Mapping[str, Any] = queue.pop(0)["answer"]
            if answer["status"] == 416 and answer.get("headers", {}).get("Range") == self._whole:
                size = self._accepted.get(_job(path), 0)  # "you have sent it all", in this run's bytes
                answer = {**answer, "headers": {**answer["headers"], "Range": f"0-{size}"}}
            return answer
        return _ORDINARY.get(method, _ORDINARY["POST"])

    def done(self) -> bool:
        """Whether every recorded answer was given."""
        with self._lock:
            return not any(self._queues.values())


def _bare(path: str) -> str:
    return path.partition("?")[0]


def _job(path: str) -> str:
    return _bare(path).removesuffix("/trace")


def _is_plain(answer: Mapping[str, Any]) -> bool:
    return answer["status"] == 202 and answer.get("headers", {}).get("Job-Status", "running") == "running"


def _git(handler: BaseHTTPRequestHandler, body: bytes, root: Path) -> None:
    """git's own http-backend, behind the 401 that makes a client send its credentials."""
    path, _, query = handler.path.partition("?")
    if "Authorization" not in handler.headers:
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", 'Basic realm="GitLab"')
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    environment = os.environ | {
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "REQUEST_METHOD": handler.command,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_TYPE": handler.headers.get("Content-Type") or "",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": handler.headers.get("Content-Encoding") or "",
        "GIT_PROTOCOL": handler.headers.get("Git-Protocol") or "",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    done = subprocess.run(
        ["git", "http-backend"], input=body, env=environment, capture_output=True, check=True
    )
    head, _, data = done.stdout.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
    handler.send_response(int(headers.pop("Status", "200").split()[0]))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
