"""The webhooks and the metrics page."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Object = dict[str, Any]
CERTIFICATES = Path("/tmp/k8s-webhook-server/serving-certs")
ADMISSION_PATHS = ("/mutate-apps-gitlab-com-v1beta2-runner", "/validate-apps-gitlab-com-v1beta2-runner")


def admit(review: Object) -> Object:
    """Let everything pass: 1.15.1 has one version of Runner, and its schema is checked by the API server."""
    response = {"uid": review["request"]["uid"], "allowed": True}
    return {"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response}


def convert(review: Object) -> Object:
    """Runners in the version asked for: with one version there is nothing else to change."""
    request = review["request"]
    converted = [{**item, "apiVersion": request["desiredAPIVersion"]} for item in request["objects"]]
    response = {"uid": request["uid"], "convertedObjects": converted, "result": {"status": "Success"}}
    return {"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response}


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds a kept connection may be idle

    def reply(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Requests are not logged."""


class _Webhooks(_Quiet):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = convert if self.path.startswith("/convert") else admit
        if self.path.split("?")[0] not in (*ADMISSION_PATHS, "/convert"):
            self.reply(404, "text/plain", b"404 page not found\n")
            return
        try:
            self.reply(200, "application/json", json.dumps(answer(json.loads(body))).encode())
        except (ValueError, KeyError, TypeError) as error:
            self.reply(400, "text/plain", f"not a review: {error!r}\n".encode())


class _TlsServer(ThreadingHTTPServer):
    """Shakes hands in the connection's own thread, so that a silent client holds nobody up."""

    daemon_threads = True

    def __init__(self, port: int, certificates: Path) -> None:
        super().__init__(("", port), _Webhooks)
        self._certificate, self._key = certificates / "tls.crt", certificates / "tls.key"
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._loaded = 0
        self._load()

    def _load(self) -> None:
        """The kubelet renews the mounted files when OLM has made a new certificate."""
        changed = self._certificate.stat().st_mtime_ns
        if changed != self._loaded:
            self._context.load_cert_chain(self._certificate, self._key)
            self._loaded = changed

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(10)
        try:
            self._load()
            with self._context.wrap_socket(request, server_side=True) as tls:
                self.RequestHandlerClass(tls, client_address, self)
        except OSError:
            pass  # a client that gave up or doesn't trust us; it knows why


def serve_webhooks(port: int = 9443, certificates: Path = CERTIFICATES) -> ThreadingHTTPServer | None:
    """Serve on ``port`` with the mounted certificate; None, and no server, where none is mounted."""
    if not (certificates / "tls.crt").is_file():
        return None
    server = _TlsServer(port, certificates)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def serve_metrics(address: str, render: Callable[[], str]) -> None:
    """Serve ``render()`` at http://<address>/metrics. ``address`` is host:port, host may be empty."""

    class Metrics(_Quiet):
        def do_GET(self) -> None:
            if self.path.split("?")[0] == "/metrics":
                self.reply(200, "text/plain; version=0.0.4; charset=utf-8", render().encode())
            else:
                self.reply(404, "text/plain; charset=utf-8", b"404 page not found\n")

    host, port = address.rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Metrics)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
