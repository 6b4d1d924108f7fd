"""Notes are beside the verdict: whatever can't be looked at, a run goes on and is taken down."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

import harness.notes
from harness.kube_errors import ApiUnreachable
from harness.stack import StackContext


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
