"""Breakages of what surrounds the stack: policy, rights, node, registry, API; and some of the stack's own.

Each says the rule that must explain it and who is at fault; most of them are no fault of the product.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509

from harness.artifacts.registry_server import RegistryServer
from harness.cluster import K3sCluster
from harness.gitlab.certificates import issue
from harness.kube import Kube, Object
from harness.wait import wait_for
from selftests.faults.steps import stop_registry
from selftests.faults.ways import DEPLOYMENT, Break, Breakage, Stacks, created, image, node, patch, scaled

CHECKS = "runner-conformance-checks"
CERT_MANAGER = "cert-manager"
CONTROLLER = "cert-manager"
CAINJECTOR = "cert-manager-cainjector"
ENVIRONMENT, PRODUCT = "environment", "product"
_SHOWS_WITHIN_S = 60.0


def quota(namespace: str) -> Break:
    spec = {"hard": {"pods": "0"}}
    return created(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": spec}, namespace
    )


def limit_range(namespace: str, kind: str = "Container", **limits: Any) -> Break:
    """Of ``kind`` Pod it refuses; of a container's minimum Kubernetes makes the request that it lacks."""
    spec = {"limits": [{"type": kind, **limits}]}
    return created(
        {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "narrow"}, "spec": spec}, namespace
    )


def labelled(namespace: str, key: str, value: str) -> Break:
    def change(text: str | None) -> Object:
        return {"metadata": {"labels": {key: text}}}

    return patch("v1/Namespace", namespace, None, change(value), change(None))


def dead_webhook(namespace: str) -> Break:
    """Somebody else's webhook on pods of the namespace, with nobody behind it."""
    return created(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "somebody-elses"},
            "webhooks": [
                {
                    "name": "policy.example.org",
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "timeoutSeconds": 3,
                    "failurePolicy": "Fail",
                    "clientConfig": {"service": {"name": "absent", "namespace": "default"}},
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                    "rules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["pods"],
                        }
                    ],
                }
            ],
        }
    )


def taint(key: str) -> Break:
    taints = [{"key": key, "value": "true", "effect": "NoSchedule"}]
    return node({"spec": {"taints": taints}}, {"spec": {"taints": None}})


def with_pod_gone(broken: Break, namespace: str, label: str, settled: Callable[[Object], bool]) -> Break:
    """Broken, and then the pods with the label deleted, so that others have to be made; once it shows."""

    @contextmanager
    def both(stacks: Stacks) -> Iterator[None]:
        with broken(stacks):
            for pod in stacks.kube.list("v1/Pod", namespace, label_selector=label):
                stacks.kube.delete("v1/Pod", pod["metadata"]["name"], namespace)
            _shows(stacks, namespace, label, settled)
            yield
        _rolled_out(stacks, namespace, label)

    return both


def _shows(stacks: Stacks, namespace: str, label: str, settled: Callable[[Object], bool]) -> None:
    wait_for(
        lambda: stacks.kube.list(DEPLOYMENT, namespace, label_selector=label),
        ready=lambda found: any(settled(it) for it in found),
        what=f"the fault shows on {label}",
        timeout_s=_SHOWS_WITHIN_S,
    )


def _rolled_out(stacks: Stacks, namespace: str, label: str) -> None:
    """Wait until it is whole again; a ReplicaSet tries with growing pauses, hence the touch."""
    for it in stacks.kube.list("apps/v1/ReplicaSet", namespace, label_selector=label):
        note = {"metadata": {"annotations": {"touched": "yes"}}}
        stacks.kube.patch("apps/v1/ReplicaSet", it["metadata"]["name"], namespace, note)
    wait_for(
        lambda: stacks.kube.list(DEPLOYMENT, namespace, label_selector=label),
        ready=lambda found: all(it.get("status", {}).get("availableReplicas") for it in found),
        what=f"{label} in {namespace} is whole again",
        timeout_s=120,
    )


def refused(deployment: Object) -> bool:
    """The Deployment says that its pods are refused."""
    conditions = deployment.get("status", {}).get("conditions") or ()
    return any(it["type"] == "ReplicaFailure" and it["status"] == "True" for it in conditions)


def unavailable(deployment: Object) -> bool:
    return not deployment.get("status", {}).get("availableReplicas")


INJECTOR = "app=cainjector"


def registry_answers(status: int, text: str, headers: dict[str, str] | None = None) -> Break:
    """In the mirror's place somebody answers everything with ``status``; a pod needs an image meanwhile."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text.encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    @contextmanager
    def broken(stacks: Stacks) -> Iterator[None]:
        cluster = stacks.stack.cluster
        assert isinstance(cluster, K3sCluster)
        config = stop_registry(cluster)
        address, port = _listens_on(config)
        try:
            with ThreadingHTTPServer((address, port), Handler) as server:
                threading.Thread(target=server.serve_forever, daemon=True).start()
                try:
                    with _another_image(stacks):
                        yield
                finally:
                    server.shutdown()
        finally:
            _restart(stacks, config, address, port)

    return broken


@contextmanager
def _registry_gone(stacks: Stacks) -> Iterator[None]:
    cluster = stacks.stack.cluster
    assert isinstance(cluster, K3sCluster)
    config = stop_registry(cluster)
    try:
        with _another_image(stacks):
            yield
    finally:
        _restart(stacks, config, *_listens_on(config))


@contextmanager
def _another_image(stacks: Stacks) -> Iterator[None]:
    """cainjector asks for an image that is not on the node, and its pull has failed."""
    with image(CAINJECTOR, CERT_MANAGER)(stacks):
        wait_for(
            lambda: stacks.kube.list("v1/Pod", CERT_MANAGER, label_selector=INJECTOR),
            ready=lambda pods: any(_pull_failed(pod) for pod in pods),
            what="a pull fails",
            timeout_s=_SHOWS_WITHIN_S,
        )
        yield
    _rolled_out(stacks, CERT_MANAGER, INJECTOR)


def _pull_failed(pod: Object) -> bool:
    states = [it.get("state", {}) for it in pod.get("status", {}).get("containerStatuses") or ()]
    return any(it.get("waiting", {}).get("reason") in ("ErrImagePull", "ImagePullBackOff") for it in states)


def _listens_on(config: Path) -> tuple[str, int]:
    found = re.search(r"addr: (\S+):(\d+)", config.read_text())
    assert found, f"{config} names no address"
    return found.group(1), int(found.group(2))


_SERVERS: list[RegistryServer] = []
"""Registries started again: they live as long as this process, which takes the stack down at its end."""


def _restart(stacks: Stacks, config: Path, address: str, port: int) -> None:
    artifacts: Any = stacks.stack.artifacts
    root = artifacts.bundle.path
    server = RegistryServer(
        root / "files/registry", root / "registry", address, port, state_dir=config.parent
    )
    server.start()
    _SERVERS.append(server)


def kubeconfig(change: Callable[[str, Stacks], str]) -> Break:
    """The kubeconfig that the suite uses says something else."""

    @contextmanager
    def broken(stacks: Stacks) -> Iterator[None]:
        path = stacks.stack.cluster.kubeconfig
        before = path.read_text()
        path.write_text(change(before, stacks))
        try:
            yield
        finally:
            path.write_text(before)

    return broken


def _nobody_there(text: str, stacks: Stacks) -> str:
    return re.sub(r"(server: \S+):\d+", r"\1:9", text)


def _other_authority(text: str, stacks: Stacks) -> str:
    other = issue("127.0.0.1", "another").authority
    assert x509.load_pem_x509_certificate(other.encode())
    encoded = base64.b64encode(other.encode()).decode()
    return re.sub(r"certificate-authority-data: \S+", f"certificate-authority-data: {encoded}", text)


def _with_token(text: str, token: str) -> str:
    text = re.sub(r"\n\s*client-key-data: \S+", "", text)
    return re.sub(r"client-certificate-data: \S+", f"token: {token}", text)


def _wrong_token(text: str, stacks: Stacks) -> str:
    return _with_token(text, "no-token-of-this-cluster")


def _viewer(text: str, stacks: Stacks) -> str:
    kube, name = stacks.kube, "looks-only"
    kube.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": CHECKS}}
    )
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    kube.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": CHECKS}],
        }
    )
    path = f"/api/v1/namespaces/{CHECKS}/serviceaccounts/{name}/token"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    return _with_token(text, kube.request("POST", path, body=asked)["status"]["token"])


@contextmanager
def _gitlab_refuses(stacks: Stacks) -> Iterator[None]:
    """What this machine knows as GitLab's address refuses connections; pods and GitLab are well."""
    record = stacks.stack.state_dir / "gitlab" / "process.json"
    before = record.read_text()
    record.write_text(re.sub(r"(https?://[^:\"]+):\d+", r"\1:9", before))
    try:
        yield
    finally:
        record.write_text(before)


@contextmanager
def _evicted(stacks: Stacks) -> Iterator[None]:
    """cert-manager's controller writes more than it may: the kubelet evicts it, and leaves the Failed pod."""
    kube, cluster = stacks.kube, stacks.stack.cluster
    assert isinstance(cluster, K3sCluster)
    kube.patch(DEPLOYMENT, CONTROLLER, CERT_MANAGER, _ephemeral_storage("1Mi"))
    name, uid = _await_pod(kube, "the limit is in force", lambda it: _ready(it) and _is_limited(it))
    logs = f"/var/log/pods/{CERT_MANAGER}_{name}_{uid}"
    done = cluster.node_shell(["dd", "if=/dev/zero", f"of={logs}/much", "bs=1M", "count=8"])
    assert done.returncode == 0, done.stderr
    _await_pod(kube, "the kubelet evicts it", lambda it: it["status"].get("reason") == "Evicted")
    _await_pod(kube, "another runs in its place", _ready)
    try:
        yield
    finally:
        kube.delete("v1/Pod", name, CERT_MANAGER)
        kube.patch(DEPLOYMENT, CONTROLLER, CERT_MANAGER, _ephemeral_storage(None))
        _await_pod(kube, "the limit is gone", lambda it: _ready(it) and not _is_limited(it))


def _ephemeral_storage(limit: str | None) -> list[Object]:
    path = "/spec/template/spec/containers/0/resources"
    value = {"limits": {"ephemeral-storage": limit}} if limit else {}
    return [{"op": "add", "path": path, "value": value}]


def _await_pod(kube: Kube, what: str, settled: Callable[[Object], bool]) -> tuple[str, str]:
    """Name and uid of a pod of the controller for which it is so."""
    found = wait_for(
        lambda: [
            it for it in kube.list("v1/Pod", CERT_MANAGER, label_selector="app=cert-manager") if settled(it)
        ],
        ready=bool,
        what=what,
        timeout_s=_SHOWS_WITHIN_S,
    )
    return found[0]["metadata"]["name"], found[0]["metadata"]["uid"]


def _is_limited(pod: Object) -> bool:
    resources = pod["spec"]["containers"][0].get("resources") or {}
    return "ephemeral-storage" in (resources.get("limits") or {})


def _ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)


def _pods(what: str, rule: str, words: str, broken: Break, **more: Any) -> Breakage:
    """A breakage that a pod of the suite's own meets."""
    return Breakage(what, {"cluster/pod-runs": words}, broken, rule=rule, blame=ENVIRONMENT, **more)


def _injector(what: str, rule: str, words: str, broken: Break, blame: str = ENVIRONMENT) -> Breakage:
    """A breakage that cert-manager's cainjector meets when its pod has to be made anew."""
    return Breakage(what, {"cert-manager/deployments": words}, broken, rule=rule, blame=blame)


def _mirror(what: str, rule: str, words: str, broken: Break, blame: str = ENVIRONMENT) -> Breakage:
    return Breakage(f"the mirror {what}", {"cert-manager/deployments": words}, broken, rule=rule, blame=blame)


SURROUNDINGS: tuple[Breakage, ...] = (
    _pods("a LimitRange whose minimum the pod is below", "admission/limit-range", "minimum cpu usage",
          limit_range(CHECKS, "Pod", min={"cpu": "2"})),
    _pods("a LimitRange that asks for 512 GiB", "schedule/insufficient", "Insufficient memory",
          limit_range(CHECKS, defaultRequest={"memory": "512Gi"}, default={"memory": "512Gi"}), limit_s=60.0),
    _pods("Pod Security `restricted` on the checks", "admission/pod-security", "violates PodSecurity",
          labelled(CHECKS, "pod-security.kubernetes.io/enforce", "restricted")),
    _pods("somebody else's webhook on pods, with nobody behind it", "admission/foreign-webhook-silent",
          r"policy\.example\.org", dead_webhook(CHECKS)),
    _pods("the node tainted", "schedule/taint", "untolerated taint", taint("example.org/ours-alone")),
    _pods("the node cordoned, seen by a pod", "schedule/cordoned", "unschedulable",
          node({"spec": {"unschedulable": True}}, {"spec": {"unschedulable": None}})),
    _pods("a kubeconfig whose user may only look", "admission/forbidden", "cannot create resource",
          kubeconfig(_viewer)),
    Breakage("a kubeconfig with a token that nobody knows", {"cluster/node-ready": "401"},
             kubeconfig(_wrong_token), rule="api/unauthorized", blame=ENVIRONMENT),
    Breakage("a kubeconfig that leads to a closed port", {"cluster/node-ready": "refused"},
             kubeconfig(_nobody_there), rule="api/unreachable", blame=ENVIRONMENT),
    Breakage("a kubeconfig with another CA", {"cluster/node-ready": "certificate"},
             kubeconfig(_other_authority), rule="api/certificate", blame=ENVIRONMENT),
    _injector("a ResourceQuota of no pods in cert-manager", "admission/quota", "exceeded quota",
              with_pod_gone(quota(CERT_MANAGER), CERT_MANAGER, INJECTOR, refused)),
    _injector("a LimitRange in cert-manager", "admission/limit-range", "minimum cpu usage",
              with_pod_gone(limit_range(CERT_MANAGER, "Pod", min={"cpu": "2"}),
                            CERT_MANAGER, INJECTOR, refused)),
    _injector("Pod Security `restricted` in cert-manager", "admission/pod-security", "violates PodSecurity",
              with_pod_gone(labelled(CERT_MANAGER, "pod-security.kubernetes.io/enforce", "restricted"),
                            CERT_MANAGER, INJECTOR, refused)),
    _injector("somebody else's webhook on cert-manager's pods", "admission/foreign-webhook-silent",
              r"policy\.example\.org",
              with_pod_gone(dead_webhook(CERT_MANAGER), CERT_MANAGER, INJECTOR, refused)),
    _injector("the node tainted under cert-manager", "schedule/taint", "untolerated taint",
              with_pod_gone(taint("example.org/ours-alone"), CERT_MANAGER, INJECTOR, unavailable)),
    _injector("Deployment cert-manager-cainjector scaled to 0", "container/scaled-down", "0 replicas",
              scaled(CAINJECTOR, CERT_MANAGER), PRODUCT),
    _injector("cainjector with an image that is not there", "pull/not-found", "not found",
              _another_image, PRODUCT),
    _mirror("limits the rate", "pull/rate-limited", "429", registry_answers(429, "toomanyrequests")),
    _mirror("refuses (401)", "pull/denied", "401|authorization|Unauthorized", registry_answers(401, "no")),
    _mirror("refuses (403)", "pull/denied", "403", registry_answers(403, "denied")),
    _mirror("wants a proxy login", "pull/proxy-login", "407", registry_answers(407, "login")),
    _mirror("answers 500", "pull/registry-error", "500", registry_answers(500, "oops")),
    _mirror("answers 503", "pull/registry-error", "503", registry_answers(503, "busy")),
    _mirror("is gone", "pull/unreachable", "connection refused", _registry_gone),
    Breakage("Deployment olm-operator scaled to 0", {"olm/rolled-out": "0 replicas"},
             scaled("olm-operator", "olm"), rule="container/scaled-down", blame=PRODUCT),
    Breakage("the embedded GitLab refuses connections", {"runner/online": "can.t be reached"},
             _gitlab_refuses, rule="gitlab/unreachable", blame=ENVIRONMENT, limit_s=15.0),
    Breakage("an evicted pod beside the one that took its place", {}, _evicted,
             green=("cert-manager/deployments", "cert-manager/certificate-issued")),
)  # fmt: skip
