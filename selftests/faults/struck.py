"""Faults of the surroundings that strike a stack while a run provisions it."""

from __future__ import annotations

from typing import Any

from harness.errors import Blame
from selftests.faults.fault import Fault
from selftests.faults.steps import Create, Delete, Patch, PauseRunners, StackStep

GROUP = "operators.coreos.com/v1/OperatorGroup"
JOB = "pipeline/dind/succeeds"
_NAMESPACE = "runner-dind"
_MARK = "pod-security.kubernetes.io/enforce"


def _made(kind: str, api_version: str, name: str, namespace: str, spec: dict[str, Any]) -> StackStep:
    metadata = {"name": name, "namespace": namespace}
    return Create({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec})


def _subscription(name: str, package: str) -> StackStep:
    spec = {
        "name": package,
        "channel": "stable",
        "source": "operatorhubio-catalog",
        "sourceNamespace": "olm",
    }
    return _made("Subscription", "operators.coreos.com/v1alpha1", name, "operators", spec)


STRUCK: tuple[Fault, ...] = (
    Fault(
        "no-operator-group",
        "namespace operators has no OperatorGroup when the Subscription comes",
        "provision/operator",
        r"no OperatorGroup",
        Blame.PRODUCT,
        stack=(Delete(GROUP, "global-operators", "operators"),),
        after="olm-controllers",
        rule="olm/no-operator-group",
    ),
    Fault(
        "two-operator-groups-before",
        "namespace operators has two OperatorGroups when the Subscription comes",
        "provision/operator",
        r"2 OperatorGroups: .*second",
        stack=(_made("OperatorGroup", "operators.coreos.com/v1", "second", "operators", {}),),
        after="olm-controllers",
        rule="olm/many-operator-groups",
    ),
    Fault(
        "foreign-subscription",
        "somebody else's Subscription in namespace operators asks for what no catalog has",
        "provision/operator",
        r"somebody-elses",
        stack=(_subscription("somebody-elses", "no-such-package"),),
        after="olm-controllers",
        rule="olm/foreign-subscription",
    ),
    Fault(
        "operators-quota",
        "a ResourceQuota of no pods in namespace operators",
        "provision/operator",
        r"exceeded quota",
        stack=(_made("ResourceQuota", "v1", "none", "operators", {"hard": {"pods": "0"}}),),
        after="olm-controllers",
        rule="admission/quota",
    ),
    Fault(
        "job-quota",
        "a ResourceQuota that leaves room for the runner's pod only",
        JOB,
        r"exceeded quota",
        stack=(_made("ResourceQuota", "v1", "one", _NAMESPACE, {"hard": {"pods": "1"}}),),
        after="runner-dind",
        rule="admission/quota",
    ),
    Fault(
        "job-pod-security",
        "Pod Security `baseline` in the namespace of the privileged job",
        JOB,
        r"violates PodSecurity",
        stack=(Patch("v1/Namespace", {"metadata": {"labels": {_MARK: "baseline"}}}, name=_NAMESPACE),),
        after="runner-dind",
        rule="admission/pod-security",
    ),
    Fault(
        "runner-paused",
        "somebody pauses the runner in GitLab before it takes the job",
        JOB,
        r"paused",
        stack=(PauseRunners(),),
        after="runner-dind",
        rule="runner/paused",
    ),
)
