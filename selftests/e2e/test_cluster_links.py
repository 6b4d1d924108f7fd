"""What the node's link is made of: the uplink's MTU, and whether this kernel has tunnels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root")

REPOSITORY = Path(__file__).parents[2]
HOST = """
import json, os
from pyroute2 import IPRoute
from harness.cluster import linux, links

with IPRoute() as ipr:
    def names():
        return sorted(it.get_attr("IFLA_IFNAME") for it in ipr.get_links())

    without = links.uplink_mtu()
    peer = {"ifname": "far0", "mtu": 1380}
    ipr.link("add", ifname="up0", kind="veth", peer=peer, mtu=1380)
    (index,) = ipr.link_lookup(ifname="up0")
    ipr.addr("add", index=index, address="192.0.2.2", prefixlen=24)
    for name in ("up0", "far0"):
        ipr.link("set", index=ipr.link_lookup(ifname=name)[0], state="up")
    ipr.route("add", dst="default", gateway="192.0.2.1")
    before = names()
    found = {"without": without, "with": links.uplink_mtu(), "vxlan": links.has_vxlan()}
    assert names() == before, "the probe left a link"
    is_moved, moved = os.pipe()
    wait, end_it = os.pipe()
    child = os.fork()
    if child == 0:
        linux.unshare(linux.CLONE_NEWNET)
        os.write(moved, b"x")
        os.read(wait, 1)
        os._exit(0)
    os.read(is_moved, 1)
    end = links.connect(links.Subnet(7), "rc-0a1b2c3d", "n", child, found["with"])
    (link,) = ipr.get_links(ipr.link_lookup(ifname=end)[0])
    found["node"] = link.get_attr("IFLA_MTU")
    os.write(end_it, b"x")
    os.wait()
print(json.dumps(found))
"""


def test_the_node_gets_the_uplink_s_mtu() -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", HOST],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("vxlan") in (True, False)  # whatever this kernel has
    assert found == {"without": 1500, "with": 1380, "node": 1380}
