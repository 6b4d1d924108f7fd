"""The graph of steps: what runs, in which order, what a failure takes down, and who waits how long."""

from __future__ import annotations

import threading

import pytest

from fixtures.plugin.outcomes import NotApplicable
from fixtures.steps.graph import Step, StepsRun, StepsView, closure
from harness.errors import Blame, EnvironmentProblem, SuiteDefect
from harness.verdict import Status


def step(name: str, *needs: str, run=dict) -> Step:
    return Step(name, run, needs)


def fail(error: BaseException):
    def run():
        raise error

    return run


def test_only_the_wanted_and_what_they_need():
    steps = {s.name: s for s in (step("a"), step("b", "a"), step("c", "b"), step("d", "a"))}
    assert list(closure(steps, ["c"])) == ["a", "b", "c"]
    with pytest.raises(SuiteDefect, match="'x'"):
        closure(steps, ["x"])


def test_an_observer_is_played_with_what_it_observes_and_only_then():
    seen = Step("seen", dict, ("b",), observes=True)
    steps = {s.name: s for s in (step("a"), step("b", "a"), step("c", "a"), seen)}
    assert list(closure(steps, ["b"])) == ["a", "b", "seen"]
    assert list(closure(steps, ["c"])) == ["a", "c"]


def test_steps_that_don_t_need_each_other_overlap(tmp_path):
    both = threading.Barrier(2, timeout=5)
    steps = {
        s.name: s
        for s in (step("a", run=lambda: both.wait() and None), step("b", run=lambda: both.wait() and None))
    }
    run = StepsRun(tmp_path / "steps")
    run.run(steps)
    assert [s.state for s in run.states()] == ["done", "done"]


def test_a_failure_takes_down_only_what_needs_it(tmp_path):
    problem = EnvironmentProblem("no memory", "free some", evidence="Killed")
    steps = {
        s.name: s
        for s in (
            step("a", run=fail(problem)),
            step("b", "a"),
            step("c", "b"),
            step("d", run=lambda: {"x": 1}),
        )
    }
    run = StepsRun(tmp_path / "steps")
    run.run(steps)
    view = StepsView(run.directory)
    assert {s.name: s.state for s in view.states()} == {
        "a": "failed",
        "b": "skipped",
        "c": "skipped",
        "d": "done",
    }
    failed = view.wait("a").error
    assert (failed.message, failed.hint, failed.blame, failed.evidence) == (
        "no memory",
        "free some",
        Blame.ENVIRONMENT,
        "Killed",
    )
    assert view.wait("c").by == "b"
    assert view.wait("d").result == {"x": 1}
    assert view.state("c").phase(False).status is Status.BLOCKED


def test_any_other_exception_is_a_defect_of_the_suite(tmp_path):
    run = StepsRun(tmp_path / "steps")
    run.run({"a": step("a", run=fail(KeyError("x")))})
    assert run.wait("a").error.blame is Blame.SUITE


def test_a_kept_stage_is_not_played_twice(tmp_path):
    ran = []
    steps = {"a": step("a", run=lambda: ran.append(1) or {"n": len(ran)})}
    StepsRun(tmp_path / "steps").run(steps)
    again = StepsRun(tmp_path / "steps")
    again.run(steps)
    assert again.wait("a").result == {"n": 1}


def test_what_has_no_meaning_for_this_run_takes_what_needs_it_along(tmp_path):
    why = NotApplicable("the cluster was there before")
    steps = {s.name: s for s in (step("a", run=fail(why)), step("b", "a"), step("c", "b"), step("d"))}
    run = StepsRun(tmp_path / "steps")
    run.run(steps)
    for name in "abc":
        state = run.wait(name)
        assert (state.state, state.error.message) == ("inapplicable", "the cluster was there before")
        assert state.phase(False).status is Status.NOT_APPLICABLE
    assert run.wait("d").state == "done"
    assert run.critical() == {"d"}


def test_cancelled_steps_are_skipped(tmp_path):
    run = StepsRun(tmp_path / "steps")
    run.cancelled.set()
    run.run({"a": step("a")})
    assert run.wait("a").state == "skipped"


def test_a_wait_ends_when_the_owner_is_gone(tmp_path):
    run = StepsRun(tmp_path / "steps")
    (run.directory / "owner").write_text("999999999")
    with pytest.raises(SuiteDefect, match="is gone"):
        StepsView(run.directory).wait("a")


def test_the_critical_path_is_the_chain_that_ended_last(tmp_path):
    clock = iter(range(100))
    run = StepsRun(tmp_path / "steps", clock=lambda: float(next(clock)))
    steps = {s.name: s for s in (step("a"), step("b", "a"), step("c", "b"))}
    run.run(steps)
    assert run.critical() == {"a", "b", "c"}


def test_no_secret_is_written_to_a_state_file(tmp_path):
    from harness.redact import Secret

    token = Secret("tell-nobody-this-word")
    run = StepsRun(tmp_path / "steps")
    run.run(
        {"a": step("a", run=fail(EnvironmentProblem(f"refused {token.reveal()}", evidence=token.reveal())))}
    )
    assert token.reveal() not in (run.directory / "a.json").read_text()
