"""The proxies of the environment: what goes through them, and what must not."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from harness import proxy
from harness.errors import EnvironmentProblem
from harness.gitlab.patient import PatientGitlab
from harness.gitlab.registry_client import RegistryClient
from harness.kube import Kube
from harness.web import WebProblem


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on this host that says yes to everything, while the environment names a proxy that is dead."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"username": "root", "id": 1, "tags": ["v1"]}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    for name in (*proxy.VARIABLES, *map(str.lower, proxy.VARIABLES)):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_gitlab_here_is_asked_directly(own: str) -> None:
    client = PatientGitlab(own, "glpat-0123456789", True)
    client.auth()
    assert client.user is not None


def test_a_registry_here_is_asked_directly(own: str) -> None:
    with RegistryClient(own) as client:
        assert client.tags("root/demo") == ["v1"]


def test_an_api_server_here_is_asked_directly(own: str, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": own}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
        "current-context": "c",
    }
    kubeconfig.write_text(yaml.safe_dump(document))
    assert Kube(kubeconfig).request("GET", "/version")["id"] == 1


def test_what_is_elsewhere_goes_through_the_proxy(own: str) -> None:
    with (
        RegistryClient("http://192.0.2.1", between_attempts_s=0) as client,
        pytest.raises(WebProblem) as caught,
    ):
        client.tags("library/alpine")
    assert "192.0.2.1" in caught.value.message  # the proxy is dead: it was not reached at all
    assert "refused" in caught.value.message


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("https://10.99.3.2:6443", True),
        ("http://localhost:5000", True),
        ("127.0.0.1:80", True),
        ("https://[::1]/", True),
        ("https://10.98.3.2", False),
        ("https://gitlab.example.com", False),
        ("", False),
    ],
)
def test_own_is_what_a_run_makes_on_this_host(url: str, own: bool) -> None:
    assert proxy.is_own(url) is own


def test_a_node_gets_the_proxies_and_what_it_must_reach_directly() -> None:
    found = proxy.for_node(
        {"https_proxy": "http://proxy.example.com:3128", "NO_PROXY": "intranet.example.com"}
    )
    assert found["HTTPS_PROXY"] == "http://proxy.example.com:3128"
    assert found["NO_PROXY"].split(",")[0] == "intranet.example.com"
    assert {"10.99.0.0/16", "10.42.0.0/16", "10.43.0.0/16", ".svc"} <= set(found["NO_PROXY"].split(","))
    assert proxy.for_node({"NO_PROXY": "x"}) == {}


def test_a_proxy_on_loopback_is_refused_since_no_node_reaches_it() -> None:
    with pytest.raises(EnvironmentProblem, match="loopback"):
        proxy.for_node({"HTTPS_PROXY": "http://127.0.0.1:3128"})
