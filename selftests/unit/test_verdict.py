"""The verdict: what blocks what, which word, which exit code."""

from __future__ import annotations

import pytest

from harness.errors import Blame
from harness.verdict import Component, Outcome, Phase, Run, Status, Word, blockers, judge, resolve


def outcome(outcome_id: str, status: Status = Status.PASSED, *needs: str, **more) -> Outcome:
    if status is Status.FAILED:
        more.setdefault("blame", Blame.PRODUCT)
        more.setdefault("reason", f"{outcome_id} is red")
    return Outcome(outcome_id, outcome_id, status, needs=needs, **more)


def run_of(*outcomes: Outcome, **more) -> Run:
    phases = more.get("phases", ())
    return Run(
        run_id="rc-00000000",
        started="2026-11-23T00:00:00Z",
        duration_s=1.0,
        profile="seed",
        cluster="k3s",
        artifacts="bundle",
        gitlab="embedded",
        outcomes=resolve(outcomes, phases),
        **more,
    )


def status_of(run: Run, outcome_id: str) -> Status:
    return next(o.status for o in run.outcomes if o.id == outcome_id)


def test_all_passed_conforms():
    verdict = judge(run_of(outcome("a/one"), outcome("a/two")))
    assert (verdict.word, verdict.exit_code, str(verdict)) == (Word.CONFORMS, 0, "CONFORMS")


def test_a_failed_prerequisite_blocks_down_the_chain_and_names_the_root():
    run = run_of(
        outcome("a/root", Status.FAILED),
        outcome("b/middle", Status.FAILED, "a/root"),
        outcome("c/leaf", Status.PASSED, "b/middle"),
    )
    middle, leaf = run.outcomes[1:]
    assert (middle.status, middle.blocked_by) == (Status.BLOCKED, ("a/root",))
    assert (leaf.status, leaf.blocked_by) == (Status.BLOCKED, ("a/root",))
    assert judge(run).reason == "a/root: a/root is red"


def test_order_of_running_does_not_matter():
    run = run_of(outcome("b/leaf", Status.FAILED, "a/root"), outcome("a/root", Status.FAILED))
    assert status_of(run, "b/leaf") is Status.BLOCKED
    assert judge(run).reason.startswith("a/root")


def test_a_failed_phase_blocks_and_its_blame_decides():
    phase = Phase("cluster", 0, 1, Status.FAILED, "no memory", blame=Blame.ENVIRONMENT)
    run = run_of(outcome("a/one", Status.FAILED, "provision/cluster"), phases=(phase,))
    verdict = judge(run)
    assert status_of(run, "a/one") is Status.BLOCKED
    assert (verdict.word, verdict.exit_code) == (Word.INCONCLUSIVE, 10)
    assert verdict.reason == "provision/cluster: no memory"


@pytest.mark.parametrize(
    ("blame", "word", "code"),
    [
        (Blame.PRODUCT, Word.DOES_NOT_CONFORM, 1),
        (Blame.ENVIRONMENT, Word.INCONCLUSIVE, 10),
        (Blame.SUITE, Word.INCONCLUSIVE, 12),
    ],
)
def test_blame_decides_word_and_exit_code(blame, word, code):
    verdict = judge(run_of(outcome("a/one"), outcome("a/two", Status.FAILED, blame=blame)))
    assert (verdict.word, verdict.blame, verdict.exit_code) == (word, blame, code)


def test_the_product_is_named_even_when_the_environment_failed_first():
    run = run_of(
        outcome("a/env", Status.FAILED, blame=Blame.ENVIRONMENT), outcome("b/product", Status.FAILED)
    )
    assert judge(run).reason.startswith("b/product")


def test_requested_is_reached_or_the_run_is_red():
    differs = Component("k3s", "v1.28.5+k3s1", reached="v1.28.4+k3s1")
    verdict = judge(run_of(outcome("a/one"), components=(differs,)))
    assert (verdict.word, verdict.exit_code) == (Word.DOES_NOT_CONFORM, 1)
    assert "asked for v1.28.5+k3s1, found v1.28.4+k3s1" in verdict.reason


def test_a_stand_in_is_held_to_the_version_it_promises_and_makes_a_rehearsal():
    stand_in = Component(
        "k3s", "v1.28.5+k3s1", promised="v1.28.15+lab1", reached="v1.28.15+lab1", provenance="stand-in"
    )
    verdict = judge(run_of(outcome("a/one"), components=(stand_in,)))
    assert str(verdict) == "CONFORMS (rehearsal)"


def test_blocked_without_a_failure_is_inconclusive():
    lone = outcome("a/one", Status.BLOCKED, reason="no node shell here")
    verdict = judge(run_of(lone, outcome("a/two")))
    assert (verdict.word, verdict.exit_code) == (Word.INCONCLUSIVE, 10)
    assert "no node shell here" in verdict.reason


def test_blocked_outside_the_table_blocks_dependents_by_the_same_name():
    run = run_of(
        outcome("a/one", Status.BLOCKED, blocked_by=("x/gone",)), outcome("a/two", Status.PASSED, "a/one")
    )
    assert run.outcomes[1].blocked_by == ("x/gone",)


def test_nothing_verified_is_not_conformance():
    assert judge(run_of()).word is Word.INCONCLUSIVE
    only_na = run_of(outcome("a/one", Status.NOT_APPLICABLE))
    assert (judge(only_na).word, judge(only_na).exit_code) == (Word.INCONCLUSIVE, 12)


def test_what_was_selected_and_never_ran_is_not_conformance():
    assert judge(run_of(outcome("a/one"), outcome("a/two", Status.NOT_RUN))).word is Word.INCONCLUSIVE


def test_leftovers_fail_a_conforming_run_separately():
    verdict = judge(run_of(outcome("a/one"), leftovers=("link rc-1", "dir /x")))
    assert (verdict.word, verdict.exit_code) == (Word.CONFORMS, 11)
    assert "link rc-1" in verdict.reason
    red = judge(run_of(outcome("a/one", Status.FAILED), leftovers=("link rc-1",)))
    assert red.exit_code == 1


def test_an_interrupted_run_is_inconclusive_unless_the_product_has_already_failed():
    assert judge(run_of(outcome("a/one"), interrupted="interrupted by SIGTERM")).word is Word.INCONCLUSIVE
    red = judge(run_of(outcome("a/one", Status.FAILED), interrupted="interrupted by SIGTERM"))
    assert (red.word, red.exit_code) == (Word.DOES_NOT_CONFORM, 130)


def test_outcomes_that_need_each_other_are_refused():
    with pytest.raises(ValueError, match="a/one -> a/two -> a/one"):
        run_of(outcome("a/one", Status.PASSED, "a/two"), outcome("a/two", Status.PASSED, "a/one"))


def test_blockers_before_a_test_runs():
    known = {o.id: o for o in (outcome("a/root", Status.FAILED), outcome("b/fine"))}
    phases = (Phase("olm", 0, 1, Status.BLOCKED, blocked_by="cluster"),)
    assert blockers(("a/root", "b/fine", "z/unknown"), known) == ("a/root",)
    assert blockers(("provision/olm",), known, phases) == ("provision/olm",)
