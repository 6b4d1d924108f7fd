"""What a run looks at before anything is made, beside another run that begins in the same moment."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.inputs import check_report_dir, check_state_home


@pytest.mark.parametrize("check", [check_state_home, check_report_dir])
def test_two_runs_try_one_directory_at_once(check: Callable[[Path], None], tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, [tmp_path / "home"] * 400))
    assert list((tmp_path / "home").iterdir()) == []
