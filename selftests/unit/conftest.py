"""What several unit tests stand on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.profile import load_profile
from harness.stack import StackContext


@pytest.fixture
def ctx(tmp_path: Path) -> StackContext:
    """A context without a cluster."""
    nothing: Any = None
    return StackContext(
        run_id="rc-00000000",
        name="t",
        state_dir=tmp_path,
        options=nothing,
        profile=load_profile("seed"),
        artifacts=nothing,
        cluster=nothing,
        kube=nothing,
        progress=lambda layer, text: None,
    )
