"""The arguments of ``k3s server``: those that it knows."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from harness.cluster import cgroups
from harness.cluster.protocol import ClusterOptions

#: k3s's documentation, "Packaged Components": what the chain doesn't use, but takes time and images.
_DISABLED = ("traefik", "servicelb", "metrics-server", "local-storage")
_OVERLAYFS_MAGIC_NAMES = {"overlay", "overlayfs"}
_ALWAYS = (
    f"--disable={','.join(_DISABLED)}",
    "--disable-network-policy",  # needs ipset in the kernel; nothing in the chain uses network policies
    "--disable-helm-controller",
    # conntrack's limits belong to the first network namespace; elsewhere kube-proxy can't set them
    "--kube-proxy-arg=conntrack-max-per-core=0",
    "--kube-proxy-arg=conntrack-tcp-timeout-established=0",
    "--kube-proxy-arg=conntrack-tcp-timeout-close-wait=0",
    # 20 requests a second are the default: making a service account for each controller takes 10 s then
    "--kube-controller-manager-arg=kube-api-qps=200",
    "--kube-controller-manager-arg=kube-api-burst=400",
    "--kubelet-arg=serialize-image-pulls=false",
    # k3s evicts pods at 5 % of the disk, which is 100 GB free of a disk of 2 TB; and kubelet removes images,
    # those pulled beforehand too, when a disk is 85 % full, with whatever
    "--kubelet-arg=eviction-hard=imagefs.available<500Mi,nodefs.available<500Mi",
    "--kubelet-arg=eviction-minimum-reclaim=imagefs.available=100Mi,nodefs.available=100Mi",
    "--kubelet-arg=image-gc-high-threshold=100",
)


def server_arguments(options: ClusterOptions, version: str, known: Collection[str]) -> list[str]:
    """Arguments of ``k3s server``; ``{node_ip}`` and ``{host_ip}`` are put in when the subnet is known.

    ``known``: the flags that this k3s has.  It refuses others: ours are left out, the user's are not.
    """
    minor = int(match[1]) if (match := re.match(r"v1\.(\d+)", version)) else 0
    wanted = [
        f"--node-name={options.name}",
        "--node-ip={node_ip}",
        "--advertise-address={node_ip}",
        "--tls-san={node_ip}",
        *_ALWAYS,
    ]
    if minor >= 35 and cgroups.is_v1(cgroups.hierarchies()):
        wanted.append("--kubelet-arg=fail-cgroupv1=false")  # kubelet refuses cgroup v1 from 1.35 on
    if options.air_gapped:
        wanted.append("--disable-default-registry-endpoint")  # a missing image is missing, not "no such host"
    if _filesystem(options.state_dir) in _OVERLAYFS_MAGIC_NAMES:
        wanted.append("--snapshotter=native")  # overlayfs can't be layered over overlayfs
    own = [it for it in wanted if it.partition("=")[0] in known]
    return ["server", *own, *(it.replace("{", "{{").replace("}", "}}") for it in options.extra_args)]


def _filesystem(path: Path) -> str:
    """Type of the file system that a path is, or will be, on."""
    while not path.exists():
        path = path.parent
    real, best = str(path.resolve()), ("", "")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split()
        if (real == target or real.startswith(target.rstrip("/") + "/")) and len(target) >= len(best[0]):
            best = (target, kind)
    return best[1]
