"""A PriorityClass for jobs' pods, so that a full node evicts them last. An example of a layer."""

from __future__ import annotations

from harness.kube import Object
from harness.stack import Layer, StackContext
from harness.stack.common import apply_all

NAME = "priority"
KIND = "scheduling.k8s.io/v1/PriorityClass"

_MANIFEST: Object = {
    "apiVersion": "scheduling.k8s.io/v1",
    "kind": "PriorityClass",
    "metadata": {"name": "runner-conformance-jobs"},
    "value": 1000,
}


def install(ctx: StackContext) -> None:
    """Apply the PriorityClass; it is of use as soon as it is stored."""
    apply_all(ctx, NAME, [_MANIFEST])
    ctx.progress(NAME, f"{_MANIFEST['metadata']['name']} stored")


def ready(ctx: StackContext) -> str | None:
    """One look: None where the PriorityClass is there."""
    name = _MANIFEST["metadata"]["name"]
    return None if ctx.kube.get(KIND, name) is not None else f"PriorityClass {name} is absent"


LAYER = Layer(name=NAME, install=install, ready=ready, kinds=(KIND,))
