"""Which signal, when, to which process: every pair at least once, the rest drawn at random."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SIGNALS = ("KILL", "TERM", "INT", "INT INT", "HUP")

# What is run, its phases (a word of its output begins each), and the processes that it consists of.
UP = "up"
PYTEST = "pytest"
WORKERS = "pytest -n 2"
EXISTING = "existing"
PHASES: dict[str, tuple[str, ...]] = {
    UP: ("begin", "cluster starting", "cluster ready", "gitlab installing", "running", "removing"),
    PYTEST: ("begin", "creates", "cluster: ready", "outcome", "removing"),
    WORKERS: ("begin", "creates", "cluster: ready", "outcome", "removing"),
    EXISTING: ("begin", "creates", "runner set-up", "pipeline", "outcome", "removing"),
}
TARGETS: dict[str, tuple[str, ...]] = {
    UP: ("main", "keeper", "gitlab"),
    PYTEST: ("main", "keeper"),
    WORKERS: ("main", "worker", "keeper"),
    EXISTING: ("main",),
}
REMOVES_AFTER = {UP: "running", PYTEST: "cluster: ready", WORKERS: "cluster: ready", EXISTING: "pipeline"}
"""The phase in which a run is interrupted, so that it removes what it made, where that is to be hit."""
_NOT_YET: dict[str, tuple[str, ...]] = {
    "keeper": ("begin", "creates"),
    "gitlab": ("begin", "cluster starting", "cluster ready", "gitlab installing"),
    "worker": ("begin",),
}
"""Phases in which a target is not there yet."""


@dataclass(frozen=True)
class Case:
    """One kill. ``delay_s`` after the phase has begun."""

    number: int
    subject: str
    signal: str
    phase: str
    target: str
    delay_s: float

    def __str__(self) -> str:
        return (
            f"{self.number:3d} {self.subject:<11} SIG{self.signal:<7} {self.target:<6} "
            f"{self.delay_s:.2f} s after {self.phase!r}"
        )


Choice = tuple[str, str, str, str]


def choices(subjects: Sequence[str]) -> list[Choice]:
    """Every (subject, signal, phase, target) that can be."""
    return [
        (subject, number, phase, target)
        for subject in subjects
        for number, phase, target in itertools.product(SIGNALS, PHASES[subject], TARGETS[subject])
        if phase not in _NOT_YET.get(target, ())
    ]


def pairs(choice: Choice) -> Iterator[tuple[str, ...]]:
    """Signal and phase, signal and target, phase and target, each within its subject."""
    subject, number, phase, target = choice
    yield from ((subject, number, phase), (subject, number, target), (subject, phase, target))


def plan(
    seed: int, count: int | None = None, subjects: Sequence[str] = (UP, PYTEST, WORKERS, EXISTING)
) -> list[Case]:
    """Cases that between them have every pair (None), or ``count`` of them; the same for a seed."""
    dice = random.Random(seed)
    left = choices(subjects)
    dice.shuffle(left)
    missing = {pair for choice in left for pair in pairs(choice)}
    chosen: list[Choice] = []
    while left and (missing if count is None else len(chosen) < count):
        best = max(left, key=lambda choice: sum(pair in missing for pair in pairs(choice)))
        left.remove(best)
        missing -= set(pairs(best))
        chosen.append(best)
    return [Case(number, *choice, round(dice.uniform(0, 0.6), 2)) for number, choice in enumerate(chosen, 1)]
