"""Choosing a source: by name, or upstream if it answers at once and else the lab's bundle."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx

from harness import web
from harness.artifacts import ONLINE, Artifacts
from harness.artifacts.bundle import Bundle
from harness.artifacts.china import ChinaArtifacts
from harness.artifacts.directory import BundleArtifacts
from harness.artifacts.download import Downloader, Transferred
from harness.artifacts.registry_auth import Credentials
from harness.artifacts.registry_auth import read as read_auth
from harness.artifacts.upstream import UpstreamArtifacts
from harness.errors import EnvironmentProblem, UsageError
from harness.profile import PROFILES_DIR, Profile

UPSTREAM_PROBE = "https://github.com/k3s-io/k3s/releases"
PROBE_TIMEOUT_S = 3.0
"""Longer than a slow connection needs for a first answer, shorter than anybody's patience."""


def open_artifacts(
    choice: str,
    profile: Profile,
    *,
    report: Callable[[str], None] = lambda line: None,
    transferred: Transferred = lambda name, done, total: None,
    probe: str = UPSTREAM_PROBE,
    registry_auth: Path | None = None,
    build: bool = True,
) -> Artifacts:
    """Artifacts by choice; ``report`` hears at once which source is taken, and why.

    ``build``: without it ``auto`` is upstream, whose files are fetched only where something asks for them.
    Raises UsageError for an unknown choice, EnvironmentProblem when a source can't be used.
    """
    online = partial(_online, profile, transferred, read_auth(registry_auth))
    if choice == "auto" and not build:
        return online("upstream")
    if choice == "auto":
        return _auto(profile, report, online, probe)
    if choice in ONLINE:
        report(f"Artifacts: {choice}, as asked")
        return online(choice)
    check_choice(choice)
    path = Path(choice)
    report(f"Artifacts: bundle {path}, as asked")
    return BundleArtifacts(Bundle.open(path.resolve()), profile)


def check_choice(choice: str) -> None:
    """Raises UsageError for what names no source of artifacts."""
    if choice not in ("auto", *ONLINE) and not Path(choice).exists():
        raise UsageError(
            f"--artifacts {choice}: neither auto, upstream, china nor a directory that is there",
            "make one with `runner-conformance bundle --profile P --out DIR`",
        )


def _auto(
    profile: Profile, report: Callable[[str], None], online: Callable[[str], Artifacts], probe: str
) -> Artifacts:
    refusal = upstream_refusal(probe)
    if refusal is None:
        report(f"Artifacts: upstream (it answered within {PROBE_TIMEOUT_S:.0f} s)")
        return online("upstream")
    report(f"Artifacts: the lab's bundle, because upstream is out of reach: {refusal}")
    path = build_lab_bundle(profile)
    return BundleArtifacts(Bundle.open(path), profile, why=f"built by the lab; upstream: {refusal}")


def upstream_refusal(probe: str = UPSTREAM_PROBE) -> str | None:
    """None when upstream answers within PROBE_TIMEOUT_S, else why not. Proxies of the environment apply."""
    try:
        with web.client(timeout=PROBE_TIMEOUT_S, follow_redirects=False) as client:
            answer = client.head(probe)
            if answer.status_code in web.TRANSIENT:
                answer = client.head(probe)
    except httpx.HTTPError as error:
        return web.problem(probe, error).message
    return None if answer.status_code < 400 else f"HTTP {answer.status_code} from {probe}"


def _online(profile: Profile, transferred: Transferred, credentials: Credentials, choice: str) -> Artifacts:
    source = ChinaArtifacts if choice == "china" else UpstreamArtifacts
    return source(profile, Downloader(transferred=transferred), credentials=credentials)


def build_lab_bundle(profile: Profile) -> Path:
    """Let the lab build (or confirm) its bundle; the lab prints the path as its last line."""
    if importlib.util.find_spec("lab") is None:
        raise EnvironmentProblem(
            "upstream is out of reach and the lab is not installed",
            "name a bundle with --artifacts DIR, or install the project with its lab",
        )
    argv = [sys.executable, "-m", "lab", "build", "--profile", profile.name]
    # The lab reports its progress on stderr, which stays the terminal's.
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, cwd=PROFILES_DIR.parent, check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not lines or not Path(lines[-1]).is_dir():
        raise EnvironmentProblem(
            f"the lab could not build its bundle (exit code {done.returncode})",
            f"run `{' '.join(['python', *argv[1:]])}` and read what it says",
            evidence="\n".join(lines[-10:]),
        )
    return Path(lines[-1])
