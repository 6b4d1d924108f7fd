"""Everything that this host lacks for a run, with the mend."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts.auto import PROBE_TIMEOUT_S, upstream_refusal
from harness.cluster.preflight import INOTIFY_INSTANCES
from harness.errors import EnvironmentProblem, HarnessError
from harness.ownership import state_home

#: What containerd and kubelet of a busy node may come to need.
_OPEN_FILES = 65536


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
        needed = refusal is None
        findings += [*_host(), _way_out(needed=needed), *_names(needed=needed)]
    if cluster == "kind":
        findings += _kind(online=refusal is None)
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
    from harness.cluster import cgroups, linux
    from harness.cluster.preflight import host_problems

    problems = host_problems(state_home(), outgoing=False)
    findings = [Finding("host", False, problem.message, problem.hint) for problem in problems]
    if not problems:
        found = "namespaces, programs, file systems, cgroups, inotify, disk and memory suffice"
        findings.append(Finding("host", True, found))
    version = "v1, or v1 mixed with v2" if cgroups.is_v1(cgroups.hierarchies()) else "v2"
    findings.append(Finding("cgroups", True, version))
    findings += _modules()
    findings += _open_files()
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


def _kind(*, online: bool) -> list[Finding]:
    """Engine, program and limits for kind's nodes."""
    from harness.cluster import cgroups, linux
    from harness.cluster.kind import engine, program

    findings = []
    try:
        found = engine.check()
        findings.append(Finding("docker engine", True, f"{found.version} at {found.socket}"))
    except HarnessError as problem:
        findings.append(Finding("docker engine", False, problem.message, problem.hint))
    on_path = shutil.which("kind")
    try:
        if on_path or not online:
            kind = program.find(bundled=None, online=False)
            findings.append(Finding("kind", True, f"{kind.version} ({kind.origin})"))
        else:
            words = f"not on PATH; {program.RELEASE} is downloaded when it is needed"
            findings.append(Finding("kind", True, words))
    except EnvironmentProblem as problem:
        findings.append(Finding("kind", False, problem.message, problem.hint))
    version = "v1, or v1 mixed with v2" if cgroups.is_v1(cgroups.hierarchies()) else "v2"
    findings.append(Finding("cgroups", True, version))
    instances = linux.free_inotify_instances(INOTIFY_INSTANCES)
    mend = "sysctl fs.inotify.max_user_instances=512 fs.inotify.max_user_watches=524288 (kind's known issues)"
    enough = instances >= INOTIFY_INSTANCES
    findings.append(Finding("inotify instances", enough, f"{instances} can be had, or more", mend))
    return findings


def _modules() -> list[Finding]:
    """Kernel modules that k3s loads, or does without.  They stay loaded."""
    from harness.cluster import linux

    findings = []
    for name, use in (
        ("br_netfilter", "pods reach services whose pods are on their own node"),
        ("nf_conntrack", "kube-proxy translates addresses of services"),
        ("vxlan", "flannel's default; without it flannel uses host-gw"),
    ):
        there = linux.has_module(name)
        found = "there" if there else f"neither loaded nor to be loaded here; it is for: {use}"
        mend = f"modprobe {name} (in a container: on its host)"
        findings.append(Finding(f"module {name}", there, found, mend, optional=True))
    return findings


def _open_files() -> list[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = hard == resource.RLIM_INFINITY or hard >= _OPEN_FILES
    mend = f"ulimit -Hn {_OPEN_FILES}, or LimitNOFILE= of the service that starts it"
    return [Finding("open files", enough, f"up to {hard} a process", mend, optional=True)]


def _names(*, needed: bool) -> list[Finding]:
    """Name servers and proxy, as a node would have them."""
    from harness import proxy
    from harness.cluster import dns, links

    try:
        resolver = dns.resolver(air_gapped=False, node_ip="")
        dropped = "".join(f"; not {it}" for it in resolver.dropped)
        servers = ", ".join(re.findall(r"^nameserver (\S+)", resolver.text, re.MULTILINE))
        findings = [Finding("a node's name servers", True, servers + dropped)]
    except EnvironmentProblem as problem:
        findings = [
            Finding("a node's name servers", False, problem.message, problem.hint, optional=not needed)
        ]
    try:
        if proxy.for_node():
            findings.append(Finding("a node's proxy", True, "what the node pulls goes through this host's"))
    except EnvironmentProblem as problem:
        findings.append(Finding("a node's proxy", False, problem.message, problem.hint, optional=not needed))
    findings.append(Finding("a node's link", True, f"MTU {links.uplink_mtu()}, as this host's uplink has"))
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
