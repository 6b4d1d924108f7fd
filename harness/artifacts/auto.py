"""Choosing a source: by name, or upstream if it answers at once and else the lab's bundle."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from harness.artifacts import ONLINE, Artifacts
from harness.artifacts.bundle import Bundle
from harness.artifacts.china import ChinaArtifacts
from harness.artifacts.directory import BundleArtifacts
from harness.artifacts.download import Downloader, Transferred
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
) -> Artifacts:
    """Artifacts by choice; ``report`` hears at once which source is taken, and why.

    Raises UsageError for an unknown choice, EnvironmentProblem when a source can't be used.
    """
    if choice == "auto":
        return _auto(profile, report, transferred, probe)
    if choice in ONLINE:
        report(f"Artifacts: {choice}, as asked")
        return _online(choice, profile, transferred)
    path = Path(choice)
    if not path.exists():
        raise UsageError(
            f"--artifacts {choice}: neither auto, upstream, china nor a directory that is there",
            "make one with `runner-conformance bundle --profile P --out DIR`",
        )
    report(f"Artifacts: bundle {path}, as asked")
    return BundleArtifacts(Bundle.open(path.resolve()), profile)


def _auto(profile: Profile, report: Callable[[str], None], transferred: Transferred, probe: str) -> Artifacts:
    refusal = upstream_refusal(probe)
    if refusal is None:
        report(f"Artifacts: upstream (it answered within {PROBE_TIMEOUT_S:.0f} s)")
        return _online("upstream", profile, transferred)
    report(f"Artifacts: the lab's bundle, because upstream is out of reach: {refusal}")
    path = build_lab_bundle(profile)
    return BundleArtifacts(Bundle.open(path), profile, why=f"built by the lab; upstream: {refusal}")


def upstream_refusal(probe: str = UPSTREAM_PROBE) -> str | None:
    """None when upstream answers within PROBE_TIMEOUT_S, else why not. Proxies of the environment apply."""
    try:
        with httpx.Client(timeout=PROBE_TIMEOUT_S, follow_redirects=False) as client:
            answer = client.head(probe)
    except (httpx.HTTPError, OSError) as error:
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return None if answer.status_code < 400 else f"HTTP {answer.status_code} from {probe}"


def _online(choice: str, profile: Profile, transferred: Transferred) -> Artifacts:
    downloader = Downloader(transferred=transferred)
    if choice == "china":
        return ChinaArtifacts(profile, downloader)
    return UpstreamArtifacts(profile, downloader)


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
