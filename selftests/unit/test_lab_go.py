"""Which Go builds: the pinned one beside this Python, else one on the PATH that is new enough."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.gobuild import find_go


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A directory beside the interpreter and one on the PATH."""
    found = {name: tmp_path / name for name in ("beside", "path")}
    for directory in found.values():
        directory.mkdir()
    monkeypatch.setattr(sys, "executable", str(found["beside"] / "python"))
    monkeypatch.setenv("PATH", f"{found['path']}:/usr/bin:/bin")
    return found


def _go(directory: Path, version: str) -> Path:
    program = directory / "go"
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    return program


def test_the_pinned_one_is_taken_before_a_newer_one_of_the_machine(places: dict[str, Path]) -> None:
    pinned = _go(places["beside"], "go1.26.6")
    _go(places["path"], "go1.27.0")
    assert find_go() == pinned


def test_the_machines_is_taken_when_nothing_is_pinned(places: dict[str, Path]) -> None:
    mine = _go(places["path"], "go1.27.0")
    assert find_go() == mine


def test_an_old_one_is_refused_with_the_mend(places: dict[str, Path]) -> None:
    _go(places["path"], "go1.19.8")
    with pytest.raises(LabError, match=r"no Go 1\.26 or newer"):
        find_go()
