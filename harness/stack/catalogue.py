"""All layers by name, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Mapping

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
        gitlab.LAYER,
        registry.LAYER,
        default_runner.LAYER,
    )
}
