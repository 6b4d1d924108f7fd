"""What a red morning asks of a history: since when, with what change, is it a flake, has it become slow?"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.history.store import PastRun

_MIN_SAMPLES = 5
"""Fewer durations give no spread that could be trusted."""
_MADS = 3.0
_LEAST_SLOWER_S = 1.0
"""Differences below a second are the scheduler's."""
_KIND_WORDS = {"requested": "", "reached": "", "image": "image "}


@dataclass(frozen=True)
class Change:
    """One input that differs between two runs."""

    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.what} {self.before or 'none'} → {self.after or 'none'}"


@dataclass(frozen=True)
class Since:
    """Since when an outcome is red: first red run, last green one before it, and what changed between."""

    outcome: str
    reason: str
    first_red: PastRun
    last_green: PastRun | None
    nights: int
    changes: tuple[Change, ...]

    @property
    def new(self) -> bool:
        """Red for the first time in the latest run."""
        return self.nights == 1

    def __str__(self) -> str:
        if self.last_green is None:
            return f"red in all {self.nights} run(s) on record, the first of {self.first_red.started}"
        said = (
            f"red since {self.first_red.started} ({self.nights} run(s)), last green {self.last_green.started}"
        )
        if not self.changes:
            return f"{said}; no version, image, profile or suite changed between the two"
        return f"{said}, with {'; '.join(map(str, self.changes))}"


def finished(runs: Sequence[PastRun]) -> list[PastRun]:
    """Runs that came to a verdict of their own; an interrupted one tells nothing about the product."""
    return [run for run in runs if not run.interrupted]


def red_since(runs: Sequence[PastRun]) -> dict[str, Since]:
    """For each outcome that is red in the last run of a series: since when. ``runs``: the oldest first.

    A run in which the outcome was blocked, not applicable or not run says neither red nor green.
    """
    complete = finished(runs)
    if not complete:
        return {}
    found = {}
    for outcome_id, now in complete[-1].outcomes.items():
        if not now.red:
            continue
        first, green, nights = complete[-1], None, 0
        for run in reversed(complete):
            then = run.outcomes.get(outcome_id)
            if then is not None and then.green:
                green = run
                break
            if then is not None and then.red:
                first, nights = run, nights + 1
        changes = differences(green, first) if green else ()
        found[outcome_id] = Since(outcome_id, now.reason, first, green, nights, changes)
    return found


def new_reds(runs: Sequence[PastRun]) -> list[str]:
    """Outcomes red in the last run that were not red in the run before it which looked at them."""
    return [outcome for outcome, since in red_since(runs).items() if since.new]


def differences(before: PastRun, after: PastRun) -> tuple[Change, ...]:
    """What changed between two runs: versions (found, else asked for), images, profile, suite."""
    changes = [
        Change(name, getattr(before, name), getattr(after, name))
        for name in ("profile", "suite")
        if getattr(before, name) != getattr(after, name)
    ]
    told = set()
    for kind in ("reached", "requested", "image"):
        names = sorted({n for k, n in [*before.inputs, *after.inputs] if k == kind})
        for name in names:
            old, new = before.inputs.get((kind, name), ""), after.inputs.get((kind, name), "")
            unseen = kind == "reached" and not (old and new)  # a run that stopped early looked at less
            if old != new and not unseen and (name, old, new) not in told:
                told.add((name, old, new))
                changes.append(Change(f"{_KIND_WORDS[kind]}{name}", old, new))
    return tuple(changes)


def flaky(runs: Sequence[PastRun]) -> dict[str, int]:
    """Outcomes that were both red and green for the same inputs, with how many of those runs were red."""
    seen: dict[tuple[str, object], list[bool]] = {}
    for run in finished(runs):
        inputs = (run.profile, run.suite, frozenset(run.inputs.items()))
        for outcome_id, result in run.outcomes.items():
            if result.red or result.green:
                seen.setdefault((outcome_id, inputs), []).append(result.red)
    found: dict[str, int] = {}
    for (outcome_id, _), reds in seen.items():
        if any(reds) and not all(reds) and _back_and_forth(reds):
            found[outcome_id] = found.get(outcome_id, 0) + sum(reds)
    return found


def _back_and_forth(reds: Sequence[bool]) -> bool:
    """Red and then green again: green and then red for good is a breakage whose cause is not on record."""
    return any(was and not now for was, now in itertools.pairwise(reds))


def slower(runs: Sequence[PastRun]) -> dict[str, tuple[float, float]]:
    """Outcomes of the last run slower than their median by 3 MAD and a second: (seconds now, median)."""
    complete = finished(runs)
    if not complete:
        return {}
    past: dict[str, list[float]] = {}
    for run in complete[:-1]:
        for outcome_id, result in run.outcomes.items():
            if result.green:
                past.setdefault(outcome_id, []).append(result.duration_s)
    found = {}
    for outcome_id, result in complete[-1].outcomes.items():
        before = past.get(outcome_id, [])
        if not result.green or len(before) < _MIN_SAMPLES:
            continue
        median = statistics.median(before)
        mad = statistics.median(abs(value - median) for value in before)
        if result.duration_s > median + max(_MADS * mad, _LEAST_SLOWER_S):
            found[outcome_id] = (result.duration_s, median)
    return found


def expected_s(runs: Sequence[PastRun]) -> float | None:
    """How long a run of this series takes: the median of what finished, None where nothing did."""
    durations = [run.duration_s for run in finished(runs)]
    return statistics.median(durations) if durations else None


def by_series(runs: Sequence[PastRun]) -> Mapping[str, list[PastRun]]:
    """Runs of each series, the oldest first, series in the order of their first run."""
    found: dict[str, list[PastRun]] = {}
    for run in runs:
        found.setdefault(run.series, []).append(run)
    return found
