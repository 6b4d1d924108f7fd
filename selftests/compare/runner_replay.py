"""A GitLab for one recording: it gives the recorded answers in order, and keeps what it was asked.

The recordings (recordings/runner/) are what gitlab-runner 16.0.1 sent to a throw-away server and what that server
answered. Only requests of the runner API are replayed; git goes to a real repository when one is given.
"""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RECORDED_BASE = "http://10.99.0.1:8080"


@dataclass
class Request:
    """One request as it came; `t` in seconds since the server started."""

    t: float
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON, None when it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass
class Replay:
    """`answers` are consumed in order, one list for each (method, path without query); 204 when a list is used up."""

    records: Sequence[Mapping[str, Any]]
    rewrite: Mapping[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> "Replay":
        self._queues: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for record in self.records:
            self._queues.setdefault((record["method"], _bare(record["path"])), []).append(record["answer"])
        self._started = time.monotonic()
        self._lock = threading.Lock()
        replay = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                replay.answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def base(self) -> str:
        """URL of this server."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Keep one request and give the next recorded answer for it."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self._lock:
            t = time.monotonic() - self._started
            self.requests.append(Request(t, handler.command, handler.path, dict(handler.headers), body))
            waiting = self._queues.get((handler.command, _bare(handler.path)), [])
            answer = waiting.pop(0) if waiting else {"status": 204, "headers": {}}
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

    def done(self) -> bool:
        """Whether every recorded answer was given."""
        with self._lock:
            return not any(self._queues.values())


def _bare(path: str) -> str:
    return path.partition("?")[0]
