"""Everything that this host lacks for a run, with the mend."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts.auto import PROBE_TIMEOUT_S, upstream_refusal
from harness.ownership import state_home


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``optional``: a run does without it."""

    what: str
    ok: bool
    found: str
    mend: str = ""
    optional: bool = False


def examine(cluster: str) -> list[Finding]:
    """Look at this host, for a cluster of that kind. Changes nothing."""
    refusal = upstream_refusal()
    findings = [_python(), _state_home(), *_sources(refusal), _git()]
    if cluster == "k3s":
        findings += [*_host(), _way_out(needed=refusal is None)]
    if cluster == "kind":
        findings.append(_tool("docker", "kind runs its node in Docker: install it"))
    return findings


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("Python 3.11 or newer", sys.version_info >= (3, 11), version, "install a newer Python")


def _state_home() -> Finding:
    home = state_home()
    existing = next(path for path in (home, *home.parents) if path.exists())
    writable = os.access(existing, os.W_OK)
    return Finding(
        "state directory",
        writable,
        f"{home} {'can be written' if writable else 'can not be written'}",
        "run it with sudo, or set RUNNER_CONFORMANCE_HOME to a directory of yours",
    )


def _host() -> list[Finding]:
    from harness.cluster import linux
    from harness.cluster.preflight import host_problems

    problems = host_problems(state_home(), outgoing=False)
    findings = [Finding("host", False, problem.message, problem.hint) for problem in problems]
    if not problems:
        findings.append(Finding("host", True, "namespaces, programs, file systems, disk and memory suffice"))
    capable = linux.has_capability(linux.CAP_SYS_RESOURCE)
    findings.append(
        Finding(
            "CAP_SYS_RESOURCE",
            capable,
            "there" if capable else "missing: k3s gets a containerd template that does without",
            "nothing, unless pods must have an out-of-memory score below their parent's",
            optional=True,
        )
    )
    other = Path("/run/k3s/containerd/containerd.sock")
    if other.exists():
        found = "a k3s runs on this host; ours lives in namespaces of its own beside it"
        findings.append(Finding("another k3s", True, found))
    return findings


def _way_out(*, needed: bool) -> Finding:
    from harness.cluster import nat

    problem = nat.lack()
    found = "nft or iptables translates the node's addresses" if problem is None else problem.message
    mend = "" if problem is None else problem.hint
    return Finding("a node's way out", problem is None, found, mend, optional=not needed)


def _sources(refusal: str | None) -> list[Finding]:
    lab = importlib.util.find_spec("lab") is not None
    upstream = Finding(
        "upstream releases",
        refusal is None,
        f"answered within {PROBE_TIMEOUT_S:.0f} s" if refusal is None else refusal,
        "set https_proxy, or name a bundle with --artifacts DIR"
        + (", or use the lab's bundle" if lab else ""),
        optional=lab,
    )
    found = "can build a bundle of stand-ins" if lab else "not installed"
    return [upstream, Finding("lab", lab, found, "only needed for rehearsals", optional=True)]


def _git() -> Finding:
    return _tool("git", "the embedded GitLab serves repositories with it: install git")


def _tool(name: str, mend: str) -> Finding:
    path = shutil.which(name)
    return Finding(name, path is not None, path or "not found", mend)
