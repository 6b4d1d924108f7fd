"""Who may import whom: the contracts in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_import_rules_hold() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("program", ["harness.cluster.keeper", "harness.cli"])
def test_what_asks_no_cluster_reads_no_kubernetes_client(program: str) -> None:
    """The client costs a second and 75 MB: the keeper of a node, and a look at the options, do without."""
    code = f"import {program}, sys; print({{'kubernetes', 'requests'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr.strip()) == ("set()", "")
