"""Where the stack runs: an ephemeral k3s of our own, a kind cluster, or one that exists."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.cluster.existing import ExistingCluster
    from harness.cluster.k3s import K3sCluster
    from harness.cluster.kind.cluster import KindCluster
    from harness.cluster.kind.node_files import KindOptions
    from harness.cluster.leftovers import Leftover, find_leftovers, living_nodes, reap
    from harness.cluster.protocol import DOCKER, LOAD_IMAGE, NODE_SHELL, Cluster, ClusterOptions

__all__ = [
    "DOCKER",
    "LOAD_IMAGE",
    "NODE_SHELL",
    "Cluster",
    "ClusterOptions",
    "ExistingCluster",
    "K3sCluster",
    "KindCluster",
    "KindOptions",
    "Leftover",
    "find_leftovers",
    "living_nodes",
    "reap",
]
_MODULES = {
    "ExistingCluster": "existing",
    "K3sCluster": "k3s",
    "KindCluster": "kind.cluster",
    "KindOptions": "kind.node_files",
} | dict.fromkeys(("Leftover", "find_leftovers", "living_nodes", "reap"), "leftovers")


def __getattr__(name: str) -> object:
    """Read a module when something of it is first asked for.

    The keeper of a node imports this package too, and needs no Kubernetes client, which costs a second.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'protocol')}"), name)
