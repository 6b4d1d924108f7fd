"""A sample of `tox -e kills`: runs that are killed, and what they leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selftests.kills.__main__ import carry_out
from selftests.kills.plan import PYTEST, UP, WORKERS, plan

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making a cluster needs root")

SEED = 739947
"""Always the same few cases; `tox -e kills -- --seed N` takes others, and all of them."""
COUNT = 7
MINUTES = 5.0
"""No case is begun after that; one takes 20 to 40 s."""


def test_a_sample_of_kills_leaves_nothing(bundle_dir: Path, tmp_path: Path) -> None:
    found = list(carry_out(plan(SEED, COUNT, (UP, PYTEST, WORKERS)), bundle_dir, MINUTES, tmp_path / "wrong"))
    assert found
    assert [f"{it.case}: {it.wrong}" for it in found if it.wrong] == [], f"seed {SEED}"
