"""`python -m bench suite --artifacts BUNDLE`: how long all outcomes take, in turns alone and with -n 2.

Whole commands, from start to end, provisioning and removal included; then one test on a kept stack with
--reuse, whose whole command is longer than the time to its first assertion.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.machine import describe
from harness.teardown import take_down

ROOT = Path(__file__).parent.parent
ALONE, PARALLEL, REUSE = "all outcomes", "all outcomes, -n 2", "one outcome, --reuse"
GOALS_S = {ALONE: 360.0, PARALLEL: 270.0, REUSE: 5.0}
NAME = "bench-suite"
ONE = "tests/s01_cluster/test_cluster.py::test_kubernetes_is_new_enough"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when the goals are met, 1 when not or when a run was not green."""
    parser = argparse.ArgumentParser(prog="python -m bench suite", description=__doc__)
    parser.add_argument("--artifacts", required=True, help="a bundle directory, or upstream")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    print(describe(), flush=True)
    source = [f"--artifacts={options.artifacts}"]
    measured: dict[str, list[float]] = {title: [] for title in GOALS_S}
    for _ in range(options.rounds):
        measured[ALONE].append(seconds("tests", *source))
        measured[PARALLEL].append(seconds("tests", "-n", "2", *source))
    seconds(ONE, *source, "--keep", "--name", NAME)
    try:
        measured[REUSE] = [seconds(ONE, "--reuse", NAME) for _ in range(options.rounds)]
    finally:
        take_down(NAME)
    print("| what | median s | range | goal |\n|---|---|---|---|")
    for title, times in measured.items():
        spread = f"{min(times):.1f}-{max(times):.1f}"
        print(f"| {title} | {statistics.median(times):.1f} | {spread} | {GOALS_S[title]:.0f} |")
    ratio = statistics.median(measured[PARALLEL]) / statistics.median(measured[ALONE])
    print(f"| -n 2 / alone | {ratio:.2f} | | |")
    return 0 if all(statistics.median(times) <= GOALS_S[title] for title, times in measured.items()) else 1


def seconds(*words: str) -> float:
    """How long pytest takes with these words. Raises CalledProcessError when it is not green."""
    with tempfile.TemporaryDirectory(prefix="bench-suite-") as report:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--report-dir={report}"]
        begin = time.monotonic()
        subprocess.run([*command, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - begin


if __name__ == "__main__":
    sys.exit(main())
