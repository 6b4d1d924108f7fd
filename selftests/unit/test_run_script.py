"""``./run``: what it hands to tox, and what it says of a host on which nothing can begin."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "run"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("run_script", str(SCRIPT))
    spec = importlib.util.spec_from_loader("run_script", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    was, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # it would be written beside the script
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = was
    return module


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], ["run"]),
        (["conformance"], ["run", "-e", "conformance"]),
        (["conformance", "--artifacts=/b", "-x"], ["run", "-e", "conformance", "--", "--artifacts=/b", "-x"]),
        (["-e", "lint,types"], ["run", "-e", "lint,types"]),
    ],
)
def test_a_first_word_names_an_environment_and_the_rest_is_for_its_commands(
    script: ModuleType, words: list[str], given: list[str]
) -> None:
    assert script.arguments(words) == given


def test_all_that_is_missing_is_named_before_anything_is_made(tmp_path: Path) -> None:
    """As on Debian without python3-venv and git."""
    checkout, programs = tmp_path / "checkout", tmp_path / "programs"
    checkout.mkdir()
    programs.mkdir()
    (checkout / "run").write_text(SCRIPT.read_text())
    (tmp_path / "ensurepip.py").write_text("raise ImportError('Debian has it in python3-venv')")
    done = subprocess.run(
        [sys.executable, checkout / "run", "conformance"],
        env={**os.environ, "PATH": str(programs), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 10
    assert done.stderr.splitlines()[1:] == [
        "  venv: apt-get install python3-venv",
        "  git: apt-get install git",
    ]
    assert [it.name for it in checkout.iterdir()] == ["run"]


def test_a_failed_installation_is_told_and_tried_anew_next_time(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(script, "PLACE", tmp_path / ".tox/run")
    monkeypatch.setattr(script, "DONE", tmp_path / ".tox/run/installed")
    monkeypatch.setattr(sys, "argv", ["run"])
    calls: list[list[str]] = []

    def fail(argv: list[str], *, check: bool) -> None:
        assert check
        calls.append([str(it) for it in argv])
        if "install" in argv:
            raise subprocess.CalledProcessError(1, "pip install")
        (tmp_path / ".tox/run").mkdir(exist_ok=True)

    monkeypatch.setattr(script.subprocess, "run", fail)
    (tmp_path / "lock").write_text("tox==4")
    for _ in range(2):
        assert script.main() == 10
    assert "can't begin: Command 'pip install'" in capfd.readouterr().err
    assert ["venv" in it for it in calls] == [True, False, True, False]
