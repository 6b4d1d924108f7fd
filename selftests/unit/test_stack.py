"""The graph of layers: order, overlap, first failure, interruption; and the timeline's critical path."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from harness.errors import Cancelled, ProductFailure, SuiteDefect
from harness.stack import Layer, StackContext, install_layers, select
from harness.stack.catalogue import LAYERS
from harness.timeline import Timeline


def layer(
    name: str, needs: tuple[str, ...] = (), do: Callable[[StackContext], object] = lambda ctx: None
) -> Layer:
    return Layer(name, do, needs)


def test_needs_come_first_and_results_are_handed_on(ctx: StackContext) -> None:
    seen: list[str] = []

    def note(name: str) -> Callable[[StackContext], object]:
        return lambda ctx: (seen.append(name), f"result of {name}")[1]

    layers = [layer("c", ("b",), note("c")), layer("a", (), note("a")), layer("b", ("a",), note("b"))]
    install_layers(ctx, layers, Timeline())
    assert seen == ["a", "b", "c"]
    assert ctx.results["c"] == "result of c"


def test_independent_layers_overlap(ctx: StackContext) -> None:
    both = threading.Barrier(2, timeout=5)
    timeline = Timeline()
    install_layers(
        ctx, [layer("a", (), lambda c: both.wait()), layer("b", (), lambda c: both.wait())], timeline
    )
    assert all(phase.ok for phase in timeline.phases)


def test_first_failure_cancels_the_rest_and_is_raised(ctx: StackContext) -> None:
    begun: list[str] = []

    def slow(ctx: StackContext) -> None:
        assert ctx.cancelled.wait(5), "nobody cancelled"
        raise Cancelled("interrupted")

    def fail(ctx: StackContext) -> None:
        raise ProductFailure("the real reason")

    layers = [
        layer("slow", (), slow),
        layer("bad", (), fail),
        layer("after", ("bad",), lambda ctx: begun.append("after")),
    ]
    timeline = Timeline()
    with pytest.raises(ProductFailure, match="the real reason"):
        install_layers(ctx, layers, timeline)
    assert begun == []
    assert {phase.name: phase.note for phase in timeline.phases} == {
        "slow": "interrupted",
        "bad": "the real reason",
    }


def test_interrupt_while_waiting_stops_the_threads(
    ctx: StackContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.stack.wait", interrupted)
    ended = threading.Event()

    def patient(ctx: StackContext) -> None:
        if ctx.cancelled.wait(5):
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        install_layers(ctx, [layer("a", (), patient)], Timeline())
    assert ended.is_set()


def test_select_adds_needs_and_refuses_unknown_names() -> None:
    layers = {it.name: it for it in (layer("a"), layer("b", ("a",)), layer("c"))}
    assert [it.name for it in select(layers, ["b"])] == ["a", "b"]
    with pytest.raises(SuiteDefect, match="no layer is called 'x'"):
        select(layers, ["x"])


def test_a_circle_is_named(ctx: StackContext) -> None:
    with pytest.raises(SuiteDefect, match="circle"):
        install_layers(ctx, [layer("a", ("b",)), layer("b", ("a",))], Timeline())


def test_catalogue_is_closed_under_needs() -> None:
    for name, one in LAYERS.items():
        assert name == one.name
        assert set(one.needs) <= LAYERS.keys()


def test_critical_path_is_the_chain_that_ends_last() -> None:
    now = [0.0]
    timeline = Timeline(clock=lambda: now[0])

    def run(name: str, needs: tuple[str, ...], start: float, end: float) -> None:
        now[0] = start
        with timeline.phase(name, needs) as phase:
            now[0] = end
        phase.start_s, phase.end_s = start, end

    run("cluster", (), 0, 10)
    run("cert-manager", ("cluster",), 10, 30)
    run("olm", ("cluster",), 10, 25)
    run("gitlab", ("cluster",), 10, 12)
    run("operator", ("gitlab", "olm"), 25, 45)
    assert [phase.name for phase in timeline.critical_path()] == ["cluster", "olm", "operator"]
    assert timeline.critical_s == 45
    assert timeline.wall_s == 45
    again = Timeline.from_dict(timeline.to_dict())
    assert again.to_dict() == timeline.to_dict()


def test_a_failed_phase_keeps_its_reason_in_one_line() -> None:
    timeline = Timeline()
    with pytest.raises(ProductFailure), timeline.phase("x"):
        raise ProductFailure("one line", "a hint")
    assert timeline.phases[0].note == "one line"
    assert not timeline.phases[0].ok
