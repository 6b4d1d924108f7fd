"""Outgoing traffic through a host whose firewall drops what is forwarded, in namespaces made for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
    pytest.mark.skipif(
        not shutil.which("nft") or not shutil.which("iptables"), reason="needs nft and iptables"
    ),
]

LINK = "rc0a1b2c3dn7"

# This process is the host; "node" and "world" are namespaces beside it.  The world knows no way back to the
# node's addresses, so that an answer comes only if they are translated.
HOST = """
    import subprocess, sys, time
    from pathlib import Path
    from harness.cluster.nat import Nat, close, owned

    def sh(script):
        subprocess.run(["sh", "-ec", script], check=True)

    LISTEN = "import socket, time; s = socket.create_server(('', 7)); time.sleep(60)"
    CONNECT = "import socket; socket.create_connection(('203.0.113.2', 7), 1)"

    def reaches():
        ask = ["nsenter", f"--net=/proc/{node.pid}/ns/net", sys.executable, "-c", CONNECT]
        return subprocess.run(ask, capture_output=True).returncode == 0

    node = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    world = subprocess.Popen(["unshare", "--net", sys.executable, "-c", LISTEN])
    time.sleep(0.5)
    try:
        sh(f'''
            ip link set lo up
            ip link add LINK type veth peer name eth0 netns {node.pid}
            ip link add up0 type veth peer name eth0 netns {world.pid}
            ip addr add 10.99.7.1/30 dev LINK; ip link set LINK up
            ip addr add 203.0.113.1/24 dev up0; ip link set up0 up
            n="nsenter --net=/proc/{node.pid}/ns/net"; w="nsenter --net=/proc/{world.pid}/ns/net"
            $n ip addr add 10.99.7.2/30 dev eth0; $n ip link set eth0 up
            $n ip route add default via 10.99.7.1
            $w ip addr add 203.0.113.2/24 dev eth0; $w ip link set eth0 up
            echo 1 > /proc/sys/net/ipv4/ip_forward
        ''')
        sh(sys.argv[1])
        rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
        assert not reaches(), "the firewall under test lets everything through"
        nat = Nat("rc-0a1b2c3d", "LINK", "10.99.7.0/30")
        nat.open()
        assert reaches(), subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
        assert {it.link for it in owned()} == {"LINK"}, owned()
        close("LINK")
        assert owned() == [], owned()
        after = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
        strip = lambda text: [it for it in text.splitlines() if "counter packets" not in it]
        assert strip(after) == strip(rules), after
        assert not reaches()
    finally:
        node.kill(), world.kill()
"""

WALL = """add table inet wall
add chain inet wall fw { type filter hook forward priority 5; policy drop; }"""
FIREWALLS = {
    "iptables with policy drop, as docker sets it": "iptables -P FORWARD DROP",
    "iptables that rejects, as distributions ship it": "iptables -A FORWARD -j REJECT",
    "nftables with policy drop": f"nft '{WALL}'",
    "both": f"iptables -P FORWARD DROP; nft '{WALL}'",
    "legacy iptables with policy drop": "iptables-legacy -P FORWARD DROP",
}


@pytest.mark.parametrize("firewall", FIREWALLS.values(), ids=FIREWALLS.keys())
def test_the_node_reaches_the_world_and_the_rules_go_again(firewall: str) -> None:
    if "legacy" in firewall:
        probe = subprocess.run(
            ["unshare", "--net", "iptables-legacy", "-S"], capture_output=True, check=False
        )
        if probe.returncode:
            pytest.skip("this kernel has no legacy iptables")
    script = textwrap.dedent(HOST).replace("LINK", LINK)
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", script, firewall],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
