"""The veth pair between this host and a node, and the choice of its addresses."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import EnvironmentProblem

_NETWORK = "10.99.{}.0/30"
NUMBERS = range(1, 64)
NODE_LINK = "eth0"
_ETHERNET_MTU = 1500
_PROBE = "vxlan-probe"
_ALIAS = "runner-conformance"
_FORWARDING_WAS_OFF = "forwarding-was-off"
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


@dataclass(frozen=True)
class Subnet:
    """One of the /30 networks: ``number`` is N in 10.99.N.0/30."""

    number: int

    @property
    def network(self) -> str:
        """In CIDR notation."""
        return _NETWORK.format(self.number)

    @property
    def wider(self) -> str:
        """The /29 that begins with it: for a network with nodes of two clusters in it."""
        return self.network.replace("/30", "/29")

    @property
    def host_ip(self) -> str:
        """The host's address."""
        return f"10.99.{self.number}.1"

    @property
    def node_ip(self) -> str:
        """The node's address."""
        return f"10.99.{self.number}.2"


def _netlink() -> Any:
    """A netlink socket.  Imported late: the package takes half a second, and most callers want a name."""
    from pyroute2 import IPRoute

    return IPRoute()


def link_name(run_id: str, number: int) -> str:
    """Name of the host's end: run id and subnet, within the kernel's 15 characters."""
    return f"{run_id.replace('-', '')}n{number}"


def bridge_name(run_id: str) -> str:
    """Name of the bridge of a docker network of ours."""
    return f"{run_id.replace('-', '')}k0"


def addresses() -> set[str]:
    """IPv4 addresses of this host."""
    with _netlink() as ipr:
        return {str(it.get_attr("IFA_LOCAL")) for it in ipr.get_addr(family=socket.AF_INET)}


def taken_networks() -> list[ipaddress.IPv4Network]:
    """Networks that this host's addresses and routes (the default route aside) cover."""
    found = []
    with _netlink() as ipr:
        for address in ipr.get_addr(family=socket.AF_INET):
            value = f"{address.get_attr('IFA_ADDRESS')}/{address['prefixlen']}"
            found.append(ipaddress.ip_network(value, strict=False))
        for route in ipr.get_routes(family=socket.AF_INET):
            if route["dst_len"] and route.get_attr("RTA_DST"):
                found.append(ipaddress.ip_network(f"{route.get_attr('RTA_DST')}/{route['dst_len']}"))
    return [it for it in found if isinstance(it, ipaddress.IPv4Network)]


def reserve(
    taken: Iterable[ipaddress.IPv4Network] | None = None,
    claim: Callable[[int], socket.socket | None] | None = None,
) -> tuple[Subnet, socket.socket]:
    """The first free subnet, and the socket that reserves it for as long as this process lives.

    A wide network that includes all of 10.99 (a VPN's 10.0.0.0/8) doesn't matter: a /30 is more specific.
    Raises EnvironmentProblem when none is free.
    """
    networks = list(taken_networks() if taken is None else taken)
    for number in NUMBERS:
        subnet = Subnet(number)
        own = ipaddress.ip_network(subnet.network)
        if any(own.overlaps(other) and other.prefixlen > 16 for other in networks):
            continue
        if reservation := (claim or _claim)(number):
            return subnet, reservation
    raise EnvironmentProblem(
        "all addresses for nodes (10.99.1.0/30 to 10.99.63.0/30) are taken on this host",
        "stop clusters that are no longer needed: runner-conformance reap",
    )


def _claim(number: int) -> socket.socket | None:
    """Bind an abstract socket: exclusive on this host, and gone with the process, leaving no file."""
    reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        reservation.bind(f"\0runner-conformance/{_NETWORK.format(number)}")
    except OSError:
        reservation.close()
        return None
    return reservation


def uplink_mtu() -> int:
    """MTU of the link that this host's default route leads to; 1500 where there is none."""
    with _netlink() as ipr:
        for route in ipr.get_default_routes(family=socket.AF_INET):
            for link in ipr.get_links(route.get_attr("RTA_OIF") or 0):
                return int(link.get_attr("IFLA_MTU"))
    return _ETHERNET_MTU


def has_vxlan() -> bool:
    """Whether a vxlan link can be made in this network namespace; it is removed again."""
    from pyroute2.netlink.exceptions import NetlinkError

    with _netlink() as ipr:
        try:
            ipr.link("add", ifname=_PROBE, kind="vxlan", vxlan_id=1, vxlan_port=8472)
        except NetlinkError:
            return False
        remove(_PROBE)
    return True


def connect(subnet: Subnet, run_id: str, name: str, pid: int, mtu: int) -> str:
    """Make the pair, one end in the network namespace of process ``pid``; returns the host's end's name."""
    host_end = link_name(run_id, subnet.number)
    with _netlink() as ipr:
        peer = {"ifname": NODE_LINK, "net_ns_pid": pid}
        ipr.link("add", ifname=host_end, kind="veth", peer=peer)
        (index,) = ipr.link_lookup(ifname=host_end)
        ipr.link("set", index=index, ifalias=_alias(run_id, name), mtu=mtu)
        ipr.addr("add", index=index, address=subnet.host_ip, prefixlen=30)
        ipr.link("set", index=index, state="up")
    return host_end


def _alias(run_id: str, name: str, *, forwarding_was_off: bool = False) -> str:
    """What a link says of itself: whose it is, and whether the host forwarded nothing before."""
    return " ".join([_ALIAS, run_id, name, *([_FORWARDING_WAS_OFF] if forwarding_was_off else [])])


def open_forwarding(link: str, run_id: str, name: str) -> bool:
    """Have the kernel forward packets; returns whether it did not before the first of our nodes came.

    The answer is written on the link first: a node that comes while this one lives inherits it, and whichever
    goes last turns forwarding off again.
    """
    before = _aliases()
    was_off = _FORWARDING.read_text().strip() == "0" or any(
        _FORWARDING_WAS_OFF in it for it in before.values()
    )
    if was_off:
        with _netlink() as ipr:
            (index,) = ipr.link_lookup(ifname=link)
            ipr.link("set", index=index, ifalias=_alias(run_id, name, forwarding_was_off=True))
        _FORWARDING.write_text("1")
    return was_off


def close_forwarding() -> None:
    """Stop forwarding, unless another node of ours is there."""
    if not _aliases():
        _FORWARDING.write_text("0")


def configure_inside(subnet: Subnet, mtu: int) -> None:
    """Within the node's namespace: loopback, address, default route, and forwarding between pods and link.

    Forwarding is on before docker starts: docker, if it must turn it on, sets FORWARD's policy to DROP.
    Refusals are not rationed (one a second is the default): in an air-gapped node every lookup is refused.
    """
    for name, value in (("ip_forward", "1"), ("icmp_ratelimit", "0")):
        (Path("/proc/sys/net/ipv4") / name).write_text(value)
    with _netlink() as ipr:
        ipr.link("set", index=ipr.link_lookup(ifname="lo")[0], state="up")
        (index,) = ipr.link_lookup(ifname=NODE_LINK)
        ipr.link("set", index=index, mtu=mtu)
        ipr.addr("add", index=index, address=subnet.node_ip, prefixlen=30)
        ipr.link("set", index=index, state="up")
        ipr.route("add", dst="default", gateway=subnet.host_ip)


def owned() -> dict[str, str]:
    """Links of ours on this host: name → run id."""
    return {name: words[1] for name, words in _aliases().items()}


def _aliases() -> dict[str, list[str]]:
    with _netlink() as ipr:
        found = {}
        for link in ipr.get_links():
            words = str(link.get_attr("IFLA_IFALIAS") or "").split()
            if words[:1] == [_ALIAS] and len(words) > 1:
                found[str(link.get_attr("IFLA_IFNAME"))] = words
    return found


def run_id_of(link: str) -> str:
    """The run id in a name made by ``link_name`` or ``bridge_name``; empty if it is none."""
    found = re.match(r"rc([0-9a-f]{8})(?:n\d+|k0)\Z", link)
    return f"rc-{found[1]}" if found else ""


def remove(name: str) -> None:
    """Remove a link (with it its peer); no error if there is none."""
    with _netlink() as ipr:
        for index in ipr.link_lookup(ifname=name):
            ipr.link("del", index=index)
