"""Runs the cells of a matrix as pytest runs of their own, side by side, and remembers which are done.

Below the output directory: ``matrix.json`` (how the round stands), ``cells/SLUG/`` (the reports of a cell,
and what pytest printed, in ``output.txt``). A round that was interrupted is gone on with: what is done stays.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.cluster.linux import die_with_parent, start_ticks
from harness.errors import EnvironmentProblem, UsageError
from harness.files import write_whole
from harness.history.store import History, read_document
from harness.matrix.plan import Cell

ROOT = Path(__file__).resolve().parents[2]
DONE, RUNNING, WAITING, BROKEN = "done", "running", "waiting", "broken"
_STATE = "matrix.json"
_FORMAT = 1
_LOOK_S = 0.5
_TEARDOWN_S = 240.0
"""An interrupted run removes its clusters and writes its reports within this."""
_GIB_OF_A_RUN = 5.0
"""Memory that a whole run takes at its peak: two nodes, builds and their caches."""
_CORES_OF_A_RUN = 2
"""A run keeps two busy from start to end, its second cluster beside the first (bench/RESULTS.md)."""
_STEP_LINE = re.compile(
    r"^\s*(?:\d+\.\d s\s+)?([a-z][a-z0-9-]+): (?:ready|failed|still|installing|running)\b"
)


@dataclass
class CellRun:
    """How a cell stands in this round; times in seconds of the monotonic clock."""

    cell: Cell
    directory: Path
    state: str = WAITING
    started: float = 0.0
    ended: float = 0.0
    process: subprocess.Popen[bytes] | None = None
    document: dict[str, Any] | None = None
    why: str = ""

    @property
    def elapsed_s(self) -> float:
        if not self.started:
            return 0.0
        return (self.ended or time.monotonic()) - self.started

    @property
    def verdict(self) -> str:
        return str(self.document["verdict"]["text"]) if self.document else ""

    def step(self) -> str:
        """The step that its output named last."""
        try:
            with (self.directory / "output.txt").open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        found = (match[1] for line in reversed(lines) if (match := _STEP_LINE.match(line)))
        return next(found, "")


@dataclass
class Round:
    """One pass over all cells."""

    directory: Path
    cells: Sequence[Cell]
    history: Path
    extra: Sequence[str] = ()
    jobs: int = 1
    on_change: Callable[[Round], None] = lambda it: None
    runs: list[CellRun] = field(default_factory=list)
    interrupted: bool = False

    def prepare(self) -> int:
        """Take over what an interrupted round has done; returns how many cells that were.

        Raises UsageError where another matrix works in this directory or a file there is none of ours.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        before = _read_state(self.directory / _STATE)
        if before.get("pid") and _alive(int(before["pid"]), str(before.get("began", ""))):
            raise UsageError(
                f"another matrix is at work in {self.directory} (process {before['pid']})",
                "wait for it, or give another --out",
            )
        open_round = bool(before) and not before.get("complete", False)
        done = set(before.get("done", ())) if open_round else set()
        for cell in self.cells:
            run = CellRun(cell, self.directory / "cells" / cell.slug)
            if cell.slug in done:
                run.document = read_document(run.directory / "conformance.json")
                run.state = DONE
            self.runs.append(run)
        self._save()
        return sum(run.state == DONE for run in self.runs)

    def run(self) -> None:
        """Run what is not done. Call it in the main thread: a child dies with the thread that started it."""
        try:
            while any(run.state in (WAITING, RUNNING) for run in self.runs):
                self._begin()
                self._end_finished()
                self.on_change(self)
                time.sleep(_LOOK_S)
        except KeyboardInterrupt:
            self.interrupted = True
            self._interrupt()
        finally:
            self._save(complete=all(run.state in (DONE, BROKEN) for run in self.runs), over=True)
            self.on_change(self)

    def _begin(self) -> None:
        running = sum(run.state == RUNNING for run in self.runs)
        for run in [run for run in self.runs if run.state == WAITING][: self.jobs - running]:
            run.directory.mkdir(parents=True, exist_ok=True)
            for old in ("conformance.json", "report.html", "summary.md", "junit.xml"):
                (run.directory / old).unlink(missing_ok=True)
            words = [
                "tests",
                f"--report-dir={run.directory}",
                "-p",
                "no:cacheprovider",
                *run.cell.arguments(),
            ]
            with (run.directory / "output.txt").open("wb") as log:
                run.process = subprocess.Popen(
                    [sys.executable, "-m", "pytest", *words, *self.extra],
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                )
            run.state, run.started = RUNNING, time.monotonic()

    def _end_finished(self) -> None:
        for run in self.runs:
            if run.state == RUNNING and run.process is not None and run.process.poll() is not None:
                self._finish(run)

    def _finish(self, run: CellRun) -> None:
        run.ended = time.monotonic()
        try:
            run.document = read_document(run.directory / "conformance.json")
        except UsageError:
            assert run.process is not None
            run.state, run.why = BROKEN, _last_words(run.directory / "output.txt", run.process.returncode)
        else:
            if run.document["run"]["interrupted"]:
                run.state = WAITING
                return
            run.state = DONE
            with History(self.history) as history:
                page = os.path.relpath(run.directory / "report.html", self.directory)
                history.record(run.document, series=run.cell.title, report=page)
        self._save()

    def _interrupt(self) -> None:
        """Pass the interrupt on and wait until each run has removed what it made."""
        running = [run for run in self.runs if run.state == RUNNING and run.process is not None]
        for run in running:
            _signal(run, signal.SIGINT)
        deadline = time.monotonic() + _TEARDOWN_S
        for run in running:
            assert run.process is not None
            try:
                run.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(run, signal.SIGKILL)
                run.process.wait()
            except KeyboardInterrupt:
                continue
            run.state = WAITING

    def _save(self, *, complete: bool = False, over: bool = False) -> None:
        state = {
            "format": _FORMAT,
            "pid": 0 if over else os.getpid(),
            "began": _began(os.getpid()),
            "complete": complete,
            "done": [run.cell.slug for run in self.runs if run.state == DONE],
        }
        path = self.directory / _STATE
        try:
            write_whole(path, json.dumps(state, indent=1))
        except OSError as error:
            raise EnvironmentProblem(f"{path} can't be written: {error.strerror}") from None


def automatic_jobs(cells: int) -> int:
    """As many runs at once as cores and free memory carry."""
    meminfo = Path("/proc/meminfo").read_text()
    found = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo, re.MULTILINE)
    gib = int(found[1]) / 2**20 if found else _GIB_OF_A_RUN
    return max(1, min(cells, len(os.sched_getaffinity(0)) // _CORES_OF_A_RUN, int(gib / _GIB_OF_A_RUN)))


def _read_state(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is damaged: {error}", "remove it, or give another --out") from None
    if not isinstance(loaded, dict) or loaded.get("format") != _FORMAT:
        raise UsageError(f"{path} is not this version's", "remove it, or give another --out")
    return loaded


def _began(pid: int) -> str:
    """When a process began, in ticks since boot: pids are used again, pairs of both are not."""
    ticks = start_ticks(pid)
    return "" if ticks is None else str(ticks)


def _alive(pid: int, began: str) -> bool:
    return pid != os.getpid() and bool(began) and _began(pid) == began


def _signal(run: CellRun, number: int) -> None:
    if run.process is not None and run.process.poll() is None:
        run.process.send_signal(number)


def _die_with_parent() -> None:
    """Ask for SIGTERM when the matrix is gone, also by kill -9: the run then takes itself down."""
    die_with_parent(signal.SIGTERM)


def _last_words(path: Path, code: int) -> str:
    """What a run said that ended without a report."""
    try:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    said = next((line for line in reversed(lines) if re.match(r"(ERROR|INCONCLUSIVE|!|Exit)", line)), "")
    return f"no report, exit code {code}: {said.strip('! ') or (lines[-1] if lines else 'nothing printed')}"
