"""Matrices of real runs on real nodes: killed and resumed, and two at once on one history.

By hand and at night (`tox -e matrix`, root): it needs the four bundles that two_by_two.toml names.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.history.store import History
from harness.matrix.plan import read_matrix
from harness.ownership import HOME_VARIABLE
from selftests.e2e.host_state import difference, snapshot

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).parent / "two_by_two.toml"
ROUND_S = 1800

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0
    or not all(Path(ROOT, it.settings["artifacts"]).exists() for it in read_matrix(FILE).cells()),
    reason="needs root, and the bundles of `tox -e matrix`",
)


@pytest.fixture
def matrix(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Start `runner-conformance matrix` on the four combinations, with a state home of the test's own."""

    def start(out: str, *words: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "harness.cli",
            "matrix",
            str(FILE),
            "--out",
            str(tmp_path / out),
            *words,
        ]
        environment = {**os.environ, HOME_VARIABLE: str(tmp_path / "home")}
        with (tmp_path / f"{out}.txt").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)

    return start


def test_killed_half_way_and_resumed_every_cell_is_run_once(
    matrix: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    before = snapshot("none yet", ignore=(tmp_path,))
    first = matrix("out")
    out = tmp_path / "out"
    _until(lambda: len(_done(out)) >= 1 and len(_begun(out)) > len(_done(out)), first)
    first.kill()
    first.wait()
    kept = {path: path.stat().st_mtime_ns for path in _done(out)}
    _until(lambda: not _runs(tmp_path), None)  # a run whose matrix is gone takes itself down
    assert 0 < len(kept) < 4

    second = matrix("out")
    assert second.wait(ROUND_S) == 0, (tmp_path / "out.txt").read_text()[-4000:]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "a finished cell was run again"
    with History(tmp_path / "out" / "history.sqlite") as history:
        runs = [run for run in history.runs() if not run.interrupted]
    assert sorted(run.series for run in runs) == sorted(cell.title for cell in read_matrix(FILE).cells())
    assert {run.verdict for run in runs} == {"CONFORMS (rehearsal)"}

    page = (tmp_path / "out" / "matrix.html").read_text()
    for cell in read_matrix(FILE).cells():
        assert cell.title in page
        assert re.search(rf'href="cells/{re.escape(cell.slug)}/report.html"', page)
    assert difference(before, snapshot("rc-00000000", ignore=(tmp_path,))) == {}
    assert [str(it) for it in (tmp_path / "home").rglob("*") if it.is_file()] == []


def test_two_matrices_at_once_on_one_history_lose_no_row(
    matrix: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    words = (
        "--history",
        str(tmp_path / "both.sqlite"),
        "--jobs",
        "1",
        "-k",
        "cluster/k3s-version or cluster/dns",
    )
    both = [matrix(out, *words) for out in ("one", "two")]
    for out, process in zip(("one", "two"), both, strict=True):
        assert process.wait(ROUND_S) == 0, (tmp_path / f"{out}.txt").read_text()[-4000:]
    with History(tmp_path / "both.sqlite") as history:
        series = [run.series for run in history.runs()]
    assert sorted(series) == sorted(2 * [cell.title for cell in read_matrix(FILE).cells()])


def _done(out: Path) -> list[Path]:
    """Reports of the cells that the matrix calls done: a report is there a moment before its run ends."""
    said = out.with_suffix(".txt").read_text()
    done = [cell for cell in read_matrix(FILE).cells() if f"{cell.title}: done" in said]
    return [out / "cells" / cell.slug / "conformance.json" for cell in done]


def _begun(out: Path) -> list[Path]:
    return sorted(out.glob("cells/*/output.txt"))


def _runs(tmp_path: Path) -> list[str]:
    """Processes that name this test's directory: the matrix's runs and all that they started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(tmp_path) in command and int(entry.name) != os.getpid():
            found.append(command)
    return found


def _until(reached: Callable[[], bool], process: subprocess.Popen[bytes] | None) -> None:
    deadline = time.monotonic() + ROUND_S
    while not reached():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, "the matrix ended by itself"
        time.sleep(0.2)
