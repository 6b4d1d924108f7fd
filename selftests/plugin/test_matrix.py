"""A matrix of real pytest runs, on a provisioning that provisions nothing: side by side, killed, resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.history.store import History
from harness.matrix.plan import Cell, Matrix
from harness.matrix.runs import BROKEN, DONE, WAITING, Round, automatic_jobs

EXTRA = ["-p", "selftests.plugin.empty_provisioning", "-k", "cluster/k3s-version or cluster/dns"]
DRIVER = """
import sys
from pathlib import Path
from selftests.plugin.test_matrix import round_in
current = round_in(Path(sys.argv[1]))
current.prepare()
current.run()
"""


def cells() -> list[Cell]:
    return Matrix({"k3s": ("v1.28.5+k3s1", "v1.29.0+k3s1"), "operator": ("1.15.1",)}).cells()


def round_in(directory: Path, jobs: int = 1) -> Round:
    return Round(directory / "out", cells(), directory / "history.sqlite", EXTRA, jobs)


def test_each_cell_is_a_run_of_its_own_in_the_history(tmp_path: Path) -> None:
    current = round_in(tmp_path, jobs=2)
    assert current.prepare() == 0
    current.run()
    assert [run.state for run in current.runs] == [DONE, DONE]
    with History(tmp_path / "history.sqlite") as history:
        runs = history.runs()
    assert sorted(run.series for run in runs) == [
        "k3s v1.28.5+k3s1, operator 1.15.1",
        "k3s v1.29.0+k3s1, operator 1.15.1",
    ]
    for run, cell in zip(current.runs, cells(), strict=True):
        command = json.loads((run.directory / "conformance.json").read_text())["run"]["command"]
        assert f"--k3s-version={cell.values['k3s']}" in command
        assert (tmp_path / "out" / "cells" / cell.slug / "report.html").exists()


@pytest.mark.parametrize(("cores", "cells", "jobs"), [(1, 4, 1), (2, 4, 1), (3, 4, 1), (4, 4, 2), (4, 1, 1)])
def test_a_run_counts_as_two_cores(
    cores: int, cells: int, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert automatic_jobs(cells) == jobs


def test_a_killed_round_is_gone_on_with(tmp_path: Path) -> None:
    state = tmp_path / "out" / "matrix.json"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)])
    try:
        until = time.monotonic() + 300
        while not (state.exists() and json.loads(state.read_text())["done"]):
            assert driver.poll() is None, "the driver ended by itself"
            assert time.monotonic() < until
            time.sleep(0.1)
        with pytest.raises(UsageError, match="another matrix is at work"):
            round_in(tmp_path).prepare()
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    first = json.loads(state.read_text())["done"]
    again = round_in(tmp_path)
    assert again.prepare() == len(first)
    before = (again.runs[0].directory / "output.txt").stat().st_mtime_ns
    assert again.runs[1].state == WAITING
    again.run()
    assert [run.state for run in again.runs] == [DONE, DONE]
    assert (again.runs[0].directory / "output.txt").stat().st_mtime_ns == before
    with History(tmp_path / "history.sqlite") as history:
        assert len(history.runs()) == 2
    assert round_in(tmp_path).prepare() == 0  # the round is complete: the next one begins anew


def test_a_run_without_a_report_says_why(tmp_path: Path) -> None:
    current = Round(tmp_path, [Cell({"cluster": "existing"})], tmp_path / "h.sqlite")
    current.prepare()
    current.run()
    assert current.runs[0].state == BROKEN
    assert "exit code 4: ERROR: --cluster existing" in current.runs[0].why


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness.cli", "matrix", "--k3s", "v1.19.0+k3s1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 4
    assert "1 of 1 combinations cannot be" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
