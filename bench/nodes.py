"""`python -m bench nodes`: how fast a node gets Ready, and how much memory a second one beside it takes.

Memory is the fall of MemAvailable, the kernel's own estimate, from a settled first node (or whole stack) to
a settled second; beside it stands the proportional set size of its processes. Goals: from nothing
to node Ready at most 10 s, a second cluster at most 1.2 GiB.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.machine import describe
from harness.cluster.record import Record
from harness.options import ProvisionOptions
from harness.ownership import HOME_VARIABLE
from harness.provision import Provisioner

GOAL_READY_S, GOAL_GIB = 10.0, 1.2
SETTLE_S = 20.0
"""After this long an idle node's memory no longer moves by more than some MiB."""
STACK = ("images", "cert-manager", "olm", "operator", "registry", "gitlab", "runner")


@dataclass(frozen=True)
class SecondNode:
    """One second node beside a first: times in seconds, memory in GiB."""

    alone_s: float
    beside_s: float
    available_gib: float
    processes_gib: float


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when the goals are met."""
    parser = argparse.ArgumentParser(prog="python -m bench nodes", description=__doc__)
    parser.add_argument("--artifacts", required=True, help="the bundle")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stack", action="store_true", help="whole stacks instead of idle nodes")
    options = parser.parse_args(argv)
    print(describe(), flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-nodes-") as home:
        os.environ[HOME_VARIABLE] = home
        rounds = [
            side_by_side(options.artifacts, STACK if options.stack else ()) for _ in range(options.rounds)
        ]
    return report(rounds, "whole stack" if options.stack else "node")


def report(rounds: Sequence[SecondNode], what: str) -> int:
    """Print medians and extremes against the goals."""
    alone, beside = [it.alone_s for it in rounds], [it.beside_s for it in rounds]
    memory, processes = [it.available_gib for it in rounds], [it.processes_gib for it in rounds]
    stack = what != "node"
    rows = [
        (f"{what} ready, alone, s", alone, "" if stack else f"{GOAL_READY_S:.0f}"),
        (f"{what} ready, beside another, s", beside, ""),
        (f"memory of a second {what}, GiB", memory, "" if stack else str(GOAL_GIB)),
        ("its processes alone (PSS), GiB", processes, ""),
    ]
    print("| figure | median | range | goal |\n|---|---|---|---|")
    for title, values, goal in rows:
        print(f"| {title} | {statistics.median(values):.2f} | {min(values):.2f}-{max(values):.2f} | {goal} |")
    met = statistics.median(alone) <= GOAL_READY_S and statistics.median(memory) <= GOAL_GIB
    return 0 if met or stack else 1


def ready_times(artifacts: str, rounds: int) -> list[float]:
    """Seconds from nothing to node Ready, of nodes that follow each other."""
    times = []
    with tempfile.TemporaryDirectory(prefix="bench-nodes-") as home:
        os.environ[HOME_VARIABLE] = home
        for number in range(rounds):
            with running(artifacts, f"ready-{number}", ()) as (_, seconds):
                times.append(seconds)
    return times


def side_by_side(artifacts: str, layers: Sequence[str]) -> SecondNode:
    """A first, settled; a second beside it, settled."""
    with running(artifacts, "first", layers) as (_, alone):
        time.sleep(SETTLE_S)
        before = available()
        with running(artifacts, "second", layers) as (second, beside):
            time.sleep(SETTLE_S)
            gib = 2**30
            return SecondNode(alone, beside, (before - available()) / gib, _processes(second) / gib)


@contextmanager
def running(artifacts: str, name: str, layers: Sequence[str]) -> Iterator[tuple[Provisioner, float]]:
    """A cluster with these layers, and the seconds that it took."""
    run = Provisioner(ProvisionOptions(artifacts=artifacts, name=name))
    _ = run.artifacts  # opened before the clock starts
    begin = time.monotonic()
    try:
        run.up(layers)
        yield run, time.monotonic() - begin
    finally:
        run.down()


def available() -> int:
    """Bytes that programs could still take without swapping."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def _processes(run: Provisioner) -> int:
    """Proportional set size, in bytes, of everything in the node's PID namespace and those nested in it."""
    node = Path(f"/proc/{Record.load(run.state_dir / 'cluster').node}")
    total = 0
    for process in _descendants(int(node.name)):
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue  # it ended meanwhile
        found = re.search(r"^Pss:\s*(\d+) kB", rollup, re.MULTILINE)
        total += int(found[1]) * 1024 if found else 0
    return total


def _descendants(root: int) -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more
