"""Breakages of a kept stack, one at a time and undone again: which outcomes each turns red, and their reason.

Each works on the running objects, as somebody with kubectl, a shell on the node or a GitLab token could.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fixtures.base_image import registry_client
from fixtures.runner import CONFIG_TOML
from fixtures.scenes import CONFIG, RUNNER, SECRET
from harness.artifacts.bundle import Bundle
from harness.gitlab.client import GitLabSession, GitLabTarget, Made, connect
from harness.kube import Kube, Object
from harness.session import attach
from harness.stack import StackContext
from harness.stack.runner import TOKEN_KEY

CRD = "apiextensions.k8s.io/v1/CustomResourceDefinition"
CSV = "operators.coreos.com/v1alpha1/ClusterServiceVersion"
DEPLOYMENT = "apps/v1/Deployment"
RUNNER_KIND = "apps.gitlab.com/v1beta2/Runner"
CONFIG_MAP = "v1/ConfigMap"
OPERATOR_CSV = "gitlab-runner-operator.v1.15.1"
VARIANTS = {"pipeline/dind": "dind", "pipeline/dind-tls": "dind", "docker-sock/build": "docker-sock"}
VARIANTS["daemonless/build"] = "plain"


@dataclass(frozen=True)
class World:
    """The kept stack, and the one beside it."""

    stack: StackContext
    second: StackContext
    stage: Path

    @property
    def kube(self) -> Kube:
        return self.stack.kube

    @property
    def target(self) -> GitLabTarget:
        found: GitLabTarget = self.stack.results["gitlab"]
        return found

    def scene(self, name: str) -> dict[str, Any]:
        """What a scene made."""
        found: dict[str, Any] = json.loads((self.stage / f"runner-{name}.json").read_text())["result"]
        return found


def open_world(name: str) -> World:
    """The kept stack ``name`` and the one that a whole run made beside it."""
    stack = attach(name)
    return World(stack, attach(f"{name}-b"), stack.state_dir / "stage")


Break = Callable[[World], AbstractContextManager[None]]


@dataclass(frozen=True)
class Breakage:
    """``red``: outcome → what its reason must say (a regular expression)."""

    what: str
    red: dict[str, str]
    break_it: Break


def _patch(kind: str, name: str, namespace: str | None, do: Any, undo: Any, *, second: bool = False) -> Break:
    @contextmanager
    def broken(world: World) -> Iterator[None]:
        kube = world.second.kube if second else world.kube
        kube.patch(kind, name, namespace, do)
        try:
            yield
        finally:
            kube.patch(kind, name, namespace, undo)

    return broken


def _node(do: Object, undo: Object) -> Break:
    @contextmanager
    def broken(world: World) -> Iterator[None]:
        (node,) = world.kube.list("v1/Node")
        name = node["metadata"]["name"]
        world.kube.patch("v1/Node", name, None, do)
        try:
            yield
        finally:
            world.kube.patch("v1/Node", name, None, undo)

    return broken


def _created(manifest: Object, namespace: str | None = None) -> Break:
    @contextmanager
    def broken(world: World) -> Iterator[None]:
        world.kube.create(manifest, namespace)
        try:
            yield
        finally:
            version, name = manifest["apiVersion"], manifest["metadata"]["name"]
            world.kube.delete(f"{version}/{manifest['kind']}", name, namespace)

    return broken


def _deleted(kind: str, name: str, namespace: str | None = None, *, second: bool = False) -> Break:
    """Deleted, and put back as it was."""

    @contextmanager
    def broken(world: World) -> Iterator[None]:
        kube = world.second.kube if second else world.kube
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


def _promised(component: str) -> Break:
    """The bundle promises another version than runs."""

    @contextmanager
    def broken(world: World) -> Iterator[None]:
        bundle: Bundle = world.stack.artifacts.bundle  # type: ignore[attr-defined]
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


def _in_runner_pod(scene: str, do: str, undo: str) -> Break:
    """A shell command in the Runner's pod."""

    @contextmanager
    def broken(world: World) -> Iterator[None]:
        namespace = world.scene(scene)["namespace"]
        pods = world.kube.list("v1/Pod", namespace)
        (pod,) = [
            it
            for it in pods
            if it["metadata"]["name"].startswith(f"{RUNNER}-runner-")
            and not it["metadata"].get("deletionTimestamp")
        ]

        def run(script: str) -> None:
            done = world.kube.exec(
                pod["metadata"]["name"], namespace, ["sh", "-c", script], container="runner"
            )
            assert done.code == 0, done.stderr

        run(do)
        try:
            yield
        finally:
            run(undo)

    return broken


def _runner_in_gitlab(scene: str, do: dict[str, Any], undo: dict[str, Any], wait_s: float = 0) -> Break:
    """The runner changed through GitLab's API."""

    @contextmanager
    def broken(world: World) -> Iterator[None]:
        gl, runner = connect(world.target), world.scene(scene)["runner_id"]
        gl.http_put(f"/runners/{runner}", post_data=do)
        try:
            yield
        finally:
            gl.http_put(f"/runners/{runner}", post_data=undo)

    return broken


@contextmanager
def _other_image_pushed(world: World) -> Iterator[None]:
    """Somebody else pushes the base image under the tags of all builds."""
    put_back = []
    for prefix, scene in VARIANTS.items():
        made = world.scene(scene)
        tag = "v1.0.0-tls" if prefix.endswith("tls") else "v1.0.0"
        session = GitLabSession(world.target, world.stack.run_id, made=Made(project_id=made["project_id"]))
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
def _runners_forgotten(world: World) -> Iterator[None]:
    """The runners of the builds are removed from GitLab; not undone."""
    gl = connect(world.target)
    for scene in sorted(set(VARIANTS.values())):
        gl.http_delete(f"/runners/{world.scene(scene)['runner_id']}")
    yield


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@contextmanager
def _plrt_token(world: World) -> Iterator[None]:
    """The Secret holds the token that the seed's slip of the pen describes."""
    namespace = world.scene("seed")["namespace"]
    before = (world.kube.get("v1/Secret", SECRET, namespace) or {})["data"][TOKEN_KEY]
    changed = {"data": {TOKEN_KEY: _encoded("plrt-of-the-how-to")}}
    with _patch("v1/Secret", SECRET, namespace, changed, {"data": {TOKEN_KEY: before}})(world):
        yield


@contextmanager
def _empty_token(world: World) -> Iterator[None]:
    namespace = world.scene("seed")["namespace"]
    before = (world.kube.get("v1/Secret", SECRET, namespace) or {})["data"][TOKEN_KEY]
    with _patch("v1/Secret", SECRET, namespace, {"data": {TOKEN_KEY: ""}}, {"data": {TOKEN_KEY: before}})(
        world
    ):
        yield


def _image(deployment: str, namespace: str, *, second: bool = False, container: int = 0) -> Break:
    """The Deployment asks for an image that is in no registry."""

    @contextmanager
    def broken(world: World) -> Iterator[None]:
        kube = world.second.kube if second else world.kube
        path = f"/spec/template/spec/containers/{container}/image"
        found = kube.get(DEPLOYMENT, deployment, namespace)
        assert found is not None
        before = found["spec"]["template"]["spec"]["containers"][container]["image"]
        with _patch(
            DEPLOYMENT,
            deployment,
            namespace,
            [{"op": "replace", "path": path, "value": "docker.io/library/alpine:no-such-tag"}],
            [{"op": "replace", "path": path, "value": before}],
            second=second,
        )(world):
            yield

    return broken


def _scaled(deployment: str, namespace: str, *, second: bool = False) -> Break:
    none, one = {"spec": {"replicas": 0}}, {"spec": {"replicas": 1}}
    return _patch(DEPLOYMENT, deployment, namespace, none, one, second=second)


def _unattended(broken: Break) -> Break:
    """With OLM of the second cluster asleep, which may else mend it before anybody looks."""

    @contextmanager
    def both(world: World) -> Iterator[None]:
        with _scaled("olm-operator", "olm", second=True)(world), broken(world):
            yield

    return both


_SOCKET_LINES = (
    r'[[runners.kubernetes.volumes.host_path]]\n name = "x"\n mount_path = "/x"\n host_path = "/x"\n'
)
_SAVE = f"cp {CONFIG_TOML} {CONFIG_TOML}.before; "
_RESTORE = f"cp {CONFIG_TOML}.before {CONFIG_TOML}"
_ROLE = "node-role.kubernetes.io/master"
_SCHEDULABLE = {"spec": {"unschedulable": None}}

BREAKAGES: tuple[Breakage, ...] = (
    Breakage(
        "node cordoned",
        {"cluster/node-ready": "is cordoned"},
        _node({"spec": {"unschedulable": True}}, _SCHEDULABLE),
    ),
    Breakage(
        "node without the label of role master",
        {"cluster/node-roles": r"has roles \['control-plane'\]"},
        _node({"metadata": {"labels": {_ROLE: None}}}, {"metadata": {"labels": {_ROLE: "true"}}}),
    ),
    Breakage(
        "a ResourceQuota of no pods in the checks' namespace",
        {"cluster/pod-runs": "exceeded quota"},
        _created(
            {
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": {"name": "none"},
                "spec": {"hard": {"pods": "0"}},
            },
            "runner-conformance-checks",
        ),
    ),
    Breakage(
        "the bundle promises another k3s",
        {
            "cluster/k3s-version": "k3s: asked for v9.9.9, found",
            "cluster/node-version": "k3s: asked for v9.9.9, found",
        },
        _promised("k3s"),
    ),
    Breakage(
        "the bundle promises another cert-manager",
        {"cert-manager/version": "cert-manager: asked for v9.9.9, found v1.7.1"},
        _promised("cert-manager"),
    ),
    Breakage(
        "the bundle promises another OLM",
        {"olm/packageserver": "olm: asked for v9.9.9, found v0.26.0"},
        _promised("olm"),
    ),
    Breakage(
        "the bundle promises another runner",
        {"runner/version": "runner: asked for v9.9.9, found 16.0.1"},
        _promised("runner"),
    ),
    Breakage(
        "CRD orders.acme.cert-manager.io deleted",
        {"cert-manager/crds": r"CRD orders\.acme\.cert-manager\.io: is not there"},
        _deleted(CRD, "orders.acme.cert-manager.io"),
    ),
    Breakage(
        "cert-manager's validating webhook with failurePolicy Ignore",
        {"cert-manager/webhook-configurations": r"failurePolicy: expected 'Fail', found 'Ignore'"},
        _patch(
            "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration",
            "cert-manager-webhook",
            None,
            [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}],
            [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"}],
        ),
    ),
    Breakage(
        "Deployment cert-manager-webhook scaled to 0",
        {"cert-manager/webhook-answers": "failed calling webhook"},
        _scaled("cert-manager-webhook", "cert-manager"),
    ),
    Breakage(
        "catalog-operator with an image that is not there",
        {"olm/rolled-out": "catalog-operator: old replicas are still there"},
        _image("catalog-operator", "olm"),
    ),
    Breakage(
        "CRD olmconfigs.operators.coreos.com deleted",
        {
            "olm/crds": r"CRD olmconfigs\.operators\.coreos\.com: is not there",
        },
        _deleted(CRD, "olmconfigs.operators.coreos.com"),
    ),
    Breakage(
        "the same CRD deleted: install.sh's `create` would get past it",
        {"olm/installed-once": "it was accepted, where a refusal is due"},
        _deleted(CRD, "olmconfigs.operators.coreos.com"),
    ),
    Breakage(
        "a second InstallPlan for the same CSV",
        {"operator/install-plan": r"plans for gitlab-runner-operator\.v1\.15\.1: 2"},
        _created(
            {
                "apiVersion": "operators.coreos.com/v1alpha1",
                "kind": "InstallPlan",
                "metadata": {"name": "install-again"},
                "spec": {
                    "approval": "Manual",
                    "approved": False,
                    "clusterServiceVersionNames": [OPERATOR_CSV],
                },
            },
            "operators",
        ),
    ),
    Breakage(
        "the CSV with another display name",
        {"operator/csv": r"spec\.displayName: expected 'GitLab Runner', found 'Other'"},
        _patch(
            CSV,
            OPERATOR_CSV,
            "operators",
            {"spec": {"displayName": "Other"}},
            {"spec": {"displayName": "GitLab Runner"}},
        ),
    ),
    Breakage(
        "a second OperatorGroup in the namespace",
        {"operator/csv-succeeded": "TooManyOperatorGroups"},
        _created(
            {
                "apiVersion": "operators.coreos.com/v1",
                "kind": "OperatorGroup",
                "metadata": {"name": "second"},
                "spec": {},
            },
            "operators",
        ),
    ),
    Breakage(
        "every service account may read metrics",
        {"operator/metrics": "no permission: HTTP 200"},
        _created(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "metrics-for-everyone"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "gitlab-runner-metrics-reader",
                },
                "subjects": [
                    {
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "Group",
                        "name": "system:serviceaccounts",
                    }
                ],
            }
        ),
    ),
    Breakage(
        "the Runner's Secret with a token that starts with plrt-",
        {"runner/token": "the token starts with 'plrt-'"},
        _plrt_token,
    ),
    Breakage(
        "the Runner's Secret with an empty token",
        {"runner/secret": rf"data\.{TOKEN_KEY}: expected something, found ''"},
        _empty_token,
    ),
    Breakage(
        "poll_timeout changed in the pod's config.toml",
        {"runner/config-toml": "poll_timeout: expected 180, found 181"},
        _in_runner_pod(
            "seed",
            _SAVE + f"sed 's/poll_timeout = 180/poll_timeout = 181/' {CONFIG_TOML}.before > {CONFIG_TOML}",
            _RESTORE,
        ),
    ),
    Breakage(
        "a host path in the default Runner's config.toml",
        {"docker-sock/absent-by-default": r"\[runners\.kubernetes\.volumes\] is .*'/x'"},
        _in_runner_pod("seed", _SAVE + f"printf '{_SOCKET_LINES}' >> {CONFIG_TOML}", _RESTORE),
    ),
    Breakage(
        "the socket's host path changed in the pod's config.toml",
        {"docker-sock/host-path": "has host paths .*/run/other.sock"},
        _in_runner_pod(
            "docker-sock",
            _SAVE
            + 'sed \'s#host_path = "/var/run/docker.sock"#host_path = "/run/other.sock"#\' '
            + f"{CONFIG_TOML}.before > {CONFIG_TOML}",
            _RESTORE,
        ),
    ),
    Breakage(
        "the Runner's buildImage changed",
        {"runner/accepted": r"spec\.buildImage: expected 'alpine', found 'busybox'"},
        _patch(
            RUNNER_KIND,
            RUNNER,
            "default",
            {"spec": {"buildImage": "busybox"}},
            {"spec": {"buildImage": "alpine"}},
        ),
    ),
    Breakage(
        "ConfigMap custom-config-toml with another key beside config.toml",
        {"docker-sock/config-map": "data: expected"},
        _patch(CONFIG_MAP, CONFIG, "runner-docker-sock", {"data": {"more": "x"}}, {"data": {"more": None}}),
    ),
    Breakage(
        "the runner's tag changed in GitLab",
        {"runner/online": r"its tags are \['another'\]"},
        _runner_in_gitlab("seed", {"tag_list": ["another"]}, {"tag_list": ["jh"]}),
    ),
    Breakage(
        "another image pushed under the builds' tags",
        {f"{prefix}/pushed": "the job pushed sha256:.*, the registry has sha256:" for prefix in VARIANTS},
        _other_image_pushed,
    ),
    Breakage(
        "the same, looked at without `pushed` before it",
        {f"{prefix}/content": "/greeting.txt holds None" for prefix in VARIANTS},
        _other_image_pushed,
    ),
    Breakage(
        "CRD olmconfigs.operators.coreos.com deleted on the second cluster",
        {"offline/olm": r"CRD olmconfigs\.operators\.coreos\.com: is not there"},
        _deleted(CRD, "olmconfigs.operators.coreos.com", second=True),
    ),
    Breakage(
        "the second cluster's operator with an image that is not there, and nobody to mend it",
        {"kube-rbac-proxy/lasts": r"kube-rbac-proxy\]\.image: expected"},
        _unattended(_image("gitlab-runner-controller-manager", "operators", second=True, container=0)),
    ),
    Breakage(
        "CatalogSource operatorhubio-catalog deleted",
        {"olm/package": "PackageManifest gitlab-runner-operator: is not there|offers|has channels"},
        _deleted("operators.coreos.com/v1alpha1/CatalogSource", "operatorhubio-catalog", "olm"),
    ),
    Breakage(
        "CRD runners.apps.gitlab.com no longer serves v1beta2",
        {"operator/crd": r"served: expected True, found False"},
        _patch(
            CRD,
            "runners.apps.gitlab.com",
            None,
            [{"op": "replace", "path": "/spec/versions/0/served", "value": False}],
            [{"op": "replace", "path": "/spec/versions/0/served", "value": True}],
        ),
    ),
    Breakage(
        "the Runner's ConfigMap with a seventh key",
        {"runner/config-map": "has keys"},
        _patch(
            CONFIG_MAP,
            f"{RUNNER}-runner-config",
            "default",
            {"data": {"seventh": "x"}},
            {"data": {"seventh": None}},
        ),
    ),
    Breakage(
        "the Runner no longer names the ConfigMap",
        {"docker-sock/runner": r"spec\.config: expected 'custom-config-toml', found"},
        _patch(
            RUNNER_KIND,
            RUNNER,
            "runner-docker-sock",
            {"spec": {"config": None}},
            {"spec": {"config": CONFIG}},
        ),
    ),
    Breakage(
        "the builds' runners removed from GitLab",
        {
            f"{prefix}/our-runner": "GitLab shows no runner for the job|it ran on runner"
            for prefix in VARIANTS
        },
        _runners_forgotten,
    ),
)
