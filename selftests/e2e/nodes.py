"""Nodes of a bundle, and pods on them, for the tests on real nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.artifacts.bundle import Bundle
from harness.cluster import ClusterOptions
from harness.kube import Kube, Object
from harness.ownership import new_run_id
from harness.wait import Watched, wait_for

ALPINE = "docker.io/library/alpine:latest"
POD_TIMEOUT_S = 240.0  # the docker image is 0.5 GB, and the machine may be busy


def options(
    bundle: Path, state_dir: Path, name: str, *, docker: bool = False, **more: object
) -> ClusterOptions:
    """A cluster of a bundle, which needs nothing that is beyond this host."""
    files = Bundle.read(bundle)
    return ClusterOptions(
        new_run_id(),
        name,
        files.file("k3s"),
        state_dir,
        registry_program=files.file("registry"),
        storage=files.storage,
        docker_engine=files.file("docker.tar") if docker else None,
        outgoing=False,
        **more,  # type: ignore[arg-type]
    )


def await_service_account(kube: Kube) -> None:
    """Pods are refused until the namespace has its service account."""
    wait_for(
        lambda: kube.get("v1/ServiceAccount", "default", "default"),
        ready=lambda it: it is not None,
        what="service account default",
        timeout_s=60,
        kube=kube,
        watch=[Watched("v1/ServiceAccount", "default")],
    )


def run_pod(
    kube: Kube,
    name: str,
    image: str,
    script: str = "",
    *,
    arguments: Sequence[str] = (),
    privileged: bool = False,
) -> None:
    """Create a pod; with a script it ends with the script, with arguments its image's program gets them."""
    container: Object = {"name": "main", "image": image, "securityContext": {"privileged": privileged}}
    if script:
        container["command"] = ["sh", "-c", script]
    if arguments:
        container["args"] = list(arguments)
    kube.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]},
        }
    )


def await_phase(kube: Kube, name: str, phase: str) -> None:
    """Wait for a pod's phase."""
    wait_for(
        lambda: kube.get("v1/Pod", name, "default"),
        ready=lambda it: (it or {}).get("status", {}).get("phase") == phase,
        hopeless=lambda it: "it failed" if (it or {}).get("status", {}).get("phase") == "Failed" else None,
        what=f"pod {name} {phase}",
        timeout_s=POD_TIMEOUT_S,
        kube=kube,
        watch=[Watched("v1/Pod", "default")],
    )


def waiting_reason(kube: Kube, name: str) -> str:
    """Why a pod's container waits; empty if it doesn't."""
    statuses = (kube.get("v1/Pod", name, "default") or {}).get("status", {}).get("containerStatuses", [])
    return statuses[0]["state"].get("waiting", {}).get("reason", "") if statuses else ""
