"""How-to, "Installing k3s": a single-node Kubernetes that is ready for the operator."""

from __future__ import annotations

import re

import pytest

from fixtures import expect
from fixtures.cluster import NodeShell, ReachedNode, RunPod, assert_ready, wait_for_dns
from fixtures.stack import Reached
from harness.diagnosis import classify
from harness.diagnosis.facts import role_facts
from harness.kube import Kube, Object
from harness.versions.checks import MINIMUM_KUBERNETES
from harness.wait import Watched, wait_for

ROLES_TIMEOUT_S = 30
"""Seen: less than a second; the how-to's listing is of a node that is 38 s old."""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


@pytest.mark.outcome("cluster/kubernetes-version")
def test_kubernetes_is_new_enough(kube: Kube) -> None:
    """Kubernetes is v1.21.1 or newer.

    How-to, introduction: "Two prerequisites: Kubernetes must be v1.21.1 or above".
    """
    found = kube.request("GET", "/version")["gitVersion"]
    minimum = ".".join(map(str, MINIMUM_KUBERNETES))
    assert _version(found) >= MINIMUM_KUBERNETES, f"the API server is {found}, the how-to asks for v{minimum}"


@pytest.mark.outcome("cluster/k3s-version")
def test_k3s_version(only_k3s: object, node_shell: NodeShell, reached: Reached) -> None:
    """`k3s --version` names the version asked for.

    How-to, "Installing k3s": "k3s --version → k3s version v1.28.5+k3s1 (5b2d1271), go version go1.20.12".
    """
    first, second = node_shell("k3s", "--version").strip().splitlines()
    named = re.fullmatch(r"k3s version (\S+) \(([0-9a-f]{8})\)", first)
    assert named, f"the first line of k3s --version is {first!r}"
    assert re.fullmatch(r"go version go\d+\.\d+(\.\d+)?", second), f"the second line is {second!r}"
    reached("k3s", named.group(1))


@pytest.mark.outcome("cluster/node-ready")
def test_one_node_is_ready(nodes: list[Object]) -> None:
    """There is one node, and it is Ready.

    How-to, "Installing k3s": "kubectl get nodes → vm-0-12-ubuntu Ready … a single-node k3s cluster".
    """
    for node in nodes:
        assert_ready(node)
        assert not node["spec"].get("unschedulable"), f"{expect.ref(node)} is cordoned"


@pytest.mark.outcome("cluster/node-roles", needs=["cluster/node-ready"])
def test_the_node_has_its_roles(roles_of_node: frozenset[str], node: Object, kube: Kube) -> None:
    """The node's role is control-plane, and below k3s 1.34 also master (kind: control-plane alone).

    How-to, "Installing k3s": "ROLES control-plane,master".
    """
    prefix, name = "node-role.kubernetes.io/", node["metadata"]["name"]

    def roles() -> set[str]:
        found = expect.there(kube.get("v1/Node", name), f"Node {name}")
        return {it.removeprefix(prefix) for it in found["metadata"]["labels"] if it.startswith(prefix)}

    wait_for(  # k3s labels a node a moment after it is Ready
        roles,
        ready=lambda found: found >= roles_of_node,
        what=f"node {name} is {' and '.join(sorted(roles_of_node))}",
        timeout_s=ROLES_TIMEOUT_S,
        kube=kube,
        watch=[Watched("v1/Node", name=name)],
        hopeless=lambda found: classify(role_facts(name, roles_of_node - found)),
        describe=lambda found: f"has roles {sorted(found)}",
    )


@pytest.mark.outcome("cluster/node-version", needs=["cluster/node-ready"])
def test_the_kubelet_is_k3s_s(node: Object, reached_node: ReachedNode) -> None:
    """The node's kubelet has k3s's version (kind: the one that its node image says of itself).

    How-to, "Installing k3s": "VERSION v1.28.5+k3s1", the same as `k3s --version`.
    """
    reached_node(node["status"]["nodeInfo"]["kubeletVersion"])


@pytest.mark.outcome("cluster/pod-runs", needs=["cluster/node-ready"])
def test_a_pod_runs(run_pod: RunPod) -> None:
    """A pod is scheduled, its image is pulled, and it runs to its end.

    How-to, "Installing k3s": the cluster can now be used to install GitLab Runner.
    """
    assert run_pod("hello", "echo", "hello from a pod") == "hello from a pod\n"


@pytest.mark.outcome("cluster/dns", needs=["cluster/pod-runs"])
def test_cluster_dns_answers(run_pod: RunPod, kube: Kube) -> None:
    """A pod resolves the name of a Service to its address.

    How-to, "Installing k3s": the cluster can now be used; operator and Runner find their Services by name.
    """
    service = expect.there(kube.get("v1/Service", "kubernetes", "default"), "Service kubernetes")
    wait_for_dns(kube)
    # Three tries: the node's rules for the Service may come a moment after its first endpoint.
    look_up = "nslookup kubernetes.default.svc.cluster.local"
    answer = run_pod("dns", "sh", "-c", f"{look_up} || (sleep 1; {look_up}) || (sleep 3; {look_up})")
    address = service["spec"]["clusterIP"]
    assert re.search(rf"^Address.*\b{re.escape(address)}$", answer, re.M), f"{address} is not in:\n{answer}"
