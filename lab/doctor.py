"""What a build needs of the machine, each with the command that mends it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lab.debian import APT_STATE
from lab.errors import LabError
from lab.gobuild import find_go

FIRST_GIB = 14  # Go modules 3, Go's build cache 5, cached steps 3, a bundle 2; measured, rounded up
AGAIN_GIB = 4  # with a filled cache: a new bundle beside the old, and the results of what changed
GIB = 1 << 30


@dataclass(frozen=True)
class Need:
    """One thing a build needs: what it is, whether it is there, what mends it."""

    title: str
    missing: str
    mend: str

    @property
    def met(self) -> bool:
        """Whether it is there."""
        return not self.missing


def needs(cache: Path, out: Path | None = None) -> list[Need]:
    """Every need, met or not, in the order in which a person would mend them."""
    places = [cache, *([out] if out else [])]
    wanted = AGAIN_GIB if (cache / "steps").is_dir() else FIRST_GIB
    return [
        _need("Linux on x86-64", _platform_missing, "run it on a Linux x86-64 machine"),
        _need("root", _root_missing, "sudo python -m lab …"),
        _need("apt of Debian or Ubuntu", _apt_missing, "run it on Debian 12 or Ubuntu"),
        _need("apt's package lists", _lists_missing, "apt-get update"),
        _need("git", lambda: _program_missing("git"), "apt-get install git"),
        _need("Go", _go_missing, "pip install -e '.[lab]'"),
        _need("pip or uv", _installer_missing, f"{sys.executable} -m ensurepip"),
        *(Need(f"disk at {p}", _disk_missing(p, wanted), "free some, or set XDG_CACHE_HOME") for p in places),
    ]


def require(cache: Path, out: Path) -> None:
    """Raise LabError naming every need that is not met."""
    missing = [need for need in needs(cache, out) if not need.met]
    if missing:
        raise LabError(
            "; ".join(f"{need.title}: {need.missing}" for need in missing),
            "; ".join(dict.fromkeys(need.mend for need in missing)),
        )


def report(console: Console, cache: Path) -> int:
    """Print every need with its state; 0 when all are met, else 1. A build installs nothing system-wide."""
    found = needs(cache)
    for need in found:
        state = "ok" if need.met else f"MISSING: {need.missing}; mend: {need.mend}"
        console.print(f"  {need.title:<28} {state}", markup=False, soft_wrap=True)
    console.print("A build installs nothing system-wide; it writes to its cache and to --out.", markup=False)
    return 0 if all(need.met for need in found) else 1


def _need(title: str, missing: Callable[[], str], mend: str) -> Need:
    return Need(title, missing(), mend)


def _platform_missing() -> str:
    own = f"{platform.system()} {platform.machine()}"
    return "" if own == "Linux x86_64" else f"this is {own}"


def _root_missing() -> str:
    return "" if os.geteuid() == 0 else "you are not root"


def _apt_missing() -> str:
    absent = [name for name in ("apt-get", "dpkg-deb") if not shutil.which(name)]
    return f"{', '.join(absent)} not found" if absent else ""


def _lists_missing() -> str:
    there = APT_STATE.is_dir() and any("_Packages" in p.name for p in APT_STATE.iterdir())
    return "" if there else f"none in {APT_STATE}"


def _program_missing(name: str) -> str:
    return "" if shutil.which(name) else f"{name} not found"


def _go_missing() -> str:
    try:
        find_go()
    except LabError as error:
        return error.message
    return ""


def _installer_missing() -> str:
    if shutil.which("uv"):
        return ""
    done = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "neither is found"


def _disk_missing(place: Path, wanted_gib: int) -> str:
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / GIB
    return "" if free >= wanted_gib else f"{free:.1f} GiB free, a build takes {wanted_gib}"
