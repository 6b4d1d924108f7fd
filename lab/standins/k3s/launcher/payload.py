"""What this file carries: its identity, and the programs that it unpacks below the data directory."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

_COPY_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Identity:
    """Version, commit and Go version of the programs inside, the payload's hash and its links."""

    version: str
    commit: str
    go: str
    hash: str
    links: dict[str, str]

    @property
    def minor(self) -> int:
        """The Kubernetes minor version, for settings that came or went with one."""
        return int(self.version.split(".")[1])


def _file() -> Path:
    return Path(sys.argv[0]).resolve() if zipfile.is_zipfile(sys.argv[0]) else Path(sys.path[0])


def identity() -> Identity:
    """Read what was packed."""
    with zipfile.ZipFile(_file()) as archive:
        return Identity(**json.loads(archive.read("payload.json")))


def unpack(data_dir: Path) -> Path:
    """Copy the payload to ``<data_dir>/data/<hash>``, once; returns that directory.

    A second process that comes at the same time waits; a copy that was interrupted is made anew.
    """
    me = identity()
    base = data_dir / "data"
    target = base / me.hash
    base.mkdir(parents=True, exist_ok=True)
    with open(base / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            partial = base / f"{me.hash}.part"
            shutil.rmtree(partial, ignore_errors=True)
            _copy(partial, me)
            partial.rename(target)
        current = base / "current"
        if not current.is_symlink() or current.readlink() != target:
            current.unlink(missing_ok=True)
            current.symlink_to(target)
    return target


def _copy(directory: Path, me: Identity) -> None:
    with zipfile.ZipFile(_file()) as archive:
        for entry in archive.infolist():
            if not entry.filename.startswith("payload/"):
                continue
            path = directory / entry.filename.removeprefix("payload/")
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, open(path, "wb") as sink:
                shutil.copyfileobj(source, sink, _COPY_BUFFER_BYTES)
            path.chmod(entry.external_attr >> 16)
    for name, link in me.links.items():
        (directory / name).symlink_to(link)


def environment(directory: Path) -> dict[str, str]:
    """Environment in which the payload's programs find each other, their libraries and iptables' modules."""
    bin_dir, lib_dir = directory / "bin", directory / "lib"
    path = os.environ.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    system = "/usr/sbin:/usr/bin:/sbin:/bin"  # mount, nsenter, ip: as k3s, the host's
    return {
        **os.environ,
        "PATH": f"{bin_dir}:{bin_dir / 'aux'}:{path}:{system}",
        "LD_LIBRARY_PATH": str(lib_dir),
        "XTABLES_LIBDIR": str(lib_dir / "xtables"),
    }
