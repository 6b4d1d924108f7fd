"""Notes are beside the verdict: whatever can't be looked at, a run goes on and is taken down."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

import harness.notes
from harness.kube_errors import ApiUnreachable
from harness.stack import StackContext

NAMED = {"metadata": {"name": "n"}}


class Kube:
    """Answers every list with ``answer``, or raises it."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked = 0

    def list(self, *_: object, **__: object) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def get(self, *_: object, **__: object) -> None:
        return None


@pytest.fixture(autouse=True)
def no_gitlab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.notes, "_gitlab_clock", lambda ctx: iter(()))


def context(kube: Kube) -> StackContext:
    operator = SimpleNamespace(subscription_name="ours")
    return cast(StackContext, SimpleNamespace(kube=kube, profile=SimpleNamespace(operator=operator)))


def test_an_api_that_is_away_is_asked_once() -> None:
    kube = Kube(ApiUnreachable("no route", doing="asking"))
    assert harness.notes.notes(context(kube)) == []
    assert kube.asked == 1


def test_objects_of_another_shape_are_left_out() -> None:
    kube = Kube([{"metadata": {}, "spec": {}, "status": {"conditions": [{}]}}])
    assert harness.notes.notes(context(kube)) == []
    assert kube.asked == 5


@pytest.mark.parametrize(("ready", "noted"), [("True", True), ("Unknown", False)])
def test_the_clock_of_a_node_is_noted_while_its_kubelet_renews_its_lease(ready: str, noted: bool) -> None:
    class Cluster(Kube):
        def list(self, kind: str = "", *_: object, **__: object) -> Any:
            return {
                "v1/Node": [{**NAMED, "status": {"conditions": [{"type": "Ready", "status": ready}]}}],
                "coordination.k8s.io/v1/Lease": [{**NAMED, "spec": {"renewTime": "2024-02-29T12:30:00Z"}}],
            }.get(kind, [])

    found = harness.notes.notes(context(Cluster([])))
    assert any("clock of node n" in it for it in found) == noted, found
    assert any("Ready=Unknown" in it for it in found) != noted
