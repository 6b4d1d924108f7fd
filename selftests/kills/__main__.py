"""Kills runs at many points and says what they left: ``python -m selftests.kills --bundle DIR``.

Prints the seed; with it the same plan is carried out again, also in parts: ``--from 40``, ``--only 7 31``.
Each result is a line of ``--results``; ``--table FILE`` makes the table of docs/leftovers.md of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from pathlib import Path

from selftests.kills.case import Result, Subject, run_case
from selftests.kills.decoys import Decoys
from selftests.kills.neighbours import neighbours
from selftests.kills.plan import EXISTING, PYTEST, UP, WORKERS, Case, plan
from selftests.kills.table import table


def main() -> int:
    """Carry out a plan; 1 when something was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m selftests.kills", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=os.environ.get("RUNNER_CONFORMANCE_BUNDLE"))
    parser.add_argument("--count", type=int, default=None, help="default: until every pair is in it")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--subjects", nargs="+", choices=(UP, PYTEST, WORKERS, EXISTING), default=None)
    parser.add_argument(
        "--from", type=int, default=1, dest="first", metavar="N", help="leave out those before"
    )
    parser.add_argument(
        "--only", type=int, nargs="+", default=None, metavar="N", help="only these of the plan"
    )
    parser.add_argument("--minutes", type=float, default=180.0, help="begin no case after that")
    parser.add_argument("--keep", type=Path, default=None, help="where the output of wrong cases stays")
    parser.add_argument("--results", type=Path, default=None, help="add a line for each case to this file")
    parser.add_argument("--table", type=Path, default=None, help="only print the table of such a file")
    chosen = parser.parse_args()
    if chosen.table is not None:
        print(table([json.loads(line) for line in chosen.table.read_text().splitlines()]))
        return 0
    if chosen.bundle is None:
        parser.error("name a bundle: --bundle, or RUNNER_CONFORMANCE_BUNDLE")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # not without cleaning up
    seed = random.SystemRandom().randrange(100_000) if chosen.seed is None else chosen.seed
    subjects = tuple(chosen.subjects or (UP, PYTEST, WORKERS, EXISTING))
    cases = plan(seed, chosen.count, subjects)
    wanted = [it for it in cases if it.number >= chosen.first and it.number in (chosen.only or {it.number})]
    print(f"seed {seed}: {len(wanted)} of {len(cases)} cases of {', '.join(subjects)}", flush=True)
    results = []
    for result in carry_out(wanted, chosen.bundle, chosen.minutes, chosen.keep):
        results.append({"seed": seed, **result.to_dict()})
        if chosen.results is not None:
            with chosen.results.open("a") as file:
                file.write(json.dumps(results[-1]) + "\n")
    print(table(results))
    return int(any(it["wrong"] for it in results))


def carry_out(cases: Collection[Case], bundle: Path, minutes: float, keep: Path | None) -> Iterator[Result]:
    """The results of a plan, each said as it comes; decoys are beside, and neighbours where they are used."""
    end = time.monotonic() + minutes * 60
    used = any(it.subject == EXISTING for it in cases)
    with (
        tempfile.TemporaryDirectory(prefix="kills-") as top,
        Decoys() as decoys,
        neighbours(Path(top), bundle) if used else nullcontext() as beside,
    ):
        for case in cases:
            if time.monotonic() > end:
                print(f"no time left for case {case.number} and those after it")
                return
            directory = Path(top, f"case-{case.number}")
            result = run_case(case, Subject(bundle, Path(top, "home"), beside), directory)
            if touched := decoys.touched():
                result.wrong.append(f"decoys touched: {touched}")
            said = "; ".join(result.wrong) or "as promised"
            said += "" if result.reached else "; its phase was not reached"
            print(f"{case}: {said} ({result.seconds:.0f} s)", flush=True)
            if result.wrong and keep is not None:
                shutil.copytree(directory, keep / directory.name, dirs_exist_ok=True, symlinks=True)
            shutil.rmtree(directory, ignore_errors=True)
            yield result


if __name__ == "__main__":
    sys.exit(main())
