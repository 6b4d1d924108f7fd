"""The catalogue is whole and judges strictly; what was seen on real nodes keeps to its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fixtures.plugin.catalogue import declared
from harness.diagnosis import BY_ID
from selftests.faults.blocked import BLOCKED, blocked_by
from selftests.faults.breakages import BREAKAGES
from selftests.faults.catalogue import FAULTS
from selftests.faults.page import PAGE, catalogue, render
from selftests.faults.run import Ended, Wanted, beside, by_way_of, needs_of, wrong_with
from selftests.faults.seen import NO_REASON, Record, Seen, read_seen
from selftests.faults.slips import RUNS
from selftests.faults.surroundings import SURROUNDINGS

OUTCOMES = {spec.id: spec for spec in declared()}
RED = sorted(
    {outcome for it in (*BREAKAGES, *SURROUNDINGS) for outcome in it.red}
    | {outcome for run in RUNS for slip in run.slips for outcome in slip.red}
    | {fault.red for fault in FAULTS.values() if fault.red in OUTCOMES}
)
SECTIONS = frozenset(it.partition("/")[0] for it in OUTCOMES)
LIMIT_S = {it.what: it.limit_s for it in (*BREAKAGES, *SURROUNDINGS)}


@pytest.mark.parametrize("red", RED)
def test_what_must_be_blocked_is_said_for_every_red_outcome(red: str) -> None:
    """And the tests declare to need what blocks them, if only by way of others."""
    for blocked in blocked_by(red, SECTIONS):
        assert red in needs_of(blocked), f"{blocked} does not need {red}"
    assert blocked_by(red, frozenset()) == ()


def test_what_another_outcome_needs_blocks_something() -> None:
    """But cluster DNS: only jobs need it, and a job says itself that it can't resolve a name."""
    needed = {need for spec in OUTCOMES.values() for need in spec.needs} - {"cluster/dns"}
    assert needed == set(BLOCKED)


def test_a_run_has_the_outcomes_by_way_of_which_another_is_blocked() -> None:
    assert by_way_of("olm/crds", ["olm/package"]) == [
        "olm/catalog",
        "olm/package",
        "olm/packageserver",
        "olm/rolled-out",
    ]
    assert by_way_of("olm/crds", []) == []


@pytest.mark.parametrize(
    "rule",
    sorted({it.rule for it in (*BREAKAGES, *SURROUNDINGS)} | {it.rule for it in FAULTS.values()} - {""}),
)
def test_the_rule_that_must_explain_a_fault_is_one(rule: str) -> None:
    assert not rule or rule in BY_ID


ENTRY = {
    "id": "olm/catalog",
    "status": "failed",
    "blame": "environment",
    "reason_id": "pull/denied",
    "duration_s": 30.0,
    "reason": "catalog: failed after 20.5 s: 401 Unauthorized\nevidence",
}


@pytest.mark.parametrize(
    ("entry", "wanted", "complaint"),
    [
        ({}, Wanted("401", "environment", "pull/denied", 45), ""),
        ({"status": "passed"}, Wanted("401"), "is passed"),
        ({"status": "blocked"}, Wanted("401"), "is blocked"),
        ({}, Wanted("429"), "does not say '429'"),
        ({}, Wanted("401", "product"), "blames environment instead of product"),
        ({"blame": "suite"}, Wanted("401", "environment"), "blames suite instead of environment"),
        ({}, Wanted("401", "", "pull/slow"), "is explained by pull/denied instead of pull/slow"),
        ({"reason_id": ""}, Wanted("401", "", "pull/slow"), "is explained by no rule"),
        ({}, Wanted("401", limit_s=20), "is red after 20 s"),
        ({"reason": "401"}, Wanted("401", limit_s=20), "is red after 30 s"),
    ],
)
def test_a_red_outcome_is_judged_by_words_blame_rule_and_time(
    entry: dict[str, Any], wanted: Wanted, complaint: str
) -> None:
    found = wrong_with({**ENTRY, **entry}, wanted)
    assert found.startswith(complaint)
    assert bool(found) is bool(complaint)


def test_nothing_else_may_be_red_and_what_must_be_blocked_is() -> None:
    def outcome(id: str, status: str, reason: str = "r") -> dict[str, str]:
        return {"id": id, "status": status, "reason": reason}

    outcomes = [
        outcome("a/red", "failed"),
        outcome("a/green", "passed"),
        outcome("a/stands", "passed"),
        outcome("a/other", "failed", "KeyError: 'data'"),
    ]
    ended = Ended(
        1, "", {"outcomes": outcomes, "phases": [{"name": "x", "status": "failed", "reason": "cut …"}]}
    )
    assert beside(ended, ["a/red"], ["a/green"], ["a/stands"]) == [
        "a/stands is passed and must be blocked: r",
        "a/other is red too: KeyError: 'data'",
        "this is no reason: KeyError: 'data'",
        "this is no reason: cut …",
    ]
    assert beside(ended, ["a/red", "a/other"], ["a/absent"], [])[0].startswith("a/absent is not run")


@pytest.mark.parametrize(
    ("reason", "none"),
    [
        ("_Again: 429 from https://x", True),
        ("KeyError: 'data'", True),
        ("gitlab.exceptions.GitlabGetError: 404", True),
        ("RuntimeError with a script", True),
        ("urllib3.exceptions.ReadTimeoutError: x", True),
        ("CSV Succeeded: not so after 60.0 s", True),
        ("pods is forbidden: violates PodSec…", True),
        ("pod a/b: Error response from daemon: 429", False),
        ("a: failed after 3.0 s: b … c", False),
    ],
)
def test_what_is_no_reason(reason: str, none: bool) -> None:
    assert bool(NO_REASON.search(reason)) is none


def test_what_is_seen_is_kept_at_once_and_the_latest_counts(tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    Record(path).see(Seen.of("kept", "b", "a/red", {**ENTRY, "reason": "in /tmp/x/y.log: 401"}))
    again = Record(path)
    again.see(Seen.of("kept", "a", "a/red", ENTRY))
    again.see(Seen.of("kept", "b", "a/red", ENTRY))
    assert [(it.fault, it.seconds, it.said) for it in read_seen(path)] == [
        ("a", 20.5, "catalog: failed after 20.5 s: 401 Unauthorized"),
        ("b", 20.5, "catalog: failed after 20.5 s: 401 Unauthorized"),
    ]


def test_what_was_seen_is_not_looked_at_again_where_that_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    Record(path).see(Seen.of("kept", "b", "a/red", ENTRY))
    assert not Record(path, unseen=True).wants("kept", "b", ["a/red"])
    assert Record(path, unseen=True).wants("kept", "b", ["a/red", "a/other"])
    assert Record(path, unseen=True).wants("slips", "b", ["a/red"])
    assert Record(path).wants("kept", "b", ["a/red"])


def test_a_job_that_ended_has_no_time_of_its_own() -> None:
    job = {**ENTRY, "reason": "job build is failed: 401"}
    assert Seen.of("slips", "b", "a/red", job).seconds is None
    assert Seen.of("slips", "b", "a/red", ENTRY).seconds == 20.5
    assert Seen.of("kept", "b", "a/red", job).seconds == 30.0


# -- what was seen on real nodes --------------------------------------------------------------------------


def test_the_page_is_what_was_seen() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run python -m selftests.faults.page"


@pytest.mark.parametrize("seen", read_seen(), ids=lambda it: f"{it.fault}: {it.red}")
def test_every_recorded_reason_is_one_and_came_in_time(seen: Seen) -> None:
    assert not NO_REASON.search(seen.said)
    assert "Traceback" not in seen.said
    assert seen.seconds is None or seen.seconds <= LIMIT_S.get(seen.fault, 45.0)
    whose = {"product", "environment"} if seen.part != "slips" else {"product", "environment", "suite"}
    assert seen.blame in whose or not seen.red
    assert not seen.rule or seen.rule in BY_ID
    assert seen.fault in catalogue(seen.part), "no longer in the catalogue: remove its row"
