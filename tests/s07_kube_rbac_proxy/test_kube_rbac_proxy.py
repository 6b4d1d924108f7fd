"""Seed, "The gcr.io image can't be used": told on the second cluster, where gcr.io can't be reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from fixtures import expect
from fixtures.olm import CSV
from fixtures.operator import DEPLOYMENT, the_controller_pod
from fixtures.second_cluster import BROKEN_PROXY, GOOD_PROXY, PROXY
from fixtures.workloads import ready_column
from harness.kube import Kube, Object
from harness.stack import StackContext
from harness.wait import Watched, wait_for

REINSTALL_TIMEOUT_S = 120
"""Seen: under a minute; OLM looks at a broken Deployment at once, and its pod starts in a few seconds."""


@pytest.mark.outcome("kube-rbac-proxy/pull-fails", needs=["offline/olm"])
def test_without_gcr_io_the_pod_stays_at_1_of_2(missing_proxy: Mapping[str, Any]) -> None:
    """Where gcr.io can't be reached, the controller's pod is 1/2 with ErrImagePull or ImagePullBackOff.

    Seed, "gcr.io image": "1/2 ErrImagePull … 1/2 ImagePullBackOff … Failed to pull image
    gcr.io/kubebuilder/kube-rbac-proxy:v0.8.0".
    """
    assert missing_proxy["reason"] in ("ErrImagePull", "ImagePullBackOff")
    assert missing_proxy["ready"] in ("0/2", "1/2"), f"the pod is {missing_proxy['ready']}"
    told = [
        message for message in missing_proxy["events"] if f'Failed to pull image "{BROKEN_PROXY}"' in message
    ]
    assert told, f"no event says that {BROKEN_PROXY} could not be pulled: {missing_proxy['events']}"


@pytest.mark.outcome("kube-rbac-proxy/csv-waits", needs=["kube-rbac-proxy/pull-fails"])
def test_the_csv_does_not_succeed_meanwhile(missing_proxy: Mapping[str, Any]) -> None:
    """As long as the image is missing, the CSV has not Succeeded.

    Seed, "gcr.io image": the operator "depends on the image gcr.io/kubebuilder/kube-rbac-proxy:v0.8.0".
    """
    phase = missing_proxy["phase"]
    assert phase in ("Pending", "InstallReady", "Installing", "Failed"), f"the CSV's phase is {phase}"


@pytest.mark.outcome("kube-rbac-proxy/replaced", needs=["kube-rbac-proxy/pull-fails"])
def test_with_the_other_image_it_runs(replaced_proxy: StackContext) -> None:
    """With kubesphere/kube-rbac-proxy:v0.8.0 the pod is 2/2 and the CSV Succeeded.

    Seed, "gcr.io image": "the solution is to replace the image … by kubesphere/kube-rbac-proxy:v0.8.0 …
    2/2 Running".
    """
    pod = the_controller_pod(replaced_proxy.kube, replaced_proxy.profile)
    assert _proxy_image(pod["spec"]["containers"]) == GOOD_PROXY
    assert ready_column(pod) == "2/2", f"{expect.ref(pod)} is {ready_column(pod)}"
    expect.fields(_csv(replaced_proxy), {"status.phase": "Succeeded"}, "the CSV")


@pytest.mark.outcome("kube-rbac-proxy/lasts", needs=["kube-rbac-proxy/replaced"])
def test_it_stays_so_after_a_reinstall(replaced_proxy: StackContext) -> None:
    """When OLM installs the Deployment again, the replaced image is still there: the CSV was changed too.

    Seed, "gcr.io image": "after the replacement the pod runs normally", 20 h later too.
    """
    kube, namespace = replaced_proxy.kube, replaced_proxy.profile.operator.namespace
    before = expect.there(kube.get("apps/v1/Deployment", DEPLOYMENT, namespace), DEPLOYMENT)
    _break(kube, dict(before), namespace)
    wait_for(
        lambda: kube.get("apps/v1/Deployment", DEPLOYMENT, namespace),
        ready=lambda it: it is not None and _proxy_image(_containers(it)) != BROKEN_PROXY,
        what="OLM has written its own template back",
        timeout_s=REINSTALL_TIMEOUT_S,
        kube=kube,
        watch=[Watched("apps/v1/Deployment", namespace), Watched(CSV, namespace)],
    )
    wait_for(
        lambda: (the_deployment(kube, namespace), _csv(replaced_proxy)),
        ready=lambda it: (
            it[0]["status"].get("availableReplicas") == 1 and it[1]["status"]["phase"] == "Succeeded"
        ),
        what="the controller runs again, and its CSV has Succeeded",
        timeout_s=REINSTALL_TIMEOUT_S,
        kube=kube,
        watch=[Watched("apps/v1/Deployment", namespace), Watched(CSV, namespace)],
    )
    assert _proxy_image(_containers(the_deployment(kube, namespace))) == GOOD_PROXY


def the_deployment(kube: Kube, namespace: str) -> Object:
    """The controller-manager's Deployment."""
    return dict(expect.there(kube.get("apps/v1/Deployment", DEPLOYMENT, namespace), DEPLOYMENT))


def _csv(stack: StackContext) -> Object:
    wish = stack.profile.operator
    return dict(expect.there(stack.kube.get(CSV, wish.csv, wish.namespace), f"CSV {wish.csv}"))


def _containers(deployment: Object) -> list[Object]:
    found: list[Object] = deployment["spec"]["template"]["spec"]["containers"]
    return found


def _proxy_image(containers: list[Object]) -> str:
    return next(str(container["image"]) for container in containers if container["name"] == PROXY)


def _break(kube: Kube, deployment: Object, namespace: str) -> None:
    """Put the unreachable image back into the Deployment alone: it is not ready, and OLM reinstalls."""
    index = [container["name"] for container in _containers(deployment)].index(PROXY)
    path = f"/spec/template/spec/containers/{index}/image"
    kube.patch(
        "apps/v1/Deployment", DEPLOYMENT, namespace, [{"op": "replace", "path": path, "value": BROKEN_PROXY}]
    )
    # The old pod would keep the Deployment available (rolling update); without it the CSV notices at once.
    for pod in kube.list("v1/Pod", namespace):
        if pod["metadata"]["name"].startswith(DEPLOYMENT):
            kube.delete("v1/Pod", pod["metadata"]["name"], namespace)
