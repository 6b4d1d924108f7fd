"""What several layers do alike: read manifests, apply them in order, wait for Deployments and CRDs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from harness.diagnose import Scope, scope_reason
from harness.diagnosis import Reason
from harness.errors import EnvironmentProblem
from harness.kube import Kube, Object
from harness.ownership import labels
from harness.stack import StackContext
from harness.wait import Watched, wait_for

CRD = "apiextensions.k8s.io/v1/CustomResourceDefinition"
DEPLOYMENT = "apps/v1/Deployment"
POD = "v1/Pod"

APPLY_THREADS = 4
"""Requests in flight for one layer; the API server of one node gains nothing from more."""

_FIRST = ("Namespace", "CustomResourceDefinition", "ServiceAccount", "ClusterRole", "Role")
_LAST = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


def load_manifests(path: Path) -> list[Object]:
    """The objects of a YAML file. Raises EnvironmentProblem for what is none (a captive portal's page)."""
    try:
        found = [document for document in yaml.load_all(path.read_text(), _LOADER) if document]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EnvironmentProblem(f"{path} is no YAML: {error}", "was it downloaded completely?") from None
    for document in found:
        if not isinstance(document, dict) or "kind" not in document or "metadata" not in document:
            raise EnvironmentProblem(
                f"{path} holds something that is no Kubernetes object", "is it the file?"
            )
    return found


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where it is there: cert-manager.yaml takes 3 s without."""


def owned(ctx: StackContext, manifest: Object) -> Object:
    """A copy that carries the run's id."""
    metadata = dict(manifest["metadata"])
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels(ctx.run_id)}
    return {**manifest, "metadata": metadata}


def apply_all(ctx: StackContext, layer: str, manifests: Iterable[Object]) -> int:
    """Apply everything, CRDs (and their being Established) before what may depend on them; how many."""
    everything = [owned(ctx, manifest) for manifest in manifests]
    groups: dict[int, list[Object]] = {}
    for manifest in everything:
        groups.setdefault(_rank(manifest), []).append(manifest)
    with ThreadPoolExecutor(APPLY_THREADS, thread_name_prefix=f"apply-{layer}") as pool:
        for _, group in sorted(groups.items()):
            list(pool.map(ctx.kube.apply, group))
            crds = [it["metadata"]["name"] for it in group if it["kind"] == "CustomResourceDefinition"]
            if crds:
                wait_established(ctx, layer, crds)
    return len(everything)


def _rank(manifest: Object) -> int:
    kind = manifest["kind"]
    if kind in _FIRST:
        return _FIRST.index(kind)
    return len(_FIRST) + (1 if kind in _LAST else 0)


def tell(ctx: StackContext, layer: str) -> Callable[[str], None]:
    """A progress function for the waits of one layer."""
    return lambda text: ctx.progress(layer, text)


def wait_established(ctx: StackContext, layer: str, names: Sequence[str], timeout_s: float = 60) -> None:
    """Wait until the CRDs are Established."""
    wanted = set(names)

    def missing() -> list[str]:
        found = ctx.kube.list(CRD)
        established = {it["metadata"]["name"] for it in found if condition(it, "Established") == "True"}
        return sorted(wanted - established)

    wait_for(
        missing,
        ready=lambda it: not it,
        what=f"{len(wanted)} CRDs Established",
        timeout_s=timeout_s,
        kube=ctx.kube,
        watch=[Watched(CRD)],
        describe=lambda it: f"missing: {', '.join(it)}" if it else "",
        progress=lambda text: None,
        cancelled=ctx.cancelled,
    )


def wait_deployment(
    ctx: StackContext, layer: str, namespace: str, name: str, timeout_s: float = 180
) -> Object:
    """Wait until a Deployment is rolled out, as `kubectl rollout status` sees it."""

    def read() -> Object | None:
        return ctx.kube.get(DEPLOYMENT, name, namespace)

    found = wait_for(
        read,
        ready=lambda it: it is not None and rolled_out(it) is None,
        hopeless=lambda it: deployment_hopeless(ctx, it),
        what=f"deployment {namespace}/{name}",
        timeout_s=timeout_s,
        kube=ctx.kube,
        watch=[Watched(DEPLOYMENT, namespace), Watched(POD, namespace)],
        progress=tell(ctx, layer),
        cancelled=ctx.cancelled,
    )
    assert found is not None  # ready() said so
    return found


def rolled_out(deployment: Mapping[str, Any]) -> str | None:
    """None when every replica is of the newest template and available, else what is missing."""
    status = deployment.get("status", {})
    wanted = deployment["spec"].get("replicas", 1)
    if not wanted:
        return "it asks for 0 replicas"
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 1):
        return "the newest template has not been observed"
    if status.get("updatedReplicas", 0) < wanted:
        return f"{status.get('updatedReplicas', 0)} of {wanted} replicas updated"
    if status.get("replicas", 0) > status.get("updatedReplicas", 0):
        return "old replicas are still there"
    if status.get("availableReplicas", 0) < wanted:
        return f"{status.get('availableReplicas', 0)} of {wanted} replicas available"
    return None


def deployment_hopeless(ctx: StackContext, deployment: Object | None) -> Reason | None:
    """Why a Deployment is not rolled out: its own conditions, and pods of its present template."""
    return deployment_reason(ctx.kube, deployment) if deployment is not None else None


def deployment_reason(kube: Kube, deployment: Object) -> Reason | None:
    """The reason why a Deployment's pods are not there or not ready, where one is known."""
    selector = ",".join(f"{k}={v}" for k, v in deployment["spec"]["selector"]["matchLabels"].items())
    return scope_reason(kube, Scope(deployment["metadata"]["namespace"], selector), deployment)


def condition(manifest: Mapping[str, Any], kind: str) -> str | None:
    """The status ("True", "False", "Unknown") of a condition, or None."""
    found = (it for it in manifest.get("status", {}).get("conditions") or () if it["type"] == kind)
    return next((str(it["status"]) for it in found), None)


def deployments_ready(ctx: StackContext, namespace: str, names: Sequence[str]) -> str | None:
    """One look: None when all are rolled out, else what is missing."""
    for name in names:
        deployment = ctx.kube.get(DEPLOYMENT, name, namespace)
        missing = "not there" if deployment is None else rolled_out(deployment)
        if missing:
            return f"deployment {namespace}/{name}: {missing}"
    return None
