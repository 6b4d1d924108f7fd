"""What runs on a node besides containers: the packed k3s, and the Docker engine for the docker ability."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lab import debian
from lab.gobuild import full_go_version, go_step
from lab.standins.k3s import pack as k3s_pack
from lab.steps import BuildStep, Work
from lab.tars import write_tar

K3S = Path(__file__).parent / "standins" / "k3s"
NODE_ENGINE = (  # what dockerd needs on a node besides its C library
    "docker.io", "containerd", "runc", "tini", "iptables", "libdevmapper1.02.1", "dmsetup", "libseccomp2",
    "libsystemd0", "libudev1", "libip4tc2", "libip6tc2", "libxtables12", "libnftnl11", "libmnl0",
    "libnfnetlink0",
    "libnetfilter-conntrack3", "libcap2", "libgcrypt20", "libgpg-error0", "liblz4-1", "libzstd1", "liblzma5",
    "libselinux1", "libpcre2-8-0",
)  # fmt: skip


def docker_engine_step(debs: BuildStep) -> BuildStep:
    """A step that makes `docker.tar`: the engine and its libraries, relative to /."""
    return BuildStep("docker engine", _docker_engine, needs=[debs])


def _docker_engine(work: Work) -> None:
    root = work.scratch("root")
    closure = work.path(work.step.needs[0])
    debian.unpack(work, closure, root, only=NODE_ENGINE)
    for name in ("iptables", "ip6tables", "iptables-save", "iptables-restore"):
        (root / "usr/sbin" / name).symlink_to("xtables-nft-multi")
    write_tar(work.out / "docker.tar", [(root, "/")], skip=lambda name: name in debian.MERGED)


def k3s_step(version: str, *, go: Path, debs: BuildStep, kubernetes: BuildStep) -> BuildStep:
    """A step that packs the single file `k3s`, which reports that version."""
    certs = go_step("k3s certs", K3S / "certs", {"k3s-certs": "."}, go=go)
    return BuildStep(
        f"k3s {version}",
        _pack_k3s,
        params={"version": version, "go": full_go_version(go)},
        sources=[K3S],
        needs=[debs, kubernetes, certs],
    )


def _pack_k3s(work: Work) -> None:
    import yaml  # its pure-Python files go into the launcher

    debs, kubernetes, certs = (work.path(need) for need in work.step.needs)
    root = work.scratch("root")
    debian.unpack(work, debs, root, only=k3s_pack.DEBIAN_PACKAGES)
    revision = hashlib.sha256(json.dumps([work.digest(need) for need in work.step.needs]).encode())
    k3s_pack.pack(
        work.out / "k3s",
        debian_root=root,
        kubernetes=kubernetes / "kubernetes",
        certs=certs / "k3s-certs",
        yaml_package=Path(yaml.__file__).parent,
        version=work.step.params["version"],
        commit=revision.hexdigest()[:8],
        go_version=work.step.params["go"],
    )
