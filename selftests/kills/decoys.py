"""Things on this host that look like ours and are not; whoever touches one has gone by a name."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from harness.cluster import cgroups, keeper

_LINK, _PEER = f"rcd{os.getpid()}a", f"rcd{os.getpid()}b"
_CGROUPS = tuple(f"{it}{os.getpid()}" for it in ("rc-local", "rc-0decoy00-demo", "rc-00000000-decoy"))
"""With the process's id, so that plans can be carried out side by side."""


class Decoys:
    """Cgroups with a process in each, a link with an alias like ours, a process with the keeper's words."""

    def __init__(self) -> None:
        self._sleepers: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Decoys:
        for name in _CGROUPS:
            sleeper = subprocess.Popen(["sleep", "86400"])
            self._sleepers[name] = sleeper
            for hierarchy in cgroups.hierarchies():
                with suppress(OSError):  # v1's cpuset wants its CPUs first; the others hold the process
                    (hierarchy.path / name).mkdir()
                    (hierarchy.path / name / "cgroup.procs").write_text(str(sleeper.pid))
        code = "import time; time.sleep(86400)"
        self._sleepers["keeper"] = subprocess.Popen([sys.executable, "-c", code, keeper.COMMAND, "/nowhere"])
        subprocess.run(["ip", "link", "add", _LINK, "type", "veth", "peer", "name", _PEER], check=False)
        subprocess.run(["ip", "link", "set", _LINK, "alias", "runner-conformance demo"], check=False)
        return self

    def touched(self) -> list[str]:
        """Which are no longer as they were made."""
        found = [name for name, it in self._sleepers.items() if it.poll() is not None]
        for name in _CGROUPS:
            if not any((it.path / name).exists() for it in cgroups.hierarchies()):
                found.append(f"cgroup {name}")
        if not Path("/sys/class/net", _LINK).exists():
            found.append(f"link {_LINK}")
        return found

    def __exit__(self, *_: object) -> None:
        for sleeper in self._sleepers.values():
            sleeper.kill()
            sleeper.wait()
        for name in _CGROUPS:
            for hierarchy in cgroups.hierarchies():
                with suppress(OSError):
                    (hierarchy.path / name).rmdir()
        subprocess.run(["ip", "link", "del", _LINK], check=False, capture_output=True)
