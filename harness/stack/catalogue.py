"""All layers by name, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Mapping

from harness.stack import Layer, cert_manager, images, olm, operator

LAYERS: Mapping[str, Layer] = {
    layer.name: layer
    for layer in (
        images.LAYER,
        cert_manager.LAYER,
        olm.CONTROLLERS_LAYER,
        olm.LAYER,
        operator.LAYER,
    )
}
