"""Breakages of a kept stack: provisioned once, broken in one way after the other, and mended again."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from harness.teardown import take_down
from selftests.faults.breakages import BREAKAGES
from selftests.faults.run import Wanted, compare, run_outcomes, still_green, test_of, told
from selftests.faults.steps import copy_bundle, overwrite
from selftests.faults.surroundings import SURROUNDINGS
from selftests.faults.ways import Breakage, Stacks, open_stacks

NAME = "seen-red"
_SMALL = ("cluster/", "cert-manager/")


def see(bundle: Path, scratch: Path, only: str) -> list[str]:
    """Break, verify, undo; complaints about what was not red, or not for its reason."""
    everything = (*SURROUNDINGS, *BREAKAGES)
    chosen = [b for b in everything if any(re.search(only, it) for it in (b.what, *b.red, b.rule))]
    return _see_all(chosen, bundle, scratch, whole=not only)


def see_sample(bundle: Path, scratch: Path, count: int, seed: int) -> list[str]:
    """Some faults that need no more than a cluster with cert-manager: a minute, and 20 s each."""
    small = [b for b in SURROUNDINGS if all(it.startswith(_SMALL) for it in (*b.red, *b.green))]
    chosen = random.Random(seed).sample(small, min(count, len(small)))
    return _see_all(chosen, bundle, scratch, whole=False)


def _see_all(chosen: Sequence[Breakage], bundle: Path, scratch: Path, *, whole: bool) -> list[str]:
    if not chosen:
        return []
    own, report = scratch / "bundle", scratch / "report"
    copy_bundle(bundle, own)
    listing = own / "bundle.toml"
    overwrite(listing, listing.read_bytes())  # breakages write in it, and it is a link to the original's
    complaints: list[str] = []
    try:
        tests = sorted({test_of(it) for b in chosen for it in (*b.red, *b.green)})
        made = run_outcomes(
            *(["tests"] if whole else tests), "--artifacts", str(own), "--keep", "--name", NAME, report=report
        )
        red = [it["id"] for it in made.document.get("outcomes", ()) if it["status"] != "passed"]
        if red or made.code:
            raise SystemExit(f"before anything was broken it ended with {made.code}: {red}\n{made.output}")
        stacks = open_stacks(NAME)
        for breakage in chosen:
            try:
                complaints += told(_see(breakage, stacks, report))
            except Exception as error:  # the others are still to be seen
                complaints += told([f"{breakage.what}: {type(error).__name__}: {error}"])
    finally:
        complaints += told(take_down(NAME))
    return complaints


def _see(breakage: Breakage, stacks: Stacks, report: Path) -> list[str]:
    with breakage.break_it(stacks):
        tests = [test_of(outcome) for outcome in (*breakage.red, *breakage.green)]
        ended = run_outcomes("--reuse", NAME, *tests, report=report)
    if not ended.document:
        return [f"{breakage.what}: pytest ended with {ended.code}:\n{ended.output[-3000:]}"]
    wanted = Wanted(breakage.blame, breakage.rule, breakage.limit_s)
    complaints = [
        complaint
        for outcome, reason in breakage.red.items()
        for complaint in compare(outcome, breakage.what, ended.entry(outcome), reason, wanted)
    ]
    return complaints + still_green(breakage.what, breakage.green, ended)
