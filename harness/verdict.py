"""From outcomes to one word (CONFORMS, DOES NOT CONFORM, INCONCLUSIVE), its first reason and an exit code.

Outcomes name what they depend on. When a prerequisite has failed, its dependents are *blocked*: they tell
nothing about the product, so they are neither failures nor passes. docs/how-it-works.md has the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from harness import errors
from harness.errors import Blame

NOT_PERMITTED = "acceptance/permission"
"""The reason of an outcome that a missing right leaves unjudged; with one, no stack is said to conform."""


class Status(StrEnum):
    """What became of an outcome."""

    PASSED = "passed"
    FAILED = "failed"
    BLOCKED = "blocked"
    NOT_APPLICABLE = "not applicable"
    NOT_RUN = "not run"


class Word(StrEnum):
    """The verdict's word."""

    CONFORMS = "CONFORMS"
    DOES_NOT_CONFORM = "DOES NOT CONFORM"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class Outcome:
    """One documented outcome and what became of it. ``id`` is ``section/name``."""

    id: str
    title: str
    status: Status
    needs: tuple[str, ...] = ()
    promise: str = ""
    reason: str = ""
    hint: str = ""
    blame: Blame | None = None
    reason_id: str = ""
    blocked_by: tuple[str, ...] = ()
    duration_s: float = 0.0
    nodeid: str = ""
    evidence: tuple[str, ...] = ()
    read_from: tuple[str, ...] = ()

    @property
    def section(self) -> str:
        """The part before the first slash."""
        return self.id.split("/", 1)[0]


@dataclass(frozen=True)
class Phase:
    """One step of provisioning or removal; times are seconds since the run began."""

    name: str
    started_s: float
    ended_s: float
    status: Status = Status.PASSED
    reason: str = ""
    hint: str = ""
    blame: Blame | None = None
    reason_id: str = ""
    blocked_by: str = ""
    critical: bool = False

    @property
    def id(self) -> str:
        """How outcomes refer to it."""
        return f"provision/{self.name}"

    @property
    def duration_s(self) -> float:
        return max(0.0, self.ended_s - self.started_s)


@dataclass(frozen=True)
class Component:
    """A version asked for, the one that the artifacts promise, and the one that was found running."""

    name: str
    requested: str
    promised: str = ""
    reached: str = ""
    provenance: str = "real"
    source: str = ""

    @property
    def expected(self) -> str:
        """What has to be found: a stand-in reports its own version honestly."""
        return self.promised or self.requested

    @property
    def differs(self) -> bool:
        """Found, and not what was asked for; of an acceptance often nothing was asked for."""
        return bool(self.reached and self.expected) and self.reached != self.expected


@dataclass(frozen=True)
class Run:
    """Everything that the reports and the verdict are made from.

    ``interrupted`` says what ended the run early; empty: it came to its end.
    """

    run_id: str
    started: str
    duration_s: float
    profile: str
    cluster: str
    artifacts: str
    gitlab: str
    outcomes: tuple[Outcome, ...]
    phases: tuple[Phase, ...] = ()
    components: tuple[Component, ...] = ()
    leftovers: tuple[str, ...] = ()
    interrupted: str = ""
    command: str = ""
    again: str = ""
    notes: tuple[str, ...] = ()
    host: str = ""
    suite: str = ""

    @property
    def rehearsal(self) -> tuple[str, ...]:
        """Names of the components that are stand-ins."""
        return tuple(c.name for c in self.components if c.provenance != "real")

    @property
    def sections(self) -> dict[str, tuple[Outcome, ...]]:
        """Outcomes by section, sections in the order of their first outcome, whatever order tests ran in."""
        found: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            found.setdefault(outcome.section, []).append(outcome)
        return {section: tuple(members) for section, members in found.items()}


@dataclass(frozen=True)
class Verdict:
    """The word, why, and how the process ends."""

    word: Word
    rehearsal: bool
    reason: str
    hint: str
    blame: Blame | None
    exit_code: int
    counts: Mapping[Status, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.word} (rehearsal)" if self.rehearsal else str(self.word)


def resolve(outcomes: Iterable[Outcome], phases: Sequence[Phase] = ()) -> tuple[Outcome, ...]:
    """Outcomes with every dependent of a failure turned into *blocked by* the roots of its trouble.

    A dependent that passed is blocked as well: what it saw stood on something broken. A failure of the
    suite in a prerequisite blocks just the same. Unknown prerequisites (not selected) count as fine.

    Raises ValueError for prerequisites that depend on each other.
    """
    known = {o.id: o for o in outcomes}
    broken = {p.id for p in phases if p.status in (Status.FAILED, Status.BLOCKED)}
    roots: dict[str, tuple[str, ...]] = {}
    for outcome_id in known:
        _roots_of(outcome_id, known, broken, roots, ())
    return tuple(_settle(outcome, known, broken, roots) for outcome in known.values())


def blockers(
    needs: Iterable[str], outcomes: Mapping[str, Outcome], phases: Sequence[Phase] = ()
) -> tuple[str, ...]:
    """Which of ``needs`` are known to be broken, named by the roots of their trouble."""
    broken = {p.id for p in phases if p.status in (Status.FAILED, Status.BLOCKED)}
    roots: dict[str, tuple[str, ...]] = {}
    found: dict[str, None] = {}
    for need in needs:
        for root in _trouble_of(need, outcomes, broken, roots, ()):
            found[root] = None
    return tuple(found)


def _settle(
    outcome: Outcome, known: Mapping[str, Outcome], broken: set[str], roots: dict[str, tuple[str, ...]]
) -> Outcome:
    by = _roots_of(outcome.id, known, broken, roots, ())
    if not by or outcome.status in (Status.NOT_APPLICABLE, Status.NOT_RUN):
        return outcome
    reason = outcome.reason if outcome.status is not Status.PASSED else ""
    return replace(outcome, status=Status.BLOCKED, blocked_by=by, reason=reason, blame=None)


def _roots_of(
    outcome_id: str,
    known: Mapping[str, Outcome],
    broken: set[str],
    roots: dict[str, tuple[str, ...]],
    path: tuple[str, ...],
) -> tuple[str, ...]:
    """The failed prerequisites of an outcome, followed down to where the trouble began."""
    if outcome_id in roots:
        return roots[outcome_id]
    if outcome_id in path:
        raise ValueError(f"outcomes need each other: {' -> '.join((*path, outcome_id))}")
    found: dict[str, None] = dict.fromkeys(known[outcome_id].blocked_by)
    for need in known[outcome_id].needs:
        for root in _trouble_of(need, known, broken, roots, (*path, outcome_id)):
            found[root] = None
    roots[outcome_id] = tuple(found)
    return roots[outcome_id]


def _trouble_of(
    need: str,
    known: Mapping[str, Outcome],
    broken: set[str],
    roots: dict[str, tuple[str, ...]],
    path: tuple[str, ...],
) -> tuple[str, ...]:
    if need in broken:
        return (need,)
    if need not in known:
        return ()
    deeper = _roots_of(need, known, broken, roots, path)
    if deeper:
        return deeper
    if known[need].status in (Status.FAILED, Status.BLOCKED):
        return (need,)
    return ()


def judge(run: Run) -> Verdict:
    """The verdict on a run whose outcomes are already resolved."""
    counts = {status: sum(o.status is status for o in run.outcomes) for status in Status}
    word, reason, hint, blame = _word(run, counts)
    code = _exit_code(run, word, blame)
    if code == errors.EXIT_LEFTOVERS and word is Word.CONFORMS:
        reason = f"{len(run.leftovers)} thing(s) could not be removed: {run.leftovers[0]}"
        hint = "runner-conformance reap"
        blame = Blame.ENVIRONMENT
    return Verdict(word, bool(run.rehearsal), reason, hint, blame, code, counts)


def _word(run: Run, counts: Mapping[Status, int]) -> tuple[Word, str, str, Blame | None]:
    failures = _failures(run)
    for subject, reason, hint, blame in failures:
        if blame is Blame.PRODUCT:
            return Word.DOES_NOT_CONFORM, f"{subject}: {reason}", hint, blame
    for component in run.components:
        if component.differs:
            reason = f"{component.name}: asked for {component.expected}, found {component.reached}"
            return Word.DOES_NOT_CONFORM, reason, "", Blame.PRODUCT
    if run.interrupted:
        return Word.INCONCLUSIVE, run.interrupted, "run it again", Blame.ENVIRONMENT
    for subject, reason, hint, blame in failures:
        return Word.INCONCLUSIVE, f"{subject}: {reason}", hint, blame
    for outcome in run.outcomes:
        if outcome.status is Status.BLOCKED:
            why = outcome.reason or f"blocked by {', '.join(outcome.blocked_by)}"
            return Word.INCONCLUSIVE, f"{outcome.id}: {why}", outcome.hint, Blame.ENVIRONMENT
        if outcome.status is Status.NOT_RUN:
            return Word.INCONCLUSIVE, f"{outcome.id}: was not run", "", Blame.ENVIRONMENT
    for outcome in run.outcomes:
        if outcome.status is Status.NOT_APPLICABLE and outcome.reason_id == NOT_PERMITTED:
            return Word.INCONCLUSIVE, f"{outcome.id}: {outcome.reason}", outcome.hint, Blame.ENVIRONMENT
    if not counts[Status.PASSED]:
        return Word.INCONCLUSIVE, "no outcome was verified", "", Blame.SUITE
    return Word.CONFORMS, "", "", None


def _failures(run: Run) -> list[tuple[str, str, str, Blame]]:
    """Failed outcomes first (they say it most precisely), then failed phases; each with its blame."""
    found = [
        (o.id, _first_line(o.reason), o.hint, o.blame or Blame.SUITE)
        for o in run.outcomes
        if o.status is Status.FAILED
    ]
    found += [
        (p.id, _first_line(p.reason), p.hint, p.blame or Blame.SUITE)
        for p in run.phases
        if p.status is Status.FAILED
    ]
    return found


def _exit_code(run: Run, word: Word, blame: Blame | None) -> int:
    if run.interrupted:
        return errors.EXIT_INTERRUPTED
    if word is Word.DOES_NOT_CONFORM:
        return errors.EXIT_PRODUCT
    if word is Word.INCONCLUSIVE:
        return errors.EXIT_SUITE if blame is Blame.SUITE else errors.EXIT_ENVIRONMENT
    return errors.EXIT_LEFTOVERS if run.leftovers else errors.EXIT_OK


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason was recorded"
