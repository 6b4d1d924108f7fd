"""The system calls that Python 3.11 has no names for: mounts, namespaces, death signals; and capabilities."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MS_BIND, MS_MOVE, MS_REC = 0x1000, 0x2000, 0x4000
MS_PRIVATE, MS_SHARED = 1 << 18, 1 << 20
MNT_DETACH = 2

#: Built in, a module without parameters shows in nothing but what it makes.
_TELLTALE = {"br_netfilter": "/proc/sys/net/bridge"}
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 21, 24

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: Path | str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2).  Raises OSError that names the target."""
    encoded = [os.fsencode(str(value)) for value in (source, target, kind, data)]
    result = _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    _check(result, f"mount of {kind or source} at {target}")


def bind(source: Path | str, target: Path | str) -> None:
    """Make ``source``, with what is mounted below it, visible at ``target`` too."""
    mount(str(source), target, flags=MS_BIND | MS_REC)


def unmount(target: Path | str) -> None:
    """Detach a mount and all below it, at once.  Raises OSError."""
    _check(_libc.umount2(os.fsencode(str(target)), MNT_DETACH), f"unmount of {target}")


def unshare(flags: int) -> None:
    """unshare(2).  Raises OSError."""
    _check(_libc.unshare(flags), "unshare")


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when the *thread* that started it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, instead of the host's first process."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def reap(pid: int, timeout_s: float) -> None:
    """Take the exit status of a dying child, so that no zombie is left; other processes are let be."""
    deadline = time.monotonic() + timeout_s
    with suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.02)


def set_hostname(name: str) -> None:
    """Host name of this UTS namespace."""
    encoded = name.encode()
    _check(_libc.sethostname(encoded, len(encoded)), "sethostname")


def raise_open_files(wanted: int) -> None:
    """Let this process and its children open so many files, or as many as it may allow itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (ValueError, OSError):  # without CAP_SYS_RESOURCE no more than the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_inotify_instances(wanted: int) -> int:
    """How many more inotify instances this user may have, counted up to ``wanted`` by making them."""
    made: list[int] = []
    try:
        while len(made) < wanted and (descriptor := _libc.inotify_init1(os.O_CLOEXEC)) >= 0:
            made.append(descriptor)
    finally:
        for descriptor in made:
            os.close(descriptor)
    return len(made)


def has_module(name: str) -> bool:
    """Whether this kernel has a module, loaded or built in, or could load it."""
    if Path("/sys/module", name).exists() or (name in _TELLTALE and Path(_TELLTALE[name]).exists()):
        return True
    if not shutil.which("modprobe"):
        return False
    probe = ["modprobe", "--dry-run", "--quiet", name]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def has_capability(number: int) -> bool:
    """Whether this process has the capability in effect (capabilities(7))."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return bool(found and int(found[1], 16) >> number & 1)


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc(5), field 22); None if there is none.

    With the id it names one process for good: ids are used again, start times of one id are not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def await_gone(pid: int, ticks: int | None, timeout_s: float) -> bool:
    """Wait until a process, known by id and start, is gone; whether it is.

    The first process of a PID namespace goes after all others in it.
    """
    deadline = time.monotonic() + timeout_s
    while ticks is not None and start_ticks(pid) == ticks:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
