"""Breakages of a kept stack: provisioned once, broken in one way after the other, and mended again."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from harness.teardown import take_down
from selftests.faults.blocked import blocked_by
from selftests.faults.breakages import BREAKAGES
from selftests.faults.run import Wanted, beside, by_way_of, run_outcomes, test_of, wrong_with
from selftests.faults.seen import Record, Seen
from selftests.faults.steps import copy_bundle, overwrite
from selftests.faults.surroundings import SURROUNDINGS
from selftests.faults.ways import Breakage, Stacks, open_stacks

NAME = "seen-red"
_SMALL = ("cluster/", "cert-manager/")


def see(bundle: Path, scratch: Path, only: str, record: Record) -> None:
    """Break, verify, undo."""
    everything = (*SURROUNDINGS, *BREAKAGES)
    chosen = [
        b
        for b in everything
        if any(re.search(only, it) for it in (b.what, *b.red, b.rule)) and record.wants("kept", b.what, b.red)
    ]
    _see_all(chosen, bundle, scratch, record, whole=not only)


def see_sample(bundle: Path, scratch: Path, count: int, seed: int, record: Record) -> None:
    """Some faults that need no more than a cluster with cert-manager: a minute, and 20 s each."""
    small = [b for b in SURROUNDINGS if all(it.startswith(_SMALL) for it in (*b.red, *b.green))]
    chosen = random.Random(seed).sample(small, min(count, len(small)))
    _see_all(chosen, bundle, scratch, record, whole=False)


def _see_all(chosen: Sequence[Breakage], bundle: Path, scratch: Path, record: Record, *, whole: bool) -> None:
    if not chosen:
        return
    own, report = scratch / "bundle", scratch / "report"
    copy_bundle(bundle, own)
    listing = own / "bundle.toml"
    overwrite(listing, listing.read_bytes())  # breakages write in it, and it is a link to the original's
    sections = frozenset(it.partition("/")[0] for b in chosen for it in (*b.red, *b.green))
    try:
        tests = sorted({test_of(it) for b in chosen for it in (*b.red, *b.green, *_blocked(b, sections))})
        made = run_outcomes(
            *(["tests"] if whole else tests), "--artifacts", str(own), "--keep", "--name", NAME, report=report
        )
        red = [it["id"] for it in made.document.get("outcomes", ()) if it["status"] != "passed"]
        if red or made.code:
            raise SystemExit(f"before anything was broken it ended with {made.code}: {red}\n{made.output}")
        stacks = open_stacks(NAME)
        for breakage in chosen:
            try:
                _see(breakage, stacks, report, sections, record)
            except Exception as error:  # the others are still to be seen
                record.complain(f"{breakage.what}: {type(error).__name__}: {str(error).splitlines()[:1]}")
    finally:
        record.complain(*take_down(NAME))


def _blocked(breakage: Breakage, sections: frozenset[str]) -> tuple[str, ...]:
    """What must be blocked: nothing that the breakage turns red or leaves green itself."""
    found = {it: None for red in breakage.red for it in blocked_by(red, sections)}
    return tuple(it for it in found if it not in breakage.red and it not in breakage.green)


def _see(breakage: Breakage, stacks: Stacks, report: Path, sections: frozenset[str], record: Record) -> None:
    blocked = _blocked(breakage, sections)
    with breakage.break_it(stacks):
        ahead = dict.fromkeys(it for red in breakage.red for it in by_way_of(red, blocked))
        tests = [test_of(it) for it in (*breakage.red, *breakage.green, *ahead)]
        ended = run_outcomes("--reuse", NAME, *tests, report=report)
    if not ended.document:
        record.complain(f"{breakage.what}: pytest ended with {ended.code}:\n{ended.output[-3000:]}")
        return
    for outcome, reason in breakage.red.items():
        entry = ended.entry(outcome)
        wanted = Wanted(reason, breakage.blame, breakage.rule, breakage.limit_s)
        if wrong := wrong_with(entry, wanted):
            record.complain(f"{outcome}: {breakage.what}: {wrong}")
        else:
            record.see(Seen.of("kept", breakage.what, outcome, entry))
    wrong_beside = beside(ended, breakage.red, breakage.green, blocked)
    record.complain(*(f"{breakage.what}: {it}" for it in wrong_beside))
    if not breakage.red and not wrong_beside:
        record.see(Seen.of("kept", breakage.what, "", {}))
