"""An install that could not work is refused; every tox environment is the editable one that does."""

from __future__ import annotations

from pathlib import Path

import pytest
from hatchling.build import build_wheel

ROOT = Path(__file__).resolve().parents[2]


def test_a_wheel_is_refused_with_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match=r"pip install -e \."):
        build_wheel(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
