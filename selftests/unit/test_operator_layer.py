"""The operator's layer against an API that shows what OLM shows, also in between."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.kube import Kube
from harness.stack import StackContext
from harness.stack.olm import why_no_catalog
from harness.stack.operator import INSTALL_PLAN, approve_plan, find_plan

CSV_NAME = "gitlab-runner-operator.v1.15.1"


class FakeOlm:
    """InstallPlans, and what was patched when."""

    def __init__(self) -> None:
        self.plans: list[dict[str, Any]] = []
        self.patched: list[tuple[str, str]] = []

    def add(self, name: str, generation: int, phase: str = "", csv: str = CSV_NAME) -> None:
        spec = {"approved": False, "generation": generation, "clusterServiceVersionNames": [csv]}
        status = {"phase": phase} if phase else {}
        self.plans.append({"metadata": {"name": name}, "spec": spec, "status": status})

    def list(self, kind: str, namespace: str | None = None, **selectors: Any) -> list[dict[str, Any]]:
        return self.plans if kind == INSTALL_PLAN else []

    def get(self, *args: Any) -> None:
        return None

    def patch(self, kind: str, name: str, namespace: str, change: Any) -> None:
        plan = next(it for it in self.plans if it["metadata"]["name"] == name)
        self.patched.append((name, plan["status"].get("phase", "")))

    def list_with_version(self, *args: Any, **selectors: Any) -> tuple[list[dict[str, Any]], str]:
        return [], "1"

    def watch(self, *args: Any, **selectors: Any) -> QuietWatch:
        return QuietWatch()


class QuietWatch:
    """Nothing is ever told, so that looks come from the poll alone."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def __iter__(self) -> QuietWatch:
        return self

    def __next__(self) -> Any:
        self._stopped.wait()
        raise StopIteration

    def stop(self) -> None:
        self._stopped.set()


@pytest.fixture
def olm() -> FakeOlm:
    return FakeOlm()


@pytest.fixture
def ctx(ctx: StackContext, olm: FakeOlm) -> StackContext:
    kube: Any = olm
    return replace(ctx, kube=kube)


def test_a_plan_is_approved_only_once_olm_has_written_its_status(ctx: StackContext, olm: FakeOlm) -> None:
    olm.add("install-a", 1)
    timer = threading.Timer(0.3, lambda: olm.plans[0]["status"].update(phase="RequiresApproval"))
    timer.start()
    approve_plan(ctx, timeout_s=10)
    timer.join()
    assert olm.patched == [("install-a", "RequiresApproval")]


def test_the_newest_of_several_plans_is_approved_and_none_for_another_csv(
    ctx: StackContext, olm: FakeOlm
) -> None:
    olm.add("install-stuck", 1)
    olm.add("install-new", 2, "RequiresApproval")
    olm.add("install-other", 3, "RequiresApproval", csv="gitlab-runner-operator.v1.20.0")
    approve_plan(ctx, timeout_s=10)
    assert olm.patched == [("install-new", "RequiresApproval")]


def test_no_plan_is_none(ctx: StackContext, olm: FakeOlm) -> None:
    kube: Any = olm
    assert find_plan(kube, ctx.profile) is None


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ([], "is not there, and no other either"),
        (["redhat-operators"], "is not there, only redhat-operators"),
    ],
)
def test_a_catalog_that_is_not_there_is_told_with_those_that_are(there: list[str], words: str) -> None:
    kube = SimpleNamespace(list=lambda *_: [{"metadata": {"name": it}} for it in there])
    reason = why_no_catalog(cast(Kube, kube), "operatorhubio-catalog", "olm")
    assert reason is not None
    assert reason.id == "olm/catalog-missing"
    assert words in reason.sentence
