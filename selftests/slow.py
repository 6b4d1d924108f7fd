"""Whole runs on a host that is well but slow: none may blame the product.

    python -m selftests.slow BUNDLE [--way load|mirror|nice] [--runs 10] [--rate 32mbit]

load: twenty busy processes beside it. mirror: every node's link carries 4 MB/s, at which the 680 MB that a
node of the lab pulls take 3 min; at the 2 MB/s that are the least, a build pod takes the whole 180 s that
the Runner itself allows it. nice: one core, lowest priority. Tells each run's verdict, and what of it was
red; exit code 1 when the product was blamed. Root.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from harness.cluster import links
from selftests.conftest import ROOT

_BUSY = 20
_LOOK_S = 0.2


@contextmanager
def load(_: str) -> Iterator[list[str]]:
    """Twenty processes that compute."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(_BUSY)]
    try:
        yield []
    finally:
        for it in busy:
            it.kill()
            it.wait()


@contextmanager
def mirror(rate: str) -> Iterator[list[str]]:
    """Every new link of a node carries so much towards the node (tc's words), from the moment it is there."""
    ended = threading.Event()
    before = set(links.owned())

    def narrow() -> None:
        done = set(before)
        while not ended.wait(_LOOK_S):
            for name in set(links.owned()) - done:
                shape = ["tc", "qdisc", "add", "dev", name, "root", "tbf", "rate", rate]
                subprocess.run([*shape, "burst", "256kbit", "latency", "400ms"], check=True)
                done.add(name)

    watcher = threading.Thread(target=narrow, daemon=True)
    watcher.start()
    try:
        yield []
    finally:
        ended.set()
        watcher.join()


@contextmanager
def nice(_: str) -> Iterator[list[str]]:
    """One core, after everybody else."""
    yield ["taskset", "--cpu-list", "0", "nice", "--adjustment=19"]


WAYS: dict[str, Callable[[str], AbstractContextManager[list[str]]]] = {
    "load": load,
    "mirror": mirror,
    "nice": nice,
}


def main() -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m selftests.slow", description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--way", action="append", choices=WAYS, help="all by default")
    parser.add_argument("--runs", type=int, default=10, help="of each")
    parser.add_argument("--rate", default="32mbit", help="of a slow mirror, in tc's words")
    words = parser.parse_args()
    false = 0
    for way in words.way or WAYS:
        for number in range(1, words.runs + 1):
            false += one(way, number, words.bundle.resolve(), words.rate)
    print(f"{false} runs blamed the product")
    return 1 if false else 0


def one(way: str, number: int, bundle: Path, rate: str) -> bool:
    """One run; whether it blamed the product."""
    with tempfile.TemporaryDirectory(prefix="slow-") as scratch, WAYS[way](rate) as before:
        argv = [*before, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
        began = time.monotonic()
        argv += [f"--artifacts={bundle}", f"--report-dir={scratch}"]
        ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        took = time.monotonic() - began
        document = Path(scratch, "conformance.json")
        if not document.exists():
            print(
                f"{way} {number}: no verdict (exit {ended.returncode}):\n{ended.stdout[-2000:]}", flush=True
            )
            return True
        found = json.loads(document.read_text())
    red = [it for it in (*found["phases"], *found["outcomes"]) if it["status"] == "failed"]
    print(f"{way} {number}: {found['verdict']['word']}, {took:.0f} s", flush=True)
    for it in red:
        first = str(it["reason"]).splitlines()[0]
        print(
            f"  {it.get('id') or it['name']}: {it['blame']}, {it.get('reason_id') or '-'}: {first}",
            flush=True,
        )
    return any(it["blame"] == "product" for it in red)


if __name__ == "__main__":
    sys.exit(main())
