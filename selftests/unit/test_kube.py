"""Kube against a small HTTP server that answers as an API server does, and sometimes as a failing one."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.errors import Blame, EnvironmentProblem
from harness.gitlab.certificates import issue
from harness.kube import ApiError, ApiUnreachable, KindUnknown, Kube, WatchExpired

CORE = {"resources": [{"name": "pods", "kind": "Pod", "namespaced": True}]}
CSV_GROUP = {"preferredVersion": {"groupVersion": "operators.coreos.com/v1alpha1"}}
CSV_KIND = {"name": "clusterserviceversions", "kind": "ClusterServiceVersion", "namespaced": True}
CSVS = {"resources": [CSV_KIND, {**CSV_KIND, "name": "clusterserviceversions/status"}]}
POD = {"metadata": {"name": "p", "namespace": "ns"}}


def refusal(code: int, reason: str, message: str) -> tuple[int, object]:
    return code, {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


class Api:
    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "GET /api/v1": CORE,
            "GET /apis/operators.coreos.com": CSV_GROUP,
            "GET /apis/operators.coreos.com/v1alpha1": CSVS,
        }
        self.asked: list[tuple[str, str, bytes]] = []
        self.watch: Callable[[Callable[[object], None]], None] = lambda send: None
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                path, _, query = self.path.partition("?")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                api.asked.append((f"{self.command} {path}", query, body))
                if "watch=true" in query:
                    self.stream()
                    return
                found = api.answers.get(f"{self.command} {path}", refusal(404, "NotFound", "not found"))
                if isinstance(found, list):
                    found = found.pop(0)
                code, content = found if isinstance(found, tuple) else (200, found)
                data = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do_DELETE = answer

            def stream(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()

                def send(event: object) -> None:
                    data = json.dumps(event).encode() + b"\n"
                    self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                    self.wfile.flush()

                api.watch(send)
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def count(self, request: str) -> int:
        return sum(1 for asked, _, _ in self.asked if asked == request)


@pytest.fixture
def api() -> Iterator[Api]:
    one = Api()
    yield one
    one.server.shutdown()
    one.server.server_close()


def kube_at(port: int, folder: Path, scheme: str = "http") -> Kube:
    path = folder / "kubeconfig"
    path.write_text(
        "{apiVersion: v1, kind: Config, current-context: x, users: [{name: u, user: {token: t}}],\n"
        f" clusters: [{{name: c, cluster: {{server: '{scheme}://127.0.0.1:{port}'}}}}],\n"
        " contexts: [{name: x, context: {cluster: c, user: u}}]}"
    )
    return Kube(path)


@pytest.fixture
def kube(api: Api, tmp_path: Path) -> Kube:
    return kube_at(api.server.server_port, tmp_path)


def test_discovery_is_asked_once_and_knows_both_ways_to_name_a_kind(api: Api, kube: Kube) -> None:
    path = "GET /apis/operators.coreos.com/v1alpha1/namespaces/olm/clusterserviceversions/x"
    api.answers[path] = {"metadata": {"name": "x"}}
    for _ in range(2):
        assert kube.get("operators.coreos.com/v1alpha1/ClusterServiceVersion", "x", "olm")
    assert kube.get("clusterserviceversions.operators.coreos.com", "x", "olm")
    assert api.count("GET /apis/operators.coreos.com/v1alpha1") == 2


def test_absent_is_none_and_an_unserved_kind_is_said(kube: Kube) -> None:
    assert kube.get("v1/Pod", "p", "ns") is None
    assert kube.get("runners.apps.gitlab.com", "r", "ns") is None
    assert kube.delete("v1/Pod", "p", "ns") is False
    with pytest.raises(KindUnknown):
        kube.list("apps.gitlab.com/v1beta2/Runner")


def test_a_kind_that_appears_later_is_found(api: Api, kube: Kube) -> None:
    assert kube.get("apps.gitlab.com/v1beta2/Runner", "r", "ns") is None
    runners = {"name": "runners", "kind": "Runner", "namespaced": True}
    api.answers["GET /apis/apps.gitlab.com/v1beta2"] = {"resources": [runners]}
    api.answers["GET /apis/apps.gitlab.com/v1beta2/namespaces/ns/runners/r"] = POD
    assert kube.get("apps.gitlab.com/v1beta2/Runner", "r", "ns") == POD


def test_an_overloaded_server_is_asked_again_but_never_to_create(api: Api, kube: Kube) -> None:
    busy = refusal(503, "ServiceUnavailable", "starting")
    api.answers["GET /api/v1/namespaces/ns/pods/p"] = [busy, busy, POD]
    assert kube.get("v1/Pod", "p", "ns") == POD
    api.answers["POST /api/v1/namespaces/ns/pods"] = [busy, POD]
    with pytest.raises(ApiError) as caught:
        kube.create({"apiVersion": "v1", "kind": "Pod", **POD})
    assert caught.value.transient
    assert api.count("POST /api/v1/namespaces/ns/pods") == 1


def test_apply_is_server_side_and_ours(api: Api, kube: Kube) -> None:
    api.answers["PATCH /api/v1/namespaces/ns/pods/p"] = POD
    kube.apply({"apiVersion": "v1", "kind": "Pod", **POD}, dry_run=True)
    _, query, body = api.asked[-1]
    assert set(query.split("&")) == {"fieldManager=runner-conformance", "force=true", "dryRun=All"}
    assert json.loads(body)["metadata"] == POD["metadata"]


def test_refusals_carry_the_servers_words_and_blame(api: Api, kube: Kube) -> None:
    path = "PATCH /api/v1/namespaces/ns/pods/p"
    pod = {"apiVersion": "v1", "kind": "Pod", **POD}
    webhook = 'failed calling webhook "vrunner.kb.io": connection refused'
    for answer, blame in (
        (refusal(422, "Invalid", "spec.containers: Required value"), Blame.PRODUCT),
        (refusal(500, "InternalError", webhook), Blame.PRODUCT),
        (refusal(500, "InternalError", "etcdserver: request timed out"), Blame.ENVIRONMENT),
        (refusal(401, "Unauthorized", "Unauthorized"), Blame.ENVIRONMENT),
    ):
        api.answers[path] = answer
        with pytest.raises(ApiError) as caught:
            kube.apply(pod)
        assert answer[1]["message"] in str(caught.value)  # type: ignore[index]
        assert caught.value.blame is blame


def test_nobody_there_is_the_environments_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.kube_retry.again", lambda attempt: attempt())
    with pytest.raises(ApiUnreachable, match="refused") as caught:
        kube_at(1, tmp_path).list("v1/Pod")
    assert caught.value.exit_code == 10


def test_a_kubeconfig_of_no_use_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="kubeconfig"):
        Kube(tmp_path / "none")
    (tmp_path / "bad").write_text("clusters: 1")
    with pytest.raises(EnvironmentProblem, match="kubeconfig"):
        Kube(tmp_path / "bad")


def test_list_items_carry_their_type(api: Api, kube: Kube) -> None:
    api.answers["GET /api/v1/namespaces/ns/pods"] = {
        "metadata": {"resourceVersion": "7"},
        "items": [dict(POD)],
    }
    items, version = kube.list_with_version("pods", "ns", label_selector="a=b")
    assert (items[0]["kind"], items[0]["apiVersion"], version) == ("Pod", "v1", "7")
    assert api.asked[-1][1] == "labelSelector=a%3Db"


def test_watch_gives_changes_and_says_when_to_list_again(api: Api, kube: Kube) -> None:
    def feed(send: Callable[[object], None]) -> None:
        send({"type": "ADDED", "object": POD})
        send({"type": "BOOKMARK", "object": {}})
        send({"type": "ERROR", "object": {"code": 410, "message": "too old"}})

    api.watch = feed
    changes = iter(kube.watch("v1/Pod", "ns", resource_version="1", timeout_s=5))
    assert next(changes) == ("ADDED", POD)
    with pytest.raises(WatchExpired, match="too old"):
        next(changes)


def test_watch_is_stopped_from_another_thread(api: Api, kube: Kube) -> None:
    api.watch = lambda send: time.sleep(20)
    watch = kube.watch("v1/Pod", "ns", resource_version="1", timeout_s=20)
    threading.Timer(0.2, watch.stop).start()
    begin = time.monotonic()
    assert list(watch) == []
    assert time.monotonic() - begin < 5


def test_a_certificate_that_is_not_trusted_is_told_at_once(tmp_path: Path) -> None:
    """Asking again for 15 s, as while a server restarts, changes nothing about it."""
    made = issue("127.0.0.1", "somebody")
    files = tmp_path / "tls.crt", tmp_path / "tls.key"
    for path, text in zip(files, (made.certificate, made.key), strict=True):
        path.write_text(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    one = Api()
    one.server.socket = context.wrap_socket(one.server.socket, server_side=True)
    kube = kube_at(one.server.server_port, tmp_path, scheme="https")
    begun = time.monotonic()
    with pytest.raises(ApiUnreachable, match="certificate verify failed") as caught:
        kube.request("GET", "/version")
    one.server.shutdown()
    one.server.server_close()
    assert caught.value.reason_id == "api/certificate"
    assert time.monotonic() - begun < 5


def test_a_handshake_that_is_cut_off_is_no_matter_of_certificates() -> None:
    """A server that is killed in the middle of one is back in seconds."""
    cut = ApiUnreachable("SSLError: [SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred", doing="GET /version")
    assert cut.reason_id == "api/unreachable"
    assert cut.transient
