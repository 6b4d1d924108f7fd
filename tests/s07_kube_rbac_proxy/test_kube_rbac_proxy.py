"""How-to, "The gcr.io image can't be used": told on the second cluster, where gcr.io can't be reached."""

from __future__ import annotations

import pytest

from fixtures import expect
from fixtures.olm import CSV
from fixtures.steps.second_cluster import PullFailed, Replaced, Replacement
from fixtures.workloads import controller_of, controller_pod_of, ready_column
from harness.stack import StackContext
from harness.stack.csv import PROXY


@pytest.mark.outcome("kube-rbac-proxy/pull-fails", needs=["offline/olm"])
def test_without_gcr_io_the_pod_stays_at_1_of_2(
    replaced_image: Replacement, missing_proxy: PullFailed
) -> None:
    """Where gcr.io can't be reached, the controller's pod is 1/2 with ErrImagePull or ImagePullBackOff.

    How-to, "gcr.io image": "1/2 ErrImagePull … 1/2 ImagePullBackOff … Failed to pull image
    gcr.io/kubebuilder/kube-rbac-proxy:v0.8.0".
    """
    assert missing_proxy.reason in ("ErrImagePull", "ImagePullBackOff")
    assert missing_proxy.ready in ("0/2", "1/2"), f"the pod is {missing_proxy.ready}"
    broken = replaced_image.broken
    told = [message for message in missing_proxy.events if f'Failed to pull image "{broken}"' in message]
    assert told, f"no event says that {broken} could not be pulled: {missing_proxy.events}"


@pytest.mark.outcome("kube-rbac-proxy/csv-waits", needs=["kube-rbac-proxy/pull-fails"])
def test_the_csv_does_not_succeed_meanwhile(missing_proxy: PullFailed) -> None:
    """As long as the image is missing, the CSV has not Succeeded.

    How-to, "gcr.io image": the operator "depends on the image gcr.io/kubebuilder/kube-rbac-proxy:v0.8.0".
    """
    phase = missing_proxy.phase
    assert phase in ("Pending", "InstallReady", "Installing", "Failed"), f"the CSV's phase is {phase}"


@pytest.mark.outcome("kube-rbac-proxy/replaced", needs=["kube-rbac-proxy/pull-fails"])
def test_with_the_other_image_it_runs(replaced_image: Replacement, replaced_proxy: Replaced) -> None:
    """With kubesphere/kube-rbac-proxy:v0.8.0 the pod is 2/2 and the CSV Succeeded.

    How-to, "gcr.io image": "the solution is to replace the image … by kubesphere/kube-rbac-proxy:v0.8.0 …
    2/2 Running".
    """
    expect.fields(
        replaced_proxy.pod,
        {f"spec.containers[name={PROXY}].image": replaced_image.good, "status.phase": "Running"},
    )
    assert ready_column(replaced_proxy.pod) == "2/2", f"the pod is {ready_column(replaced_proxy.pod)}"
    expect.fields(replaced_proxy.csv, {"status.phase": "Succeeded"})


@pytest.mark.outcome("kube-rbac-proxy/lasts", needs=["kube-rbac-proxy/replaced"])
def test_it_stays_so_after_a_reinstall(
    replaced_image: Replacement, reinstalled_operator: StackContext
) -> None:
    """When OLM installs the Deployment again, the replaced image is still there: the CSV was changed too.

    How-to, "gcr.io image": "after the replacement the pod runs normally", 20 h later too.
    """
    kube, wish = reinstalled_operator.kube, reinstalled_operator.profile.operator
    expect.fields(
        controller_of(kube, reinstalled_operator.profile),
        {
            f"spec.template.spec.containers[name={PROXY}].image": replaced_image.good,
            "status.availableReplicas": 1,
        },
    )
    pod = controller_pod_of(kube, reinstalled_operator.profile)
    assert ready_column(pod) == "2/2", f"{expect.ref(pod)} is {ready_column(pod)}"
    expect.fields(kube.get(CSV, wish.csv, wish.namespace), {"status.phase": "Succeeded"}, f"CSV {wish.csv}")
