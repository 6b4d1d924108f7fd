"""What a cluster is to the rest of the harness, and the options of the ephemeral one."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.redact import Secret

NODE_SHELL = "node-shell"
DOCKER = "docker"
LOAD_IMAGE = "load-image"

#: Registries that the documented chain pulls from.
UPSTREAM_REGISTRIES = ("docker.io", "gcr.io", "quay.io", "registry.k8s.io", "registry.gitlab.com")


class Cluster(Protocol):
    """A Kubernetes cluster to verify on.  Ask for an ability before using what needs it.

    >>> kubeconfig = cluster.start()
    >>> if NODE_SHELL in cluster.abilities:
    ...     cluster.node_shell(["ls", "/var/run/docker.sock"])
    >>> cluster.stop()
    """

    @property
    def name(self) -> str:
        """Name of the cluster; of its node too where we make it."""

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig that works from this host; there once ``start`` returned."""

    @property
    def context(self) -> str | None:
        """Context to use in the kubeconfig; None is its current one."""

    @property
    def node_ip(self) -> str:
        """Address of the node as this host reaches it; empty where nobody can say."""

    @property
    def host_ip(self) -> str:
        """Address of this host as pods reach it; empty where they can't."""

    @property
    def version(self) -> str:
        """Version asked for; empty where nobody asked."""

    @property
    def abilities(self) -> frozenset[str]:
        """What this cluster can do beyond the API: ``node-shell``, ``docker``, ``load-image``."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What it does unusually because of this host, a sentence each; once ``start`` returned."""

    def start(self) -> Path:
        """Bring the cluster to node Ready; returns the kubeconfig.  Raises HarnessError."""

    def stop(self) -> None:
        """Remove what ``start`` made.  May be called at any time, any number of times."""

    def node_shell(self, argv: Sequence[str], timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command on the node, as root in its own view of the file system."""

    def load_image(self, archive: Path) -> None:
        """Import an image archive (docker save or OCI layout, as tar) into the node."""


@dataclass(frozen=True)
class ClusterOptions:
    """An ephemeral k3s.

    state_dir belongs to the cluster alone: everything lives below it, and ``stop`` removes it.
    registry_program and storage: a bundle's registry, served to the node alone; None for both: the node pulls
    from the internet, through registry_endpoints (registry → mirror URLs) where given.
    unreachable_registries: their pulls are refused, whatever else is set.
    docker_engine: a tar relative to / with dockerd; gives the ability ``docker``.
    keep: the cluster outlives this process.  extra_args: further arguments of ``k3s server``.
    outgoing: the node must reach what is beyond this host; without it, it does so only where the host has a
    program that makes firewall rules.  proxies: variables for k3s's environment (harness.proxy.for_node).
    registry_auth: registry host → user and password that the node pulls with.
    """

    run_id: str
    name: str
    k3s: Path
    state_dir: Path
    registry_program: Path | None = None
    storage: Path | None = None
    upstream_registries: tuple[str, ...] = UPSTREAM_REGISTRIES
    registry_endpoints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unreachable_registries: tuple[str, ...] = ()
    docker_engine: Path | None = None
    keep: bool = False
    extra_args: tuple[str, ...] = ()
    outgoing: bool = True
    proxies: Mapping[str, str] = field(default_factory=dict)
    registry_auth: Mapping[str, tuple[str, Secret]] = field(default_factory=dict)

    @property
    def air_gapped(self) -> bool:
        """Whether the node pulls from a registry beside it and nowhere else."""
        return self.storage is not None
