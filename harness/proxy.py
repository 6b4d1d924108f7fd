"""Proxies of the environment: what goes through them, and what must not.

A company's proxy can't reach what a run makes on this host: nodes, GitLab, the registry in the cluster.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from harness.errors import EnvironmentProblem

OWN_NETWORKS = ("127.0.0.0/8", "10.99.0.0/16")
"""This host itself, and the links to nodes (harness.cluster.links)."""
CLUSTER_NETWORKS = ("10.42.0.0/16", "10.43.0.0/16")
"""Pods and services of a k3s that is told nothing else."""
CLUSTER_NAMES = ("localhost", ".svc", ".cluster.local")
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def is_own(url: str) -> bool:
    """Whether a URL leads to something on this host that a run made.

    >>> is_own("https://10.99.3.2:6443")
    True
    """
    host = urlsplit(url if "://" in url else f"//{url}").hostname or ""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or any(address in ipaddress.ip_network(it) for it in OWN_NETWORKS)


def for_node(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The proxy variables for programs on a node: k3s hands them to its containerd. Empty without a proxy.

    Addresses of nodes, pods and services are added to NO_PROXY: Go's HTTP client takes networks there.
    Raises EnvironmentProblem for a proxy that a node can't reach.
    """
    given = {name: environment.get(name) or environment.get(name.lower(), "") for name in VARIABLES}
    found = {name: value for name, value in given.items() if value}
    if not found:
        return {}
    for name, url in found.items():
        if urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1"):
            raise EnvironmentProblem(
                f"{name} names a proxy on this host's loopback, which the cluster's node can't reach",
                "let the proxy listen on an address of this host, and name it by that",
            )
    direct = environment.get("NO_PROXY") or environment.get("no_proxy", "")
    return {**found, "NO_PROXY": ",".join(filter(None, (direct, *no_proxy_of_a_node())))}


def no_proxy_of_a_node() -> tuple[str, ...]:
    """What programs on a node must reach directly."""
    return (*OWN_NETWORKS, *CLUSTER_NETWORKS, *CLUSTER_NAMES)
