"""The kube-rbac-proxy stand-in over real TLS connections; only the API server's answers are given."""

from __future__ import annotations

import importlib.util
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

SCRIPT = Path(__file__).parents[2] / "lab/standins/kube_rbac_proxy/kube-rbac-proxy"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    loader = SourceFileLoader("kube_rbac_proxy", str(SCRIPT))
    spec = importlib.util.spec_from_loader("kube_rbac_proxy", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def context(program: ModuleType) -> ssl.SSLContext:
    """The self-signed certificate that the proxy makes when it is given none; making a key takes a while."""
    made: ssl.SSLContext = program.certificate("", "")
    return made


class Upstream(BaseHTTPRequestHandler):
    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        self.seen.append(dict(self.headers))
        body = b"metric 1\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Upstream", "yes")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


class Cluster:
    """What the API server knows: token → user, and who may what. Counts the questions."""

    def __init__(self) -> None:
        self.users = {"good": "scraper", "poor": "nobody"}
        self.allowed = {("scraper", "get", "/metrics")}
        self.asked: list[str] = []
        self.down = False

    def post(self, _group: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(kind)
        if self.down:
            raise ConnectionRefusedError("refused")
        if kind == "TokenReview":
            user = self.users.get(spec["token"])
            if user is None:
                return {"user": {}, "error": "invalid bearer token"}
            return {"authenticated": True, "user": {"username": user}}
        what = spec["nonResourceAttributes"]
        return {"allowed": (spec["user"], what["verb"], what["path"]) in self.allowed}


class Proxied:
    def __init__(self, client: httpx.Client, cluster: Cluster, upstream: ThreadingHTTPServer) -> None:
        self.client, self.cluster, self.upstream = client, cluster, upstream
        self.seen: list[dict[str, str]] = []

    def get(self, token: str | None = None, path: str = "/metrics", method: str = "GET") -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.client.request(method, path, headers=headers)


@pytest.fixture
def proxied(
    program: ModuleType, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Proxied]:
    cluster = Cluster()
    seen: list[dict[str, str]] = []
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Upstream,), {"seen": seen}))
    reviews = object.__new__(program.Reviews)
    reviews._known, reviews._post = {}, cluster.post
    url = program.urllib.parse.urlsplit(f"http://127.0.0.1:{upstream.server_port}/")
    monkeypatch.setattr(program.Proxy, "reviews", reviews, raising=False)
    monkeypatch.setattr(program.Proxy, "upstream", url, raising=False)
    server = program.TlsServer(("127.0.0.1", 0), program.Proxy)
    server.context = context
    for each in (upstream, server):
        threading.Thread(target=each.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    with httpx.Client(base_url=f"https://127.0.0.1:{server.server_port}", verify=False) as client:
        found = Proxied(client, cluster, upstream)
        found.seen = seen
        yield found
    for each in (server, upstream):
        each.shutdown()
        each.server_close()


def test_no_token_and_unknown_token_are_unauthorized(proxied: Proxied) -> None:
    for token in (None, "unknown"):
        answer = proxied.get(token)
        assert (answer.status_code, answer.text) == (401, "Unauthorized\n")
    assert proxied.seen == []


def test_without_a_token_nobody_is_asked(proxied: Proxied) -> None:
    proxied.get()
    assert proxied.cluster.asked == []


def test_user_without_the_right_is_forbidden(proxied: Proxied) -> None:
    answer = proxied.get("poor")
    assert answer.status_code == 403
    assert answer.text == "Forbidden (user=nobody, verb=get, resource=, subresource=)\n"


@pytest.mark.parametrize(("method", "path"), [("GET", "/other"), ("POST", "/metrics"), ("HEAD", "/metrics")])
def test_the_right_is_for_verb_and_path(proxied: Proxied, method: str, path: str) -> None:
    assert proxied.get("good", path, method).status_code == 403


def test_permitted_request_reaches_the_upstream_without_the_token(proxied: Proxied) -> None:
    answer = proxied.get("good")
    assert (answer.status_code, answer.text, answer.headers["X-Upstream"]) == (200, "metric 1\n", "yes")
    (headers,) = proxied.seen
    assert "Authorization" not in headers


def test_answers_are_remembered(proxied: Proxied) -> None:
    for _ in range(3):
        proxied.get("good")
    assert proxied.cluster.asked == ["TokenReview", "SubjectAccessReview"]


def test_a_dead_upstream_is_a_bad_gateway(proxied: Proxied, capfd: pytest.CaptureFixture[str]) -> None:
    proxied.upstream.shutdown()
    proxied.upstream.server_close()
    assert proxied.get("good").status_code == 502
    assert "http: proxy error: dial tcp 127.0.0.1:" in capfd.readouterr().err


def test_an_api_server_that_is_down_lets_nobody_in(proxied: Proxied) -> None:
    proxied.cluster.down = True
    assert proxied.get("good").status_code == 401


def test_a_silent_client_holds_nobody_up(proxied: Proxied) -> None:
    url = proxied.client.base_url
    with socket.create_connection((url.host, url.port or 0)):
        assert proxied.get("good").status_code == 200
