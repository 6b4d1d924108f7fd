"""One engine for `up` and for the tests: a graph of steps, each run as soon as its needs are done.

>>> graph = Graph(on_failure=OnFailure.STOP_ALL)
>>> graph.run({"a": Step("a", print), "b": Step("b", print, needs=("a",))})
>>> [state.name for state in graph.critical_path()]
['a', 'b']
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Generic, TypeVar

from harness.diagnosis.exceptions import as_harness_error
from harness.errors import Cancelled, HarnessError, SuiteDefect

T = TypeVar("T")


class StepStatus(StrEnum):
    """How far a step is; ``skipped``: a need failed; ``not applicable``: no meaning in this run."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    NOT_APPLICABLE = "not applicable"

    @property
    def ended(self) -> bool:
        return self not in (StepStatus.WAITING, StepStatus.RUNNING)


class OnFailure(StrEnum):
    """What the failure of a step ends: everything (one command, all or nothing), or what needs the step."""

    STOP_ALL = "stop all"
    STOP_DEPENDENTS = "stop dependents"


class Inapplicable(Exception):
    """Raised by a step that has no meaning with what the user chose; ``why`` says which choice."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True)
class Step(Generic[T]):
    """One thing to make. ``run`` returns what the step made (a dataclass of plain data), never a secret.

    One that ``observes`` runs whenever what it needs is run: nobody asks for it, but reports show it.
    """

    name: str
    run: Callable[[], T]
    needs: tuple[str, ...] = ()
    observes: bool = False


@dataclass(frozen=True)
class StepState:
    """What is known of a step. Times are seconds since the graph was made; ``by``: the need that failed."""

    name: str
    status: StepStatus
    needs: tuple[str, ...] = ()
    started_s: float = 0.0
    ended_s: float = 0.0
    result: object = None
    error: HarnessError | None = None
    by: str = ""

    @property
    def duration_s(self) -> float:
        return max(0.0, self.ended_s - self.started_s)

    @property
    def ok(self) -> bool:
        return self.status is StepStatus.DONE


class _Work:
    """A step's thread, for who waits for it."""

    def __init__(self) -> None:
        self.began, self.ended = threading.Event(), threading.Event()


def closure(steps: Mapping[str, Step[object]], wanted: Iterable[str]) -> dict[str, Step[object]]:
    """The wanted steps, all they need, and their observers. Raises SuiteDefect for a name that is no step."""
    chosen: set[str] = set()
    names = list(wanted)
    while names:
        name = names.pop()
        if name in chosen:
            continue
        if name not in steps:
            raise SuiteDefect(f"no step is called {name!r}; there are {', '.join(steps)}")
        chosen.add(name)
        names.extend(steps[name].needs)
    return {
        name: step
        for name, step in steps.items()
        if name in chosen or (step.observes and chosen >= set(step.needs))
    }


def critical_path(states: Iterable[StepState]) -> list[StepState]:
    """The chain of needs that ends last: to make the whole faster, make one of these faster."""
    ended = {
        s.name: s for s in states if s.status in (StepStatus.DONE, StepStatus.FAILED, StepStatus.SKIPPED)
    }
    current = max(ended.values(), key=lambda s: s.ended_s, default=None)
    path: list[StepState] = []
    while current is not None:
        path.append(current)
        needed = [ended[name] for name in current.needs if name in ended]
        current = max(needed, key=lambda s: s.ended_s, default=None)
    return path[::-1]


class Graph:
    """Runs steps in threads, and keeps the state of each. ``changed`` hears of every change, in its thread.

    ``known`` are states from before: a step that is done among them is not run again.
    """

    def __init__(
        self,
        *,
        on_failure: OnFailure,
        changed: Callable[[StepState], None] = lambda state: None,
        known: Iterable[StepState] = (),
        cancelled: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cancelled = cancelled or threading.Event()
        self._stop_all = on_failure is OnFailure.STOP_ALL
        self._changed = changed
        self._clock = clock
        self._zero = clock()
        self._states = {state.name: state for state in known}
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()

    @property
    def states(self) -> list[StepState]:
        """All steps that have begun or were skipped, in the order in which they did."""
        return sorted(self._states.copy().values(), key=lambda state: state.started_s)

    def critical_path(self) -> list[StepState]:
        """The chain of needs that ends last."""
        return critical_path(self.states)

    def run(self, steps: Mapping[str, Step[object]]) -> None:
        """Run ``steps``; returns when every one has ended. Needs that are not among them count as done.

        When interrupted, or when this itself breaks, the rest is cancelled and recorded as skipped: whoever
        waits for a step sees an end.
        """
        order: TopologicalSorter[str] = TopologicalSorter(
            {step.name: [need for need in step.needs if need in steps] for step in steps.values()}
        )
        try:
            order.prepare()
        except CycleError as error:
            raise SuiteDefect(f"steps need each other in a circle: {' → '.join(error.args[1])}") from None
        begun: list[_Work] = []
        try:
            while order.is_active():
                for name in order.get_ready():
                    begun.append(_Work())
                    self._thread(steps[name], begun[-1])
                order.done(self._next_end())
        except BaseException:
            self.cancelled.set()
            raise
        finally:
            for work in begun:
                # Not Thread.join: an interrupt within Thread.start leaves one that runs and can't be joined.
                if work.began.is_set():
                    work.ended.wait()
            for step in steps.values():
                if step.name not in self._states:
                    self._skip(step, "")

    def run_here(self, step: Step[T]) -> T:
        """Run one step in the calling thread, before or beside the others; raises what it raises."""
        started = self._begin(step)
        try:
            result = step.run()
        except BaseException as error:
            self._end(step, started, StepStatus.FAILED, error=as_harness_error(error, f"step {step.name}"))
            raise
        self._end(step, started, StepStatus.DONE, result=result)
        return result

    def raise_first_failure(self) -> None:
        """Raise the error of the step that failed first, not of one that was cancelled because of it."""
        errors = [s.error for s in sorted(self.states, key=lambda s: s.ended_s) if s.error is not None]
        first = next((error for error in errors if not isinstance(error, Cancelled)), None)
        if first is not None or errors:
            raise first or errors[0]

    def _next_end(self) -> str:
        return self._ended.get()

    def _thread(self, step: Step[object], work: _Work) -> None:
        def run() -> None:
            work.began.set()  # before the look at whether all is cancelled: who cancels looks at this later
            try:
                self._run(step)
            except BaseException as error:  # whoever was to be told could not take it: then it is not done
                failure = as_harness_error(error, f"telling of step {step.name}")
                self._end(step, self._now(), StepStatus.FAILED, error=failure)
            finally:
                self._ended.put(step.name)
                work.ended.set()

        threading.Thread(target=run, name=f"step-{step.name}", daemon=True).start()

    def _run(self, step: Step[object]) -> None:
        if step.name in self._states and self._states[step.name].ok:
            return
        broken = next((it for it in map(self._states.get, step.needs) if it is not None and not it.ok), None)
        if broken is not None and broken.status is StepStatus.NOT_APPLICABLE:
            self._end(step, self._now(), StepStatus.NOT_APPLICABLE, error=broken.error)
        elif broken is not None or self.cancelled.is_set():
            self._skip(step, broken.name if broken else "")
        else:
            self._run_now(step)

    def _run_now(self, step: Step[object]) -> None:
        started = self._begin(step)
        try:
            result = step.run()
        except Inapplicable as choice:
            self._end(step, started, StepStatus.NOT_APPLICABLE, error=HarnessError(choice.why))
        except BaseException as error:
            if self._stop_all:
                self.cancelled.set()
            self._end(step, started, StepStatus.FAILED, error=as_harness_error(error, f"step {step.name}"))
        else:
            self._end(step, started, StepStatus.DONE, result=result)

    def _begin(self, step: Step[T]) -> float:
        now = self._now()
        self._set(StepState(step.name, StepStatus.RUNNING, step.needs, now))
        return now

    def _end(
        self,
        step: Step[T],
        started_s: float,
        status: StepStatus,
        *,
        result: object = None,
        error: HarnessError | None = None,
    ) -> None:
        now = self._now()
        self._set(StepState(step.name, status, step.needs, started_s, now, result, error))

    def _skip(self, step: Step[T], by: str) -> None:
        now = self._now()
        self._set(StepState(step.name, StepStatus.SKIPPED, step.needs, now, now, by=by))

    def _set(self, state: StepState) -> None:
        self._states[state.name] = state
        self._changed(state)

    def _now(self) -> float:
        return round(self._clock() - self._zero, 3)


def root_cause(state: StepState, state_of: Callable[[str], StepState]) -> StepState:
    """The step itself, or the failed one because of which it was skipped."""
    while state.status is StepStatus.SKIPPED and state.by:
        state = state_of(state.by)
    return state
