"""A proxy before a GitLab that fails as the test says: statuses, lost answers, slowness."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from harness.gitlab.client import GitLabTarget
from selftests.gitlab.conftest import trust

_HOP_BY_HOP = (
    "connection",
    "transfer-encoding",
    "content-length",
    "content-encoding",
    "host",
    "accept-encoding",
)


@dataclass(frozen=True)
class Fault:
    """What happens to a request instead of (``after`` False) or after being passed on."""

    status: int = 0
    """0: the connection is cut without an answer."""
    after: bool = False
    headers: dict[str, str] = field(default_factory=dict)


Choose = Callable[[str, str, int], Fault | None]
"""(method, path, how often this method and path came before) → what goes wrong, or None."""


@contextmanager
def flaky_proxy(target: GitLabTarget, choose: Choose) -> Iterator[tuple[str, list[str]]]:
    """A proxy's URL, and the list of requests ("GET /path") that arrived so far."""
    seen: list[str] = []
    behind = httpx.Client(base_url=target.url, verify=trust(target.ca_file), trust_env=False, timeout=60)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _pass(self) -> None:
            path = self.path.split("?")[0]
            name = f"{self.command} {path}"
            before = seen.count(name)
            seen.append(name)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = choose(self.command, path, before)
            if fault is None or fault.after:
                kept = {key: value for key, value in self.headers.items() if key.lower() not in _HOP_BY_HOP}
                answer = behind.request(self.command, self.path, content=body, headers=kept)
                if fault is None:
                    self._answer(answer.status_code, dict(answer.headers), answer.content)
                    return
            if fault.status == 0:
                self.close_connection = True
                self.connection.close()
                return
            self._answer(fault.status, fault.headers, b'{"message": "injected"}')

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for key, value in headers.items():
                if key.lower() not in _HOP_BY_HOP:
                    self.send_header(key, value)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if status != 204:
                self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        behind.close()
        server.server_close()
        thread.join()
