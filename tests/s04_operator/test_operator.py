"""How-to, "Install Operator" and "Looking at the installed operator"."""

from __future__ import annotations

import time

import pytest

from fixtures import expect
from fixtures.olm import assert_succeeded
from fixtures.operator import (
    INSTALL_PLAN,
    SUBSCRIPTION,
    ControllerPod,
    Metrics,
    NewAccount,
    allow_metrics,
)
from fixtures.stack import Note, Reached
from fixtures.workloads import ready_column, restarts
from harness.kube import Kube, Object
from harness.profile import Profile
from harness.stack import StackContext
from harness.stack import csv as csv_says
from harness.stack.packages import PACKAGE_MANIFEST, may_offer
from harness.versions import facts
from harness.versions.releases import OPERATOR

SETTLING_S = 10
"""The controller has leader election and webhooks behind it within a few seconds; a crash shows by then."""


@pytest.mark.outcome("operator/subscription", needs=["olm/package"])
def test_the_subscription(operator: Kube, through_olm: object, profile: Profile) -> None:
    """The Subscription exists under its name and asks for the package's channel.

    How-to, "Install Operator": "subscription.operators.coreos.com/my-gitlab-runner-operator created".
    """
    wish = profile.operator
    found = operator.get(SUBSCRIPTION, wish.subscription_name, wish.namespace)
    expect.fields(
        found,
        {
            "spec.name": wish.package,
            "spec.channel": wish.channel,
            "spec.source": wish.catalog,
            "status.installedCSV": wish.csv,
        },
        f"Subscription {wish.subscription_name}",
    )


@pytest.mark.outcome("operator/install-plan", needs=["operator/subscription"])
def test_only_the_plan_for_the_csv_asked_for_was_carried_out(
    operator: Kube, through_olm: StackContext, profile: Profile
) -> None:
    """The InstallPlan for the CSV asked for is Complete; a plan for any other was not approved.

    How-to, "Looking at the installed operator": the CSV is v1.15.1, though the channel has moved on since.
    """
    wish = profile.operator
    plans = operator.list(INSTALL_PLAN, wish.namespace)
    ours = [plan for plan in plans if plan["spec"]["clusterServiceVersionNames"] == [wish.csv]]
    if through_olm.found is not None:  # versions that were upgraded since have plans as well
        plans = [plan for plan in plans if plan in ours or plan.get("status", {}).get("phase") != "Complete"]
    assert len(ours) == 1, f"plans for {wish.csv}: {len(ours)} of {[_plan(p) for p in plans]}"
    expect.fields(ours[0], {"spec.approved": True, "status.phase": "Complete"})
    others = [plan for plan in plans if plan is not ours[0] and plan["spec"].get("approved")]
    assert not others, f"also approved: {[_plan(p) for p in others]}"


def _plan(plan: Object) -> str:
    return f"{plan['metadata']['name']} for {plan['spec']['clusterServiceVersionNames']}"


@pytest.mark.outcome("operator/csv", needs=["operator/install-plan"])
def test_the_csv(operator: Kube, csv: Object, profile: Profile, reached: Reached) -> None:
    """The CSV has the name, display name, version and predecessor that the how-to's listing shows.

    How-to, "Looking at the installed operator": "gitlab-runner-operator.v1.15.1, DISPLAY GitLab Runner,
    VERSION 1.15.1, REPLACES gitlab-runner-operator.v1.15.0".
    """
    expect.fields(csv, {"spec.displayName": "GitLab Runner", "spec.version": profile.operator.version})
    wish = profile.operator
    before = facts.PREDECESSOR.get(wish.version)
    package = expect.there(
        operator.get(PACKAGE_MANIFEST, wish.package, wish.namespace), "the PackageManifest"
    )
    # OLM names the predecessor as the channel's entry does; a catalog may have left its bundle out
    if before and may_offer(package, wish.channel, f"{wish.package}.{before}"):
        expect.fields(csv, {"spec.replaces": f"{wish.package}.{before}"})
    reached("operator", csv["spec"]["version"])


@pytest.mark.outcome("operator/crd", needs=["operator/install-plan"])
def test_the_runner_kind_is_served(operator: Kube) -> None:
    """The CRD runners.apps.gitlab.com is Established and serves and stores v1beta2.

    How-to, "Creating the Runner CRD": "apiVersion: apps.gitlab.com/v1beta2, kind: Runner".
    """
    crd = operator.get("apiextensions.k8s.io/v1/CustomResourceDefinition", "runners.apps.gitlab.com")
    expect.fields(
        crd,
        {
            "spec.names.kind": "Runner",
            "spec.scope": "Namespaced",
            "spec.versions[name=v1beta2].served": True,
            "spec.versions[name=v1beta2].storage": True,
            "status.conditions[type=Established].status": "True",
        },
        "CRD runners.apps.gitlab.com",
    )


@pytest.mark.outcome("operator/controller", needs=["operator/csv", "cluster/pod-runs"])
def test_the_controller_runs_and_stays(
    stack: StackContext,
    csv_if_any: Object | None,
    controller_pod: Object,
    controller_pod_now: ControllerPod,
    profile: Profile,
) -> None:
    """The controller's pod is 2/2 (manager and kube-rbac-proxy), Running, and is not restarted.

    How-to, "Looking at the installed operator": "gitlab-runner-controller-manager-… 2/2 Running 0".
    """
    version = profile.operator.version
    if csv_if_any is not None and not OPERATOR.is_newer(version):  # of a newer one its CSV alone can tell
        named = [deployment["name"] for deployment in csv_says.deployments(csv_if_any)]
        assert named == [facts.CONTROLLER.at(version)], f"the CSV's Deployments are {named}"
        account = controller_pod["spec"].get("serviceAccountName")
        assert account == facts.SERVICE_ACCOUNT.at(version), f"its ServiceAccount is {account}"
        webhooks = csv_says.webhooks(csv_if_any)
        assert webhooks == sorted(facts.WEBHOOKS.at(version)), f"the CSV's webhooks are {webhooks}"
    containers = sorted(container["name"] for container in controller_pod["spec"]["containers"])
    assert containers == sorted(facts.CONTAINERS.at(version)), f"its containers are {containers}"
    _assert_running(controller_pod, stack)
    time.sleep(_age_left_s(controller_pod))
    later = controller_pod_now()
    assert later["metadata"]["uid"] == controller_pod["metadata"]["uid"], "the pod was replaced meanwhile"
    _assert_running(later, stack)


def _assert_running(pod: Object, stack: StackContext) -> None:
    assert ready_column(pod) == "2/2", f"{expect.ref(pod)} is {ready_column(pod)}\n{_states(pod)}"
    assert pod["status"]["phase"] == "Running", f"{expect.ref(pod)} is {pod['status']['phase']}"
    again = restarts(pod, stack)
    assert again == 0, f"{expect.ref(pod)} was restarted {again} time(s)\n{_states(pod)}"


def _states(pod: Object) -> str:
    return "\n".join(f"  {s['name']}: {s['state']}" for s in pod["status"].get("containerStatuses", ()))


def _age_left_s(pod: Object) -> float:
    """Seconds until its containers have run for the settling time: the promise is about staying up."""
    starts = [
        status["state"]["running"]["startedAt"]
        for status in pod["status"]["containerStatuses"]
        if "running" in status["state"]
    ]
    started = time.mktime(time.strptime(max(starts), "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    return max(0.0, min(SETTLING_S, started + SETTLING_S - time.time()))


@pytest.mark.outcome("operator/csv-succeeded", needs=["operator/controller"])
def test_the_csv_has_succeeded(csv: Object) -> None:
    """The CSV's phase is Succeeded.

    How-to, "Looking at the installed operator": "PHASE Succeeded".
    """
    assert_succeeded(csv, f"CSV {csv['metadata']['name']}")
    expect.fields(csv, {"status.reason": "InstallSucceeded"})


@pytest.mark.outcome("operator/metrics", needs=["operator/controller"])
def test_metrics_are_guarded(
    request: pytest.FixtureRequest, metrics: Metrics, stack: StackContext, note: Note
) -> None:
    """kube-rbac-proxy refuses metrics without a token and without permission, and serves them with it.

    How-to, "gcr.io image": the controller depends on kube-rbac-proxy; guarding metrics is what it is for.
    """
    status, _ = metrics(None)
    assert status == 401, f"without a token: HTTP {status}"
    if stack.found is not None:
        note(
            "operator/metrics: only the refusal without a token was judged; other accounts would be a change"
        )
        return
    new_account: NewAccount = request.getfixturevalue("new_account")
    checks_namespace: str = request.getfixturevalue("checks_namespace")
    status, _ = metrics(new_account("metrics-nobody"))
    assert status == 403, f"with a token that has no permission: HTTP {status}"
    # Another account, with the role from the start: the proxy remembers a refusal for 30 s.
    reader = new_account("metrics-reader")
    allow_metrics(stack, checks_namespace, "metrics-reader", "gitlab-runner-metrics-reader")
    status, body = metrics(reader)
    assert status == 200, f"with permission: HTTP {status}: {body[:300]}"
    assert "# TYPE " in body, f"this is no Prometheus page: {body[:300]}"
