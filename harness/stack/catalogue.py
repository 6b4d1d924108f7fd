"""All layers by name, in the order in which they are shown, and as steps of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from harness.graph import Step
from harness.stack import (
    Layer,
    cert_manager,
    default_runner,
    gitlab,
    images,
    olm,
    operator,
    registry,
)

CLUSTER = "cluster"
"""The step that every layer needs."""

LAYERS: Mapping[str, Layer] = {
    layer.name: layer
    for layer in (
        images.LAYER,
        cert_manager.LAYER,
        olm.CONTROLLERS_LAYER,
        olm.LAYER,
        gitlab.LAYER,
        registry.LAYER,
        operator.LAYER,
        default_runner.LAYER,
    )
}


def layer_steps(do: Callable[[Layer], None]) -> dict[str, Step[object]]:
    """A step for each layer that does ``do`` with it: install it, or look whether it is there."""
    return {
        layer.name: Step(layer.name, partial(do, layer), layer.needs or (CLUSTER,))
        for layer in LAYERS.values()
    }
