"""`python -m bench matrix [FILE]`: what a history and its page cost, and what running side by side saves.

Without a file: recording a run of 70 outcomes, and the page of 200 such runs. With a matrix file also: all
cells one after the other against two at once (`--jobs`), in turns; whole rounds. The goal is one where there
are cores for two: `--jobs auto` takes one at a time elsewhere.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.machine import describe
from harness.history.store import History
from harness.matrix.page import render_matrix
from harness.matrix.runs import automatic_jobs
from harness.report import conformance_document
from harness.verdict import Component, Outcome, Run, Status, judge, resolve

RUNS, OUTCOMES, SERIES = 200, 70, 8
GOAL_RECORD_MS, GOAL_PAGE_S, GOAL_RATIO = 50.0, 2.0, 0.7


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when the goals are met."""
    parser = argparse.ArgumentParser(prog="python -m bench matrix", description=__doc__)
    parser.add_argument("file", nargs="?", help="a matrix file, TOML")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(argv)
    print(describe(), flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-matrix-") as folder:
        good = history(Path(folder) / "history.sqlite")
        if options.file:
            good &= side_by_side(options.file, options.rounds, Path(folder))
    return 0 if good else 1


def history(path: Path) -> bool:
    """Record and render."""
    with History(path) as past:
        spent = []
        for number in range(RUNS):
            document = conformance_document(run := a_run(number), judge(run))
            begin = time.perf_counter()
            past.record(document, series=f"combination {number % SERIES}")
            spent.append(1000 * (time.perf_counter() - begin))
    begin = time.perf_counter()
    with History(path) as past:
        page = render_matrix(past.runs(), path)
    took = time.perf_counter() - begin
    median = statistics.median(spent)
    print(f"recording a run: {median:.1f} ms median, {max(spent):.1f} worst (goal {GOAL_RECORD_MS:.0f})")
    print(
        f"page of {RUNS} runs: {took:.2f} s, {len(page) // 1024} KiB (goal {GOAL_PAGE_S:.0f} s)", flush=True
    )
    return median <= GOAL_RECORD_MS and took <= GOAL_PAGE_S


def a_run(number: int) -> Run:
    """A run of 70 outcomes; every seventh of its series has red ones."""
    red = number // SERIES % 7 == 6
    outcomes = [
        Outcome(f"section{n % 10}/outcome-{n}", "an outcome", Status.FAILED, reason="broken")
        if red and n % 9 == 0
        else Outcome(f"section{n % 10}/outcome-{n}", "an outcome", Status.PASSED, duration_s=n / 10)
        for n in range(OUTCOMES)
    ]
    return Run(
        run_id=f"rc-{number:08x}",
        started=f"2026-{1 + number // 28:02d}-{1 + number % 28:02d}T03:17:00Z",
        duration_s=80.0 + number % 7,
        profile="seed",
        cluster="k3s",
        artifacts="upstream",
        gitlab="embedded",
        outcomes=resolve(outcomes),
        components=(Component("k3s", f"v1.28.{number // 50}+k3s1", reached=f"v1.28.{number // 50}+k3s1"),),
    )


def side_by_side(file: str, rounds: int, folder: Path) -> bool:
    """Whole rounds in turns."""
    measured: dict[str, list[float]] = {"1": [], "2": []}
    busy: list[float] = []
    for number in range(rounds):
        for jobs, times in measured.items():
            out = folder / f"{jobs}-{number}"
            words = ["matrix", file, "--out", str(out), "--jobs", jobs]
            begin, spent = time.monotonic(), processor_s()
            subprocess.run(
                [sys.executable, "-m", "harness.cli", *words], check=True, stdout=subprocess.DEVNULL
            )
            times.append(time.monotonic() - begin)
            busy.append(processor_s() - spent)
            print(f"--jobs {jobs}: {times[-1]:.0f} s, {busy[-1]:.0f} s of processor time", flush=True)
    least = min(busy) / (os.cpu_count() or 1)
    print(f"no order of these cells ends before {least:.0f} s on this many cores")
    ratio = statistics.median(measured["2"]) / statistics.median(measured["1"])
    print(f"side by side / one by one: {ratio:.2f} (goal {GOAL_RATIO})")
    return ratio <= GOAL_RATIO or automatic_jobs(2) == 1


def processor_s() -> float:
    """Seconds that all cores together have worked since the machine began, for whomever (/proc/stat)."""
    total = Path("/proc/stat").read_text().splitlines()[0]
    user, nice, system, _, _, irq, softirq, *_ = map(int, total.split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
