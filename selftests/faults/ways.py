"""Ways to break a kept stack and to undo it again.

Each works on the running objects, as somebody with kubectl, a shell on the node or a GitLab token could.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fixtures.steps.base_image import registry_client
from harness.artifacts.bundle import Bundle
from harness.attach import attach
from harness.gitlab.client import GitLabSession, GitLabTarget, Made, connect
from harness.kube import Kube, Object
from harness.stack import StackContext
from harness.stack.runner import RUNNER_NAME, SECRET_NAME

CRD = "apiextensions.k8s.io/v1/CustomResourceDefinition"
CSV = "operators.coreos.com/v1alpha1/ClusterServiceVersion"
DEPLOYMENT = "apps/v1/Deployment"
RUNNER_KIND = "apps.gitlab.com/v1beta2/Runner"
CONFIG_MAP = "v1/ConfigMap"
SUBSCRIPTION = "operators.coreos.com/v1alpha1/Subscription"
OPERATOR_CSV = "gitlab-runner-operator.v1.15.1"
VARIANTS = {"pipeline/dind": "dind", "pipeline/dind-tls": "dind", "docker-sock/build": "docker-sock"}
VARIANTS["daemonless/build"] = "plain"


@dataclass(frozen=True)
class Stacks:
    """The kept stack, and the one beside it."""

    stack: StackContext
    steps: Path

    @cached_property
    def second(self) -> StackContext:
        """Attached to when it is asked for: not every fault needs it."""
        return attach(f"{self.stack.name}-b")

    @property
    def kube(self) -> Kube:
        return self.stack.kube

    @property
    def target(self) -> GitLabTarget:
        found: GitLabTarget = self.stack.results["gitlab"]
        return found

    def setup(self, name: str) -> dict[str, Any]:
        """What a runner set-up made."""
        found: dict[str, Any] = json.loads((self.steps / f"runner-{name}.json").read_text())["result"]
        return found


def open_stacks(name: str) -> Stacks:
    """The kept stack ``name`` and the one that a whole run made beside it."""
    stack = attach(name)
    return Stacks(stack, stack.state_dir / "steps")


LIMIT_S = 45.0
"""No fault may take longer to be named, from the first look at it."""

Break = Callable[[Stacks], AbstractContextManager[None]]


@dataclass(frozen=True)
class Breakage:
    """``red``: outcome → what its reason must say (a regular expression).

    ``rule`` must explain it, ``blame`` must be at fault (either may be left open); ``green`` are outcomes
    that must pass all the same; ``limit_s``: how long a test may look until it is red, in seconds.
    """

    what: str
    red: dict[str, str]
    break_it: Break
    rule: str = ""
    blame: str = ""
    green: tuple[str, ...] = ()
    limit_s: float = LIMIT_S


def patch(kind: str, name: str, namespace: str | None, do: Any, undo: Any, *, second: bool = False) -> Break:
    @contextmanager
    def broken(stacks: Stacks) -> Iterator[None]:
        kube = stacks.second.kube if second else stacks.kube
        kube.patch(kind, name, namespace, do)
        try:
            yield
        finally:
            kube.patch(kind, name, namespace, undo)

    return broken


def node(do: Object, undo: Object) -> Break:
    @contextmanager
    def broken(stacks: Stacks) -> Iterator[None]:
        (node,) = stacks.kube.list("v1/Node")
        name = node["metadata"]["name"]
        stacks.kube.patch("v1/Node", name, None, do)
        try:
            yield
        finally:
            stacks.kube.patch("v1/Node", name, None, undo)

    return broken


@contextmanager
def old_api_server(stacks: Stacks) -> Iterator[None]:
    """The kubeconfig leads to an API server that says it is of a version before the how-to's minimum."""

    class Old(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            version = self.path.split("?")[0] == "/version"
            body = json.dumps({"gitVersion": "v1.20.15"} if version else {"kind": "Status"}).encode()
            self.send_response(200 if version else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    kubeconfig = stacks.stack.cluster.kubeconfig
    before = kubeconfig.read_text()
    with ThreadingHTTPServer(("127.0.0.1", 0), Old) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = f"http://127.0.0.1:{server.server_address[1]}"
        kubeconfig.write_text(re.sub(r"server: \S+", f"server: {there}", before))
        try:
            yield
        finally:
            kubeconfig.write_text(before)
            server.shutdown()


def created(manifest: Object, namespace: str | None = None) -> Break:
    @contextmanager
    def broken(stacks: Stacks) -> Iterator[None]:
        stacks.kube.create(manifest, namespace)
        try:
            yield
        finally:
            version, name = manifest["apiVersion"], manifest["metadata"]["name"]
            stacks.kube.delete(f"{version}/{manifest['kind']}", name, namespace)

    return broken


def deleted(kind: str, name: str, namespace: str | None = None, *, second: bool = False) -> Break:
    """Deleted, and put back as it was."""

    @contextmanager
    def broken(stacks: Stacks) -> Iterator[None]:
        kube = stacks.second.kube if second else stacks.kube
        before = kube.get(kind, name, namespace)
        assert before is not None, f"{kind} {name} is not there to be deleted"
        kube.delete(kind, name, namespace)
        try:
            yield
        finally:
            for key in ("resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"):
                before["metadata"].pop(key, None)
            before.pop("status", None)
            kube.apply(before, namespace)

    return broken


def promised(component: str) -> Break:
    """The bundle promises another version than runs."""

    @contextmanager
    def broken(stacks: Stacks) -> Iterator[None]:
        bundle: Bundle = stacks.stack.artifacts.bundle  # type: ignore[attr-defined]
        listing = bundle.path / "bundle.toml"
        before = listing.with_name("bundle.toml.before")
        shutil.copy2(listing, before)
        wanted = bundle.components[component].stands_for or bundle.components[component].version
        changed = replace(bundle.components[component], version="v9.9.9", stands_for=wanted)
        replace(bundle, components={**bundle.components, component: changed}).write()
        try:
            yield
        finally:
            before.replace(listing)

    return broken


def in_runner_pod(setup: str, do: str, undo: str) -> Break:
    """A shell command in the Runner's pod."""

    @contextmanager
    def broken(stacks: Stacks) -> Iterator[None]:
        namespace = stacks.setup(setup)["namespace"]
        pods = stacks.kube.list("v1/Pod", namespace)
        (pod,) = [
            it
            for it in pods
            if it["metadata"]["name"].startswith(f"{RUNNER_NAME}-runner-")
            and not it["metadata"].get("deletionTimestamp")
        ]

        def run(script: str) -> None:
            done = stacks.kube.exec(
                pod["metadata"]["name"], namespace, ["sh", "-c", script], container="runner"
            )
            assert done.code == 0, done.stderr

        run(do)
        try:
            yield
        finally:
            run(undo)

    return broken


def runner_in_gitlab(setup: str, do: dict[str, Any], undo: dict[str, Any], wait_s: float = 0) -> Break:
    """The runner changed through GitLab's API."""

    @contextmanager
    def broken(stacks: Stacks) -> Iterator[None]:
        gl, runner = connect(stacks.target), stacks.setup(setup)["runner_id"]
        gl.http_put(f"/runners/{runner}", post_data=do)
        try:
            yield
        finally:
            gl.http_put(f"/runners/{runner}", post_data=undo)

    return broken


@contextmanager
def other_image_pushed(stacks: Stacks) -> Iterator[None]:
    """Somebody else pushes the base image under the tags of all builds."""
    put_back = []
    for prefix, setup in VARIANTS.items():
        made = stacks.setup(setup)
        tag = "v1.0.0-tls" if prefix.endswith("tls") else "v1.0.0"
        session = GitLabSession(stacks.target, stacks.stack.run_id, made=Made(project_id=made["project_id"]))
        client, repository = registry_client(session), made["image"].split("/", 1)[1]
        put_back.append((client, repository, tag, client.manifest(repository, tag)))
        base = client.manifest(f"{repository}/base", "latest")
        for digest in base.blobs:
            if not client.has_blob(repository, digest):
                client.put_blob(repository, digest, client.blob(f"{repository}/base", digest))
        client.put_manifest(repository, tag, base)
    try:
        yield
    finally:
        for client, repository, tag, manifest in put_back:
            client.put_manifest(repository, tag, manifest)
            client.close()


@contextmanager
def runners_forgotten(stacks: Stacks) -> Iterator[None]:
    """The runners of the builds are removed from GitLab; not undone."""
    gl = connect(stacks.target)
    for setup in sorted(set(VARIANTS.values())):
        gl.http_delete(f"/runners/{stacks.setup(setup)['runner_id']}")
    yield


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@contextmanager
def plrt_token(stacks: Stacks) -> Iterator[None]:
    """The Secret holds the token that the how-to's slip of the pen describes."""
    namespace = stacks.setup("how-to")["namespace"]
    before = (stacks.kube.get("v1/Secret", SECRET_NAME, namespace) or {})["data"]
    changed = {"data": dict.fromkeys(before, encoded("plrt-of-the-how-to"))}
    with patch("v1/Secret", SECRET_NAME, namespace, changed, {"data": before})(stacks):
        yield


@contextmanager
def empty_token(stacks: Stacks) -> Iterator[None]:
    namespace = stacks.setup("how-to")["namespace"]
    before = (stacks.kube.get("v1/Secret", SECRET_NAME, namespace) or {})["data"]
    emptied = {"data": dict.fromkeys(before, "")}
    with patch("v1/Secret", SECRET_NAME, namespace, emptied, {"data": before})(stacks):
        yield


def image(deployment: str, namespace: str, *, second: bool = False, container: int = 0) -> Break:
    """The Deployment asks for an image that is in no registry."""

    @contextmanager
    def broken(stacks: Stacks) -> Iterator[None]:
        kube = stacks.second.kube if second else stacks.kube
        path = f"/spec/template/spec/containers/{container}/image"
        found = kube.get(DEPLOYMENT, deployment, namespace)
        assert found is not None
        before = found["spec"]["template"]["spec"]["containers"][container]["image"]
        with patch(
            DEPLOYMENT,
            deployment,
            namespace,
            [{"op": "replace", "path": path, "value": "docker.io/library/alpine:no-such-tag"}],
            [{"op": "replace", "path": path, "value": before}],
            second=second,
        )(stacks):
            yield

    return broken


def scaled(deployment: str, namespace: str, *, second: bool = False) -> Break:
    none, one = {"spec": {"replicas": 0}}, {"spec": {"replicas": 1}}
    return patch(DEPLOYMENT, deployment, namespace, none, one, second=second)


def unattended(broken: Break) -> Break:
    """With OLM of the second cluster asleep, which may else mend it before anybody looks."""

    @contextmanager
    def both(stacks: Stacks) -> Iterator[None]:
        with scaled("olm-operator", "olm", second=True)(stacks), broken(stacks):
            yield

    return both
