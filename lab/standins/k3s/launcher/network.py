"""The way out of the node."""

from __future__ import annotations

import socket
from pathlib import Path

from launcher import log

_ROUTES = Path("/proc/net/route")
#: What flannel takes off for its tunnel (flannel's backend/vxlan, encapOverhead).
_VXLAN_BYTES = 50
_ETHERNET_MTU = 1500


def default_address() -> str:
    """The address that the default route leads out from, else the first that the name of this host has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(
                ("192.0.2.1", 9)
            )  # a documentation address: connecting a datagram socket sends nothing
            return str(probe.getsockname()[0])
        except OSError as error:
            raise log.Fatal("no default routes found in /proc/net/route or /proc/net/ipv6_route") from error


def pod_mtu(backend: str) -> int:
    """MTU of the pods' links: what flannel makes of that of the link with the default route."""
    for line in _ROUTES.read_text().splitlines()[1:]:
        link, destination, *_ = line.split()
        if int(destination, 16) == 0:
            mtu = int(Path(f"/sys/class/net/{link}/mtu").read_text())
            return mtu - _VXLAN_BYTES if backend == "vxlan" else mtu
    return _ETHERNET_MTU
