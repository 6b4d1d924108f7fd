"""A cgroup subtree of its own for each node, on cgroup v1 (also mixed with v2) and v2.

Two kubelets that see the same ``/kubepods`` remove each other's pods.  So each node gets one directory, named
after the run, below the root of every hierarchy, and a cgroup namespace in which that directory is the root.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.cluster import linux
from harness.errors import EnvironmentProblem

ROOT = Path("/sys/fs/cgroup")
_NEEDED = {"cpu", "memory", "pids"}
_REMOVE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Hierarchy:
    """One mounted hierarchy: its path, and whether it is cgroup v2."""

    path: Path
    unified: bool


def hierarchies(mounts: str | None = None) -> list[Hierarchy]:
    """The hierarchies of this host, read from /proc/mounts (or from ``mounts``, in its format)."""
    text = Path("/proc/self/mounts").read_text() if mounts is None else mounts
    found = {}
    for line in text.splitlines():
        _, target, kind, *_ = line.split()
        if kind in {"cgroup", "cgroup2"} and Path(target).is_relative_to(ROOT):
            found[target] = Hierarchy(Path(target), kind == "cgroup2")
    return list(found.values())


def is_v1(mounted: list[Hierarchy]) -> bool:
    """Whether resource control is cgroup v1's, as in the mixed set-up too."""
    return any(not it.unified for it in mounted)


def create(name: str) -> None:
    """Make the directory ``name`` in every hierarchy.  Raises EnvironmentProblem."""
    mounted = hierarchies()
    if not mounted:
        raise EnvironmentProblem("no cgroup hierarchy is mounted below /sys/fs/cgroup", "mount cgroup2 there")
    for hierarchy in mounted:
        try:
            (hierarchy.path / name).mkdir(exist_ok=True)
        except OSError as error:
            raise EnvironmentProblem(
                f"can't make a cgroup in {hierarchy.path}: {error.strerror}",
                "run as root, with /sys/fs/cgroup writable (in a container: --privileged)",
            ) from error
        if (hierarchy.path / "cpuset.cpus").exists() and not hierarchy.unified:
            # v1: no task may enter a cpuset group that has no CPUs or memory nodes yet
            for file in ("cpuset.cpus", "cpuset.mems"):
                (hierarchy.path / name / file).write_text((hierarchy.path / file).read_text())
    if not is_v1(mounted):
        _delegate(ROOT)


def _delegate(directory: Path) -> None:
    """Hand all controllers of a v2 directory down to its children."""
    available = set((directory / "cgroup.controllers").read_text().split())
    if missing := _NEEDED - available:
        raise EnvironmentProblem(
            f"cgroup controllers {', '.join(sorted(missing))} are not available in {directory}",
            "enable them for this system or container (systemd: Delegate=yes)",
        )
    control = directory / "cgroup.subtree_control"
    wanted = available - set(control.read_text().split())
    for controller in sorted(wanted):
        try:
            control.write_text(f"+{controller}")
        except OSError as error:
            if controller in _NEEDED:
                busy = " because processes live there" if error.errno == errno.EBUSY else ""
                raise EnvironmentProblem(
                    f"can't enable the cgroup controller {controller} in {directory}{busy}",
                    "in a container: give it the host's cgroup namespace (--cgroupns=host)",
                ) from error


def enter(name: str) -> None:
    """Move the calling process into the directory ``name`` of every hierarchy."""
    for hierarchy in hierarchies():
        (hierarchy.path / name / "cgroup.procs").write_text("0")


def mount_own(name: str, staging: Path) -> None:
    """Lay out the node's hierarchies at ``staging``; to be moved to /sys/fs/cgroup.  Within the namespace."""
    mounted = hierarchies()
    if not is_v1(mounted):
        linux.bind(ROOT / name, staging)
        return
    linux.mount("cgroup", staging, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, "mode=755")
    for link in ROOT.iterdir():
        if link.is_symlink():  # cpu -> cpu,cpuacct
            (staging / link.name).symlink_to(link.readlink())
    for hierarchy in mounted:
        target = staging / hierarchy.path.relative_to(ROOT)
        target.mkdir(parents=True, exist_ok=True)
        linux.bind(hierarchy.path / name, target)


def settle_v2() -> None:
    """On v2, leave the node's root: a group that has controllers for its children may hold no process."""
    if is_v1(hierarchies()):
        return
    own = ROOT / "init"
    own.mkdir(exist_ok=True)
    for pid in (ROOT / "cgroup.procs").read_text().split():
        (own / "cgroup.procs").write_text(pid)
    _delegate(ROOT)


def owned(prefix: str) -> Iterator[Path]:
    """Directories at the top of every hierarchy whose name begins with ``prefix``."""
    for hierarchy in hierarchies():
        yield from hierarchy.path.glob(f"{prefix}*/")


def processes(directory: Path) -> set[int]:
    """Ids of the processes in a group and all below it."""
    found: set[int] = set()
    for file in directory.rglob("cgroup.procs"):
        with suppress(FileNotFoundError, OSError):
            found.update(int(line) for line in file.read_text().split())
    return found


def remove(name: str) -> list[Path]:
    """Remove the directory ``name`` of every hierarchy; returns those that could not be."""
    return [it.path / name for it in hierarchies() if not _remove_tree(it.path / name)]


def _remove_tree(top: Path) -> bool:
    deadline = time.monotonic() + _REMOVE_TIMEOUT_S
    while top.exists():
        for directory, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                Path(directory).rmdir()
        if not top.exists() or time.monotonic() > deadline:
            break
        time.sleep(0.05)  # processes that were killed leave their group when the kernel is done with them
    return not top.exists()
