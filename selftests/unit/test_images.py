"""What the node pulls beforehand, and from where that is worth it."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.profile import load_profile
from harness.stack import StackContext, images


@pytest.mark.parametrize("registry", [None, (Path("registry"), Path("storage"))])
def test_only_what_comes_over_a_line_is_pulled_beforehand(registry: Any) -> None:
    pulled: list[str] = []

    def node_shell(argv: list[str], timeout_s: float) -> Any:
        pulled.append(argv[-1])
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    profile = load_profile("seed")
    ctx = SimpleNamespace(
        profile=profile,
        artifacts=SimpleNamespace(registry=lambda: registry),
        cluster=SimpleNamespace(abilities={"node-shell"}, node_shell=node_shell),
        cancelled=threading.Event(),
        progress=lambda layer, text: None,
    )
    images.install(cast(StackContext, ctx))
    assert sorted(pulled) == ([] if registry else sorted(images.wanted(profile)))
