"""Where a run was made: the machine and the suite's own version, so that nights can be compared."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_GIT_S = 5.0


def host() -> str:
    """Kernel, architecture and cores; no name, since reports are passed on."""
    return f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores"


def suite() -> str:
    """The version, and in a checkout its commit; ``+`` marks a commit with changes."""
    try:
        version = metadata.version("runner-conformance")
    except metadata.PackageNotFoundError:
        version = "unknown"
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=_GIT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return version
    return f"{version} ({done.stdout.strip()})" if done.returncode == 0 else version
