"""How a node resolves names."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import EnvironmentProblem

_RESOLV_CONF = Path("/etc/resolv.conf")
_BEHIND_STUB = Path("/run/systemd/resolve/resolv.conf")
#: Names that a pull of docker.io goes to.
_DOCKER_HUB = ("registry-1.docker.io", "auth.docker.io", "index.docker.io")


@dataclass(frozen=True)
class Resolver:
    """A node's resolv.conf, and the host's name servers that are not in it, each with the reason."""

    text: str
    dropped: tuple[str, ...] = ()


def resolver(
    *, air_gapped: bool, node_ip: str, files: tuple[Path, ...] = (_RESOLV_CONF, _BEHIND_STUB)
) -> Resolver:
    """How the node resolves names.

    Air-gapped: it asks itself, where nobody listens, so that every lookup is refused at once instead of
    timing out.
    Otherwise it asks the host's servers; a stub on the host's loopback can't be reached from the node, so the
    ones behind it.  Nor can the node, which has IPv4 alone, reach IPv6.
    Raises EnvironmentProblem when there is no server that the node can reach.
    """
    if air_gapped:
        return Resolver(f"nameserver {node_ip}\noptions timeout:1 attempts:1\n")
    dropped: list[str] = []
    for file in files:
        if not file.exists():
            continue
        text = file.read_text()
        reachable = []
        for server in re.findall(r"^nameserver\s+(\S+)", text, re.MULTILINE):
            if reason := _unreachable(server):
                dropped.append(f"{server} ({reason})")
            else:
                reachable.append(server)
        if reachable:
            rest = re.findall(r"^(?:search|options)\b.*$", text, re.MULTILINE)
            return Resolver(
                "\n".join([*(f"nameserver {it}" for it in reachable), *rest]) + "\n",
                tuple(it for it in dropped if "loopback" not in it),
            )
    raise EnvironmentProblem(
        "the cluster's node can reach none of this host's name servers: "
        + (", ".join(dropped) or "it has none"),
        f"name a server with an IPv4 address in {_RESOLV_CONF}, or use a bundle (--artifacts DIR)",
    )


def _unreachable(server: str) -> str:
    """Why a node can't ask this server; empty if it can."""
    if "%" in server:
        return "an address of one of this host's links alone"
    try:
        address = ipaddress.ip_address(server)
    except ValueError:
        return "no address"
    if address.is_loopback:
        return "on this host's loopback"
    return "IPv6, and the node has IPv4" if address.version == 6 else ""


def hosts(name: str, node_ip: str, unreachable: list[str]) -> str:
    """The node's hosts file; unreachable registries lead to the node itself, where nobody answers."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback", f"{node_ip} {name}"]
    for registry in unreachable:
        lines += [f"127.0.0.1 {it}" for it in (registry, *(_DOCKER_HUB if registry == "docker.io" else ()))]
    return "\n".join(lines) + "\n"
