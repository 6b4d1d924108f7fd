"""The graph of steps: order, overlap, what a failure ends, interruption, critical path, states as files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.errors import Blame, Cancelled, EnvironmentProblem, HarnessError, ProductFailure, SuiteDefect
from harness.graph import Graph, Inapplicable, OnFailure, Step, StepState, StepStatus, closure, critical_path
from harness.redact import Secret
from harness.stack.catalogue import LAYERS, layer_steps
from harness.step_files import StepFiles, StepKey

Steps = dict[str, Step[object]]


def nothing() -> None:
    """A step that makes nothing."""


def step(name: str, *needs: str, run: Callable[[], object] = nothing) -> Step[object]:
    return Step(name, run, needs)


def named(*steps: Step[object]) -> Steps:
    return {it.name: it for it in steps}


def fail(error: BaseException) -> Callable[[], object]:
    def run() -> object:
        raise error

    return run


def graph(on_failure: OnFailure = OnFailure.STOP_DEPENDENTS) -> Graph:
    return Graph(on_failure=on_failure)


def statuses(one: Graph) -> dict[str, str]:
    return {state.name: str(state.status) for state in one.states}


def state_of(one: Graph, name: str) -> StepState:
    return next(state for state in one.states if state.name == name)


def test_only_the_wanted_and_what_they_need() -> None:
    steps = named(step("a"), step("b", "a"), step("c", "b"), step("d", "a"))
    assert list(closure(steps, ["c"])) == ["a", "b", "c"]
    with pytest.raises(SuiteDefect, match="no step is called 'x'"):
        closure(steps, ["x"])


def test_an_observer_runs_with_what_it_observes_and_only_then() -> None:
    seen = Step[object]("seen", nothing, ("b",), observes=True)
    steps = named(step("a"), step("b", "a"), step("c", "a"), seen)
    assert list(closure(steps, ["b"])) == ["a", "b", "seen"]
    assert list(closure(steps, ["c"])) == ["a", "c"]


def test_needs_come_first() -> None:
    seen: list[str] = []
    steps = named(
        step("c", "b", run=lambda: seen.append("c")),
        step("a", run=lambda: seen.append("a")),
        step("b", "a", run=lambda: seen.append("b")),
    )
    graph().run(steps)
    assert seen == ["a", "b", "c"]


def test_steps_that_do_not_need_each_other_overlap() -> None:
    both = threading.Barrier(2, timeout=5)
    one = graph()
    one.run(named(step("a", run=both.wait), step("b", run=both.wait)))
    assert statuses(one) == {"a": "done", "b": "done"}


def test_a_failure_stops_only_what_needs_it() -> None:
    problem = EnvironmentProblem("no memory", "free some", evidence="Killed")
    one = graph()
    one.run(named(step("a", run=fail(problem)), step("b", "a"), step("c", "b"), step("d", run=lambda: 1)))
    assert statuses(one) == {"a": "failed", "b": "skipped", "c": "skipped", "d": "done"}
    assert state_of(one, "a").error is problem
    assert state_of(one, "c").by == "b"
    assert state_of(one, "d").result == 1


def test_where_all_are_to_stop_the_first_failure_cancels_the_rest_and_is_raised() -> None:
    one = graph(OnFailure.STOP_ALL)
    begun: list[str] = []

    def slow() -> None:
        assert one.cancelled.wait(5), "nobody cancelled"
        raise Cancelled("interrupted")

    one.run(
        named(
            step("slow", run=slow),
            step("bad", run=fail(ProductFailure("the real reason"))),
            step("after", "bad", run=lambda: begun.append("after")),
        )
    )
    with pytest.raises(ProductFailure, match="the real reason"):
        one.raise_first_failure()
    assert begun == []
    assert statuses(one) == {"slow": "failed", "bad": "failed", "after": "skipped"}


def test_interrupt_while_waiting_stops_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    one = graph(OnFailure.STOP_ALL)
    ended = threading.Event()

    def interrupted() -> str:
        raise KeyboardInterrupt

    def patient() -> None:
        if one.cancelled.wait(5):
            ended.set()

    monkeypatch.setattr(one, "_next_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.run(named(step("a", run=patient), step("b", "a")))
    assert ended.is_set()
    assert statuses(one)["b"] == "skipped"  # whoever waits for it sees an end


@pytest.mark.parametrize("starts", [True, False])
def test_an_interrupt_amid_a_thread_s_start_leaves_nothing_at_work(
    monkeypatch: pytest.MonkeyPatch, starts: bool
) -> None:
    """What a step that began so makes is made when the graph ends, and can be removed."""
    made = []

    class Interrupted(threading.Thread):
        def start(self) -> None:
            if starts:
                super().start()
                assert began.wait(10)
            raise KeyboardInterrupt

    began = threading.Event()

    def make() -> None:
        began.set()
        time.sleep(0.3)
        made.append("it")

    monkeypatch.setattr("harness.graph.threading.Thread", Interrupted)
    graph = Graph(on_failure=OnFailure.STOP_ALL)
    with pytest.raises(KeyboardInterrupt):
        graph.run({"a": Step("a", make)})
    assert made == (["it"] if starts else [])


def test_a_circle_is_named() -> None:
    with pytest.raises(SuiteDefect, match="circle"):
        graph().run(named(step("a", "b"), step("b", "a")))


def test_any_other_exception_is_a_defect_of_the_suite() -> None:
    one = graph()
    one.run(named(step("a", run=fail(KeyError("x")))))
    error = state_of(one, "a").error
    assert error is not None
    assert error.blame is Blame.SUITE
    assert "KeyError" in error.evidence


def test_a_step_whose_result_nobody_can_take_has_failed() -> None:
    def changed(state: StepState) -> None:
        if state.ok:
            raise TypeError("cannot be written")

    one = Graph(on_failure=OnFailure.STOP_DEPENDENTS, changed=changed)
    one.run(named(step("a"), step("b", "a")))
    assert statuses(one) == {"a": "failed", "b": "skipped"}


def test_a_step_in_this_thread_raises_what_it_raises() -> None:
    one = graph()
    assert one.run_here(step("a", run=threading.get_ident)) == threading.get_ident()
    with pytest.raises(KeyError):
        one.run_here(step("b", run=fail(KeyError("x"))))
    assert statuses(one) == {"a": "done", "b": "failed"}


def test_what_is_done_already_is_not_run_again() -> None:
    ran: list[str] = []
    one = Graph(on_failure=OnFailure.STOP_ALL, known=[StepState("a", StepStatus.DONE)])
    one.run(named(step("a", run=lambda: ran.append("a")), step("b", "a", run=lambda: ran.append("b"))))
    assert ran == ["b"]


def test_what_has_no_meaning_for_this_run_takes_what_needs_it_along() -> None:
    why = Inapplicable("the cluster was there before")
    one = graph()
    one.run(named(step("a", run=fail(why)), step("b", "a"), step("c", "b"), step("d")))
    for name in "abc":
        state = state_of(one, name)
        assert state.status is StepStatus.NOT_APPLICABLE
        assert state.error is not None
        assert state.error.message == "the cluster was there before"
    assert [state.name for state in one.critical_path()] == ["d"]


def test_cancelled_steps_are_skipped() -> None:
    one = graph()
    one.cancelled.set()
    one.run(named(step("a")))
    assert statuses(one) == {"a": "skipped"}


def test_the_critical_path_is_the_chain_that_ends_last() -> None:
    def ran(name: str, needs: tuple[str, ...], start: float, end: float) -> StepState:
        return StepState(name, StepStatus.DONE, needs, start, end)

    states = [
        ran("cluster", (), 0, 10),
        ran("cert-manager", ("cluster",), 10, 30),
        ran("olm", ("cluster",), 10, 25),
        ran("gitlab", ("cluster",), 10, 12),
        ran("operator", ("gitlab", "olm"), 25, 45),
    ]
    path = critical_path(states)
    assert [state.name for state in path] == ["cluster", "olm", "operator"]
    assert sum(state.duration_s for state in path) == 45
    assert critical_path([]) == []


def test_times_are_seconds_since_the_graph_was_made() -> None:
    ticks: Iterator[float] = iter([100.0, 101.0, 103.5])
    one = Graph(on_failure=OnFailure.STOP_ALL, clock=lambda: next(ticks))
    one.run_here(step("a"))
    assert (one.states[0].started_s, one.states[0].ended_s) == (1.0, 3.5)


def test_the_layers_are_closed_under_needs() -> None:
    for name, layer in LAYERS.items():
        assert name == layer.name
        assert set(layer.needs) <= LAYERS.keys()
    assert list(layer_steps(lambda layer: None)) == list(LAYERS)


@dataclass(frozen=True)
class Made:
    """What a step of these tests makes."""

    number: int
    names: list[str]


class TestFiles:
    """States as another process reads them."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> StepFiles:
        found = StepFiles(tmp_path / "steps")
        found.own()
        return found

    def test_a_result_is_read_as_what_was_made(self, files: StepFiles) -> None:
        one = Graph(on_failure=OnFailure.STOP_ALL, changed=files.write)
        one.run(named(step("a", run=lambda: Made(3, ["x"]))))
        assert StepKey("a", Made).read(files.wait("a")) == Made(3, ["x"])
        with pytest.raises(SuiteDefect, match="step b left"):
            StepKey("b", Made).read(files.state("b"))

    def test_a_failure_is_read_with_all_that_it_says(self, files: StepFiles) -> None:
        problem = EnvironmentProblem("no memory", "free some", evidence="Killed")
        Graph(on_failure=OnFailure.STOP_ALL, changed=files.write).run(
            named(step("a", run=fail(problem)), step("b", "a"), step("c", "b"))
        )
        error = files.wait("a").error
        assert isinstance(error, HarnessError)
        assert (error.message, error.hint, error.blame, error.evidence) == (
            "no memory",
            "free some",
            Blame.ENVIRONMENT,
            "Killed",
        )
        assert files.root("c").name == "a"

    def test_a_wait_ends_when_the_owner_is_gone(self, files: StepFiles) -> None:
        (files.directory / "owner").write_text("999999999")
        with pytest.raises(SuiteDefect, match="is gone"):
            files.wait("a")

    def test_a_wait_for_what_is_no_step_of_the_run_ends_with_the_run(self, files: StepFiles) -> None:
        files.conclude()
        with pytest.raises(SuiteDefect, match="step nobody was not among the steps"):
            files.wait("nobody")
        files.own()
        files.write(StepState("late", StepStatus.DONE))
        assert files.wait("late").ok

    def test_no_secret_is_written(self, files: StepFiles) -> None:
        token = Secret("tell-nobody-this-word")
        problem = EnvironmentProblem(f"refused {token.reveal()}", evidence=token.reveal())
        Graph(on_failure=OnFailure.STOP_ALL, changed=files.write).run(named(step("a", run=fail(problem))))
        assert token.reveal() not in (files.directory / "a.json").read_text()
