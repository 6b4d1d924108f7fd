"""A cgroup subtree of its own for each node, on cgroup v1 (also mixed with v2) and v2.

Two kubelets that see the same ``/kubepods`` remove each other's pods.  So each node gets one directory, named
after the run, below the root of every hierarchy, and a cgroup namespace in which that directory is the root.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.cluster import linux
from harness.errors import EnvironmentProblem

ROOT = Path("/sys/fs/cgroup")
#: Without these kubelet or k3s refuses to start on v2 (kubelet's cgroup_manager_linux.go, k3s's pkg/cgroups).
NEEDED = frozenset({"cpu", "cpuset", "memory", "pids"})
#: Used where they are there.
_USEFUL = frozenset({"io"})
_PREFIX = "rc-"
#: Holds the node's own processes: on v2 a group that has controllers for its children may hold none.
_LEAF = "init"
#: The same for the processes of a container whose root group has to be emptied for us.
_CONTAINER_LEAF = "runner-conformance"
#: On a node's directory: controllers that we enabled in the root for it, or found enabled by another node.
_NOTE = "trusted.runner-conformance.enabled"
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


def lack() -> EnvironmentProblem | None:
    """What this host's cgroups lack for a node."""
    mounted = hierarchies()
    if not mounted:
        return EnvironmentProblem(
            "no cgroup hierarchy is mounted below /sys/fs/cgroup", "mount cgroup2 there"
        )
    if is_v1(mounted):
        present = {name for it in mounted for name in it.path.name.split(",")}
        where, mend = (
            "mounted below /sys/fs/cgroup",
            "mount them, or boot with systemd.unified_cgroup_hierarchy=1",
        )
    else:
        present = _words(ROOT / "cgroup.controllers")
        where = f"available in {ROOT}"
        mend = (
            "enable them for this system or container (systemd: Delegate=yes; kernel: cgroup_enable=memory)"
        )
    if missing := NEEDED - present:
        return EnvironmentProblem(f"cgroup controllers {', '.join(sorted(missing))} are not {where}", mend)
    return None


def create(name: str) -> None:
    """Make the directory ``name`` in every hierarchy.  Raises EnvironmentProblem."""
    mounted = hierarchies()
    if (problem := lack()) is not None:
        raise problem
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
        _open_root(name)


def _open_root(name: str) -> None:
    """On v2, enable in the root what the node needs, and note on its directory what was not enabled before.

    The note comes first: whoever removes the directory, after whatever happened, knows what to undo.
    """
    available = _words(ROOT / "cgroup.controllers")
    wanted = ((NEEDED | _USEFUL) & available) - _words(ROOT / "cgroup.subtree_control")
    os.setxattr(ROOT / name, _NOTE, " ".join(sorted(wanted | _noted())).encode())
    try:
        _enable(ROOT, wanted)
    except OSError as error:
        if error.errno != errno.EBUSY or not _is_container_root():
            raise EnvironmentProblem(
                f"can't enable cgroup controllers in {ROOT}: {error.strerror}",
                "in a container: give it the host's cgroup namespace (--cgroupns=host)",
            ) from error
        _empty_root()
        _enable(ROOT, wanted)


def _is_container_root() -> bool:
    """Whether the root that is seen here is a group among others: the real root has no type."""
    return (ROOT / "cgroup.type").exists()


def _empty_root() -> None:
    """Move a container's processes out of its root group into a leaf, as docker's dind image does."""
    leaf = ROOT / _CONTAINER_LEAF
    leaf.mkdir(exist_ok=True)
    _move(ROOT, leaf)


def _move(source: Path, target: Path) -> None:
    """Move the processes of one group to another, until none is left: they may fork meanwhile."""
    deadline = time.monotonic() + _REMOVE_TIMEOUT_S
    # 0 is a process that this PID namespace does not show; to write it would move the writer
    while (pids := _words(source / "cgroup.procs") - {"0"}) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                (target / "cgroup.procs").write_text(pid)


def _enable(directory: Path, controllers: Iterable[str]) -> None:
    for controller in sorted(controllers):
        (directory / "cgroup.subtree_control").write_text(f"+{controller}")


def _close_root(noted: set[str]) -> None:
    """Disable in the root what was enabled for nodes that are gone; what others use by now stays."""
    for controller in sorted(noted - _noted()):
        with suppress(OSError):
            (ROOT / "cgroup.subtree_control").write_text(f"-{controller}")
    leaf = ROOT / _CONTAINER_LEAF
    if leaf.exists() and not any(ROOT.glob(f"{_PREFIX}*/")):
        with suppress(OSError):  # a root that somebody else has enabled controllers in takes nobody back
            _move(leaf, ROOT)
            leaf.rmdir()


def _noted(pattern: str = f"{_PREFIX}*") -> set[str]:
    found: set[str] = set()
    for directory in ROOT.glob(f"{pattern}/"):
        with suppress(OSError):
            found.update(os.getxattr(directory, _NOTE).decode().split())
    return found


def _words(file: Path) -> set[str]:
    return set(file.read_text().split())


def enter(name: str) -> None:
    """Move the calling process into the directory ``name`` of every hierarchy."""
    for hierarchy in hierarchies():
        (hierarchy.path / name / "cgroup.procs").write_text("0")


def leave_root(name: str) -> None:
    """On v2, move the calling process into a leaf below ``name``, which is the root of its cgroup namespace.

    After that namespace was made, and before a process is made in a PID namespace: from inside that, its
    parent could be moved no more.
    """
    if not is_v1(hierarchies()):
        leaf = ROOT / name / _LEAF
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text("0")


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


def hand_down() -> None:
    """On v2, enable in the node's own root all that it has.  Within the namespace.  Raises OSError."""
    if not is_v1(hierarchies()):
        _enable(ROOT, _words(ROOT / "cgroup.controllers"))


def owned(prefix: str) -> Iterator[Path]:
    """Directories at the top of every hierarchy whose name begins with ``prefix``."""
    for hierarchy in hierarchies():
        yield from hierarchy.path.glob(f"{prefix}*/")


def processes(directory: Path) -> set[int]:
    """Ids of the processes in a group and all below it."""
    found: set[int] = set()
    for group, _, _ in os.walk(directory):  # passes over groups that vanish meanwhile
        with suppress(OSError):
            found.update(int(line) for line in (Path(group) / "cgroup.procs").read_text().split())
    return found


def remove(name: str) -> list[Path]:
    """Remove the directory ``name`` of every hierarchy; returns those that could not be.

    On v2 the root's controllers are then as before the first of our nodes came.
    """
    mounted = hierarchies()
    noted = set() if is_v1(mounted) else _noted(name)
    left = [it.path / name for it in mounted if not _remove_tree(it.path / name)]
    if not left and not is_v1(mounted):
        _close_root(noted)
    return left


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
