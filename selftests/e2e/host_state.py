"""What a host looks like from outside, to be compared before a cluster and after it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

#: Where a node could leave files if its own view of the file system had a hole.
_DIRECTORIES = ("/etc", "/opt", "/run", "/usr/libexec", "/usr/local", "/var/lib", "/var/log")
_DEPTH = 3
#: In directories that everybody writes to: names that the programs of a node give.
_TEMPORARY = re.compile(r"containerd|docker|k3s|kube|runc|cni|shim", re.IGNORECASE)
#: Other runs keep their state here.
_NOT_COMPARED = {Path("/var/lib/runner-conformance")}
_SETTINGS = (
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
_RUN_ID = re.compile(r"rc-?([0-9a-f]{8})")


def snapshot(run_id: str, ignore: tuple[Path, ...] = ()) -> dict[str, set[str]]:
    """Links, addresses, network namespaces, firewall, mounts, cgroups, settings and files.

    What carries the id of another run is left out: other clusters may come and go meanwhile. An empty run id
    leaves out nothing.
    """
    own = run_id.removeprefix("rc-")
    found = {
        "links and addresses": set(_output("ip", "-oneline", "address").splitlines()),
        "network namespaces": set(_output("ip", "netns").splitlines()),
        "nft rules": set(_blocks(_output("nft", "list", "ruleset"))),
        "iptables rules": set(_output("iptables-save").splitlines()),
        "mounts": {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()},
        "cgroups": set(_cgroups()),
        "settings": {f"{it}={Path('/proc/sys', it).read_text().strip()}" for it in _SETTINGS},
        "files": set(_files(ignore)),
    }
    return {kind: {it for it in items if not _is_of_another(it, own)} for kind, items in found.items()}


def difference(before: dict[str, set[str]], after: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is new or gone between two snapshots, by kind; empty when nothing is."""
    return {kind: before[kind] ^ after[kind] for kind in before if before[kind] != after[kind]}


def _is_of_another(text: str, own: str) -> bool:
    ids = set(_RUN_ID.findall(text))
    return bool(own and ids) and own not in ids


def _output(*argv: str) -> str:
    """What a program prints; a host without the program has nothing of what it lists."""
    if shutil.which(argv[0]) is None:
        return ""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    # counters and life times change by themselves
    changing = r"valid_lft \S+ preferred_lft \S+|\[\d+:\d+\]|counter packets \d+ bytes \d+|^#.*$"
    return re.sub(changing, "", done.stdout, flags=re.MULTILINE)


def _blocks(ruleset: str) -> list[str]:
    """Tables of an nft listing, one string each."""
    return [block for block in re.split(r"^(?=table )", ruleset, flags=re.MULTILINE) if block.strip()]


def _cgroups() -> Iterator[str]:
    top = Path("/sys/fs/cgroup")
    for hierarchy in [top, *(it for it in top.iterdir() if it.is_dir())]:
        yield from (str(it) for it in hierarchy.iterdir() if it.is_dir())


def _files(ignore: tuple[Path, ...]) -> Iterator[str]:
    for shared in ("/tmp", "/var/tmp"):
        yield from (str(it) for it in Path(shared).iterdir() if _TEMPORARY.search(it.name))
    for top in _DIRECTORIES:
        for directory, subdirectories, names in os.walk(top):
            path = Path(directory)
            if len(path.relative_to(top).parts) >= _DEPTH - 1:
                subdirectories.clear()
            subdirectories[:] = [it for it in subdirectories if path / it not in {*ignore, *_NOT_COMPARED}]
            yield from (str(path / it) for it in [*subdirectories, *names])


def processes_below(pid_namespaces: set[str], text: str) -> list[str]:
    """Processes in one of these PID namespaces (texts of their links), or with ``text`` in their command."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            namespace = str((entry / "ns/pid").readlink())
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if namespace in pid_namespaces or text in command:
            found.append(f"{entry.name}: {command}")
    return found
