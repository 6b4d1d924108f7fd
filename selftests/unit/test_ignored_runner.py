"""Why an operator has made nothing of a Runner, from the last words of its controller."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.stack import StackContext
from harness.stack.runner import POD, ignored_reason

FORBIDDEN = (
    "E1128 reflector.go:147] pkg/mod: Failed to watch *v1beta2.Runner: runners.apps.gitlab.com is forbidden: "
    'User "system:serviceaccount:operators:gitlab-runner-controller-manager" cannot list resource "runners" '
    'in API group "apps.gitlab.com" at the cluster scope'
)
STARTED = "INFO controller-runtime: Starting workers"


class Cluster:
    """A controller's pod that runs, and what it says."""

    def __init__(self, log: str) -> None:
        self.log = log

    def list(self, kind: str, namespace: str | None = None, **selectors: Any) -> list[dict[str, Any]]:
        if kind != POD:
            return []
        states = [
            {"name": it, "state": {"running": {}}, "ready": True} for it in ("kube-rbac-proxy", "manager")
        ]
        return [
            {
                "metadata": {"name": "gitlab-runner-controller-manager-0", "namespace": "operators"},
                "status": {"phase": "Running", "containerStatuses": states},
            }
        ]

    def logs(self, name: str, namespace: str, container: str, **options: Any) -> str:
        return self.log if container == "manager" else "Listening securely on 0.0.0.0:8443"


@pytest.mark.parametrize(
    ("lines", "rule"),
    [
        ((STARTED, FORBIDDEN), "admission/forbidden"),
        ((FORBIDDEN, STARTED), "operator/ignored"),
        ((STARTED,), "operator/ignored"),
        ((STARTED, 'ERROR Reconciler error {"Runner": "gitlab-runner"}'), "operator/reconcile"),
    ],
)
def test_what_the_controller_says_last(lines: tuple[str, ...], rule: str) -> None:
    profile = SimpleNamespace(operator=SimpleNamespace(namespace="operators"))
    ctx = SimpleNamespace(kube=Cluster("\n".join(lines)), profile=profile)
    reason = ignored_reason(cast(StackContext, ctx), "gitlab-runner", "default")
    assert reason is not None
    assert reason.id == rule
