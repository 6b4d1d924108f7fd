"""What is said of a kept stack, or of a cluster that was there before, whose layers are not ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fixtures.steps.stack import ExistingStack, KeptStack
from harness.errors import Blame, HarnessError
from harness.kube import ApiError
from harness.stack.catalogue import LAYERS


def look(kind: type[Any], layer: str, ready: Callable[[Any], str | None]) -> HarnessError:
    """The error of one look at a layer."""
    bare = type("Bare", (kind,), {"context": None, "name": "mine"})
    stack: Any = bare.__new__(bare)
    with pytest.raises(HarnessError) as caught:
        (stack._look if kind is KeptStack else stack._install)(replace(LAYERS[layer], ready=ready))
    return caught.value


def test_an_embedded_gitlab_that_is_gone_is_known() -> None:
    found = look(KeptStack, "gitlab", lambda ctx: "the embedded GitLab does not answer")
    assert (found.reason_id, found.blame) == ("gitlab/embedded", Blame.ENVIRONMENT)
    assert found.message.startswith("the kept stack mine has no gitlab that is ready: ")


def test_a_layer_that_is_not_ready_is_told_with_what_it_lacks() -> None:
    found = look(KeptStack, "olm", lambda ctx: "no packageserver")
    assert (found.blame, "no packageserver" in found.message) == (Blame.ENVIRONMENT, True)
    assert look(ExistingStack, "olm", lambda ctx: "no packageserver").blame is Blame.PRODUCT


@pytest.mark.parametrize("kind", [KeptStack, ExistingStack])
@pytest.mark.parametrize(
    ("status", "rule"), [(401, "api/unauthorized"), (403, "api/forbidden"), (500, "api/server-error")]
)
def test_an_api_that_can_not_say_it_is_not_the_products_fault(
    kind: type[Any], status: int, rule: str
) -> None:
    def ready(ctx: Any) -> str | None:
        raise ApiError(status, "x", "no", doing="GET /api")

    found = look(kind, "olm", ready)
    assert (found.reason_id, found.blame) == (rule, Blame.ENVIRONMENT)


def test_what_is_not_there_is_missing() -> None:
    def ready(ctx: Any) -> str | None:
        raise ApiError(404, "NotFound", "no such kind", doing="GET /apis/x")

    assert look(ExistingStack, "olm", ready).blame is Blame.PRODUCT
