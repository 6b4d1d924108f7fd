"""`python -m bench lab`: how long the lab's builds take, against what they may take on two cores.

Nothing changed, one stand-in changed, and (with --cold: empty caches of the lab's and of Go's) from nothing,
and then what the newer Kubernetes takes more.
The stand-in is changed in a copy of the work tree, so that the tree itself is never touched. As root, the
bundle then shows how fast its k3s has a node Ready.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.machine import describe
from bench.nodes import GOAL_READY_S, ready_times

ROOT = Path(__file__).parent.parent
COLD_S, SECOND_S, CHANGED_S, UNCHANGED_S = 15 * 60, 18 * 60, 60, 1
SECOND = "1.37"
NODES = 3
CHANGED_FILE = Path("lab/standins/kube_rbac_proxy/kube-rbac-proxy")


@dataclass(frozen=True)
class Figure:
    """One measurement and its limit, both in seconds."""

    title: str
    seconds: float
    limit: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a limit is broken or a build fails."""
    parser = argparse.ArgumentParser(prog="python -m bench lab", description=__doc__)
    parser.add_argument("--kubernetes", default="1.28")
    parser.add_argument(
        "--cold", action="store_true", help="also from nothing: takes half an hour on a quiet machine"
    )
    parser.add_argument(
        "--caches",
        type=Path,
        help="a new directory for the caches of --cold, kept afterwards (default: none is)",
    )
    options = parser.parse_args(argv)
    print(describe(), flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-lab-") as place:
        caches = (options.caches.absolute() if options.caches else Path(place)) if options.cold else None
        figures = _measure(options.kubernetes, Path(place), caches)
    table = Table("build", "seconds", "limit", "")
    for figure in figures:
        met = "ok" if figure.seconds <= figure.limit else "TOO SLOW"
        table.add_row(figure.title, f"{figure.seconds:.1f}", f"{figure.limit:.0f}", met)
    Console().print(table)
    return 0 if all(figure.seconds <= figure.limit for figure in figures) else 1


def _measure(kubernetes: str, place: Path, caches: Path | None) -> list[Figure]:
    tree = place / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", "__pycache__", ".*_cache"))
    out = place / "bundle"
    figures = []
    environment: Mapping[str, str] = {}
    if caches:
        environment = {
            "XDG_CACHE_HOME": str(caches / "cache"),
            "GOCACHE": str(caches / "gocache"),
            "GOMODCACHE": str(caches / "gomodcache"),
        }
        figures.append(Figure("from nothing", _build(kubernetes, tree, out, environment), COLD_S))
        second = _build(SECOND, tree, place / "second", environment)
        figures.append(Figure(f"and Kubernetes {SECOND}", second, SECOND_S))
    else:
        _build(kubernetes, tree, out, environment)
    figures.append(Figure("nothing changed", _build(kubernetes, tree, out, environment), UNCHANGED_S))
    with (tree / CHANGED_FILE).open("a") as program:
        program.write("# changed by the benchmark\n")
    figures.append(Figure("one stand-in changed", _build(kubernetes, tree, out, environment), CHANGED_S))
    if os.geteuid() == 0:
        ready = statistics.median(ready_times(str(out), NODES))
        figures.append(Figure(f"node Ready, median of {NODES}", ready, GOAL_READY_S))
    return figures


def _build(kubernetes: str, tree: Path, out: Path, environment: Mapping[str, str]) -> float:
    begun = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "lab", "build", "--kubernetes", kubernetes, "--out", out],
        cwd=tree,
        env={**os.environ, **environment},
        check=True,
    )
    return time.monotonic() - begun


if __name__ == "__main__":
    sys.exit(main())
