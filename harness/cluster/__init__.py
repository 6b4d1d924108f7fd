"""Where the stack runs: an ephemeral k3s of our own, a kind cluster, or one that exists."""

from harness.cluster.existing import ExistingCluster
from harness.cluster.k3s import K3sCluster
from harness.cluster.kind import KindCluster
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
    "Leftover",
    "find_leftovers",
    "living_nodes",
    "reap",
]
