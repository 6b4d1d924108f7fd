"""The lab: one stack by hand for all tests; RUNNER_CONFORMANCE_LAB is the directory of one that is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from selftests.acceptance.lab import Lab, installed


@pytest.fixture(scope="session")
def lab(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A stack that the how-to's commands made."""
    if kept := os.environ.get("RUNNER_CONFORMANCE_LAB"):
        yield Lab.at(Path(kept), bundle_dir)
        return
    with installed(tmp_path_factory.mktemp("lab"), bundle_dir) as made:
        yield made
