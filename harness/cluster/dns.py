"""How a node resolves names."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from harness.errors import EnvironmentProblem

_RESOLV_CONF = Path("/etc/resolv.conf")
_BEHIND_STUB = Path("/run/systemd/resolve/resolv.conf")
#: Names that a pull of docker.io goes to.
_DOCKER_HUB = ("registry-1.docker.io", "auth.docker.io", "index.docker.io")


def resolv_conf(
    *, air_gapped: bool, node_ip: str, files: tuple[Path, ...] = (_RESOLV_CONF, _BEHIND_STUB)
) -> str:
    """The node's resolv.conf.

    Air-gapped: the node itself, where nobody listens, so that every lookup is refused at once instead of
    timing out.
    Otherwise the host's; a stub on the host's loopback can't be reached from the node, so the one behind it.
    Raises EnvironmentProblem when there is no server that the node can reach.
    """
    if air_gapped:
        return f"nameserver {node_ip}\noptions timeout:1 attempts:1\n"
    for file in files:
        if not file.exists():
            continue
        text = file.read_text()
        servers = re.findall(r"^nameserver\s+([0-9a-fA-F.:]+)", text, re.MULTILINE)
        if reachable := [it for it in servers if not ipaddress.ip_address(it).is_loopback]:
            rest = re.findall(r"^(?:search|options)\b.*$", text, re.MULTILINE)
            return "\n".join([*(f"nameserver {it}" for it in reachable), *rest]) + "\n"
    raise EnvironmentProblem(
        "this host's name server listens on loopback alone, where the cluster's node can't reach it",
        f"name a reachable server in {_RESOLV_CONF}, or use a bundle (--artifacts DIR)",
    )


def hosts(name: str, node_ip: str, unreachable: list[str]) -> str:
    """The node's hosts file; unreachable registries lead to the node itself, where nobody answers."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback", f"{node_ip} {name}"]
    for registry in unreachable:
        lines += [f"127.0.0.1 {it}" for it in (registry, *(_DOCKER_HUB if registry == "docker.io" else ()))]
    return "\n".join(lines) + "\n"
