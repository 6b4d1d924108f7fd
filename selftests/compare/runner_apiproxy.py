"""A plain HTTP door to an API server that notes every call: what a runner asks of Kubernetes."""

import base64
import contextlib
import http.client
import select
import socket
import ssl
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

_VERBS = {"POST": "create", "GET": "get", "PUT": "update", "DELETE": "delete", "PATCH": "patch"}
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class ApiProxy:
    """Forwards to the cluster of a kubeconfig with its credentials; `calls`: [verb, resource, code, …]."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._target = urlsplit(cluster["server"]).netloc
        ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._context = ssl.create_default_context(cadata=ca)
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]) + b"\n")
            pair.write(base64.b64decode(user["client-key-data"]))
            pair.flush()
            self._context.load_cert_chain(pair.name)
        self.calls: list[list[Any]] = []

    def __enter__(self) -> "ApiProxy":
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                proxy.forward(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _any

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig that leads here."""
        path = folder / "kubeconfig"
        server = f"http://127.0.0.1:{self._server.server_port}"
        path.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
            f"clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\n"
            "contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n"
        )
        return path

    def forward(self, handler: BaseHTTPRequestHandler) -> None:
        """One call: note it, pass it on, and the answer back."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        connection = http.client.HTTPSConnection(self._target, context=self._context, timeout=60)
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in ("host", "accept-encoding")}
        with contextlib.closing(connection):
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            self.calls.append(_call(handler.command, handler.path, answer.status))
            handler.send_response(answer.status)
            if answer.status == 101:
                for name, value in answer.getheaders():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.flush()
                assert connection.sock is not None
                _relay(handler.connection, connection.sock)
                handler.close_connection = True
                return
            data = answer.read()
            for name, value in answer.getheaders():
                if name.lower() not in _HOP:
                    handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)


def _relay(one: socket.socket, other: socket.socket) -> None:
    ends = {one: other, other: one}
    with contextlib.suppress(OSError):
        while True:
            pending = [s for s in ends if isinstance(s, ssl.SSLSocket) and s.pending()]
            for ready in pending or select.select(list(ends), [], [])[0]:
                data = ready.recv(65536)
                if not data:
                    return
                ends[ready].sendall(data)


def _call(method: str, path: str, code: int) -> list[Any]:
    parts = urlsplit(path)
    names = parts.path.split("/")[3:]  # after /api/v1
    resource = names[2] + (f"/{names[4]}" if len(names) > 4 else "")
    call: list[Any] = [_VERBS[method], resource, code]
    query = parse_qs(parts.query)
    if "container" in query:
        command = query.get("command", [])
        call += [query["container"][0], ["sh"] if command[:1] == ["sh"] else command[:2]]
    return call
