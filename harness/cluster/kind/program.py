"""The program kind: the one on PATH, else a current release with its checksum; never a silent other one."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts.download import Downloader, architecture
from harness.errors import EnvironmentProblem

RELEASE = "v0.33.0"
"""Downloaded where PATH has none: the newest on 2026-11-28, for node images of Kubernetes 1.32 to 1.37."""
OLDEST = (0, 20)
"""The first whose nodes put the kubelet into a slice of its own, which node images from 1.27 on expect
(release notes of v0.20.0)."""
_URL = "https://github.com/kubernetes-sigs/kind/releases/download"
_TIMEOUT_S = 30


@dataclass(frozen=True)
class Program:
    """The executable, its version, and where it is from, in words."""

    path: Path
    version: str
    origin: str


def find(*, bundled: Path | None, online: bool, downloader: Downloader | None = None) -> Program:
    """The program. Raises EnvironmentProblem where there is none, or one that is too old.

    ``bundled``: of a bundle, for which PATH's may be too new or too old. ``online``: it may be downloaded.
    """
    on_path = shutil.which("kind")
    if bundled is not None:
        program = Program(bundled, version_of(bundled), "of the bundle")
    elif on_path:
        program = Program(Path(on_path), version_of(Path(on_path)), f"{on_path}, found on PATH")
    elif online:
        path = download(downloader or Downloader())
        program = Program(path, version_of(path), f"{RELEASE}, downloaded, because PATH has no kind")
    else:
        raise EnvironmentProblem(
            "there is no kind on PATH, and artifacts from a bundle mean that nothing is downloaded",
            f"put kind {RELEASE} or another current release on PATH, or name a bundle that has one "
            "(python -m lab build --kind)",
        )
    numbers = tuple(int(it) for it in re.findall(r"\d+", program.version)[:2])
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise EnvironmentProblem(
            f"kind {program.version} ({program.path}) is too old: v{oldest} is the oldest that is used here",
            f"install a current release, for example {RELEASE}, or take it off PATH to have one downloaded",
        )
    return program


def version_of(path: Path) -> str:
    """``v0.33.0``, as `kind version` says it: "kind v0.33.0 go1.26.0 linux/amd64"."""
    try:
        ended = subprocess.run(
            [path, "version"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentProblem(f"{path} can't be run: {error}", "install kind anew") from None
    found = re.search(r"\bv\d+\.\d+\.\d+\S*", ended.stdout)
    if ended.returncode or not found:
        said = (ended.stdout + ended.stderr).strip().splitlines() or ["nothing"]
        raise EnvironmentProblem(f"{path} does not say its version, but {said[-1]!r}", "install kind anew")
    return found[0]


def download(downloader: Downloader) -> Path:
    """The release for this machine, checked against the checksum that is published beside it."""
    url = f"{_URL}/{RELEASE}/kind-linux-{architecture()}"
    digest = downloader.fetch(f"{url}.sha256sum").read_text().split()[0]
    return downloader.fetch(url, sha256=digest, executable=True)


def wrapped(program: Path, network: str, directory: Path) -> Path:
    """A script that runs the program for one cluster: in its network, what it says in ``kind.log``.

    pytest-kind calls a program by its path and nothing else, and several clusters may be made at once, so
    neither can be a variable of this process.
    """
    script = directory / "kind"
    script.write_text(
        "#!/bin/sh\n"
        f"export KIND_EXPERIMENTAL_DOCKER_NETWORK={shlex.quote(network)}\n"
        f'exec {shlex.quote(str(program))} "$@" 2>>{shlex.quote(str(directory / "kind.log"))}\n'
    )
    script.chmod(0o700)
    return script
