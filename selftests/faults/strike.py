"""A pytest plugin that strikes a stack while a run provisions it: ``-p selftests.faults.strike``.

The variable VARIABLE names a fault of selftests.faults.catalogue, or a strike of STRIKES. It is done at the
end of the step that it comes after, before any test or later step can see that step's end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from fixtures.steps.stack import second_name
from harness.attach import attach
from harness.cluster import K3sCluster
from harness.graph import Step
from harness.kube import ApiError, Kube, Object
from harness.wait import wait_for
from selftests.faults.catalogue import FAULTS, FaultTarget, inject
from selftests.faults.steps import Stack

VARIABLE = "RUNNER_CONFORMANCE_STRIKE"
CSV = "operators.coreos.com/v1alpha1/ClusterServiceVersion"
DEPLOYMENT = "apps/v1/Deployment"
OPERATOR = "gitlab-runner-operator.v1.15.1"
LIMIT_S = 120


def _fault(name: str) -> Callable[[str], None]:
    def strike(stack: str) -> None:
        context = attach(stack)
        assert isinstance(context.cluster, K3sCluster)
        inject(
            FAULTS[name],
            FaultTarget(stack=Stack(context.kube, context.cluster, context.results.get("gitlab"))),
        )

    return strike


def hasty_csv(stack: str) -> None:
    """On the second cluster somebody says Succeeded in OLM's place, before the operator's pod is tried.

    A quota holds the pod back until then.
    """
    kube = attach(second_name(stack)).kube
    quota: Object = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
    kube.create({**quota, "spec": {"hard": {"pods": "0"}}}, "operators")
    threading.Thread(target=_say_succeeded, args=(kube,), daemon=True).start()


def _say_succeeded(kube: Kube) -> None:
    wait_for(
        lambda: _phase(kube),
        ready=lambda phase: phase == "Installing",
        what=f"CSV {OPERATOR} Installing",
        timeout_s=LIMIT_S,
        poll_s=0.1,
    )
    kube.patch(DEPLOYMENT, "olm-operator", "olm", {"spec": {"replicas": 0}})
    wait_for(
        lambda: kube.list("v1/Pod", "olm", label_selector="app=olm-operator"),
        ready=lambda pods: not pods,
        what="olm-operator has ended",
        timeout_s=LIMIT_S,
        poll_s=0.1,
    )
    kube.patch(CSV, OPERATOR, "operators", {"status": {"phase": "Succeeded"}}, subresource="status")
    kube.delete("v1/ResourceQuota", "none", "operators")


def _phase(kube: Kube) -> str:
    try:
        found = kube.get(CSV, OPERATOR, "operators") or {}
    except ApiError:
        return ""
    return str(found.get("status", {}).get("phase", ""))


STRIKES: Mapping[str, tuple[str, Callable[[str], None]]] = {
    "hasty-csv": ("second-olm", hasty_csv),
    **{name: (fault.after, _fault(name)) for name, fault in FAULTS.items() if fault.stack},
}
"""Name → the step it comes after, and what is done to the stack of that name."""


class _Struck:
    """What the run verifies, with one step that ends with the strike."""

    def __init__(self, provisioning: Any, after: str, strike: Callable[[str], None]) -> None:
        self._provisioning, self._after, self._strike = provisioning, after, strike

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provisioning, name)

    def steps(self) -> Mapping[str, Step]:
        steps = dict(self._provisioning.steps())
        step = steps[self._after]

        def run() -> Any:
            result = step.run()
            self._strike(self._provisioning.name)
            return result

        steps[self._after] = replace(step, run=run)
        return steps


@pytest.hookimpl(wrapper=True)
def pytest_conformance_provisioning() -> Generator[None, Any, Any]:
    provisioning = yield
    after, strike = STRIKES[os.environ[VARIABLE]]
    return _Struck(provisioning, after, strike)
