"""The node's side: namespaces, its own view of the file system, and the first process that runs k3s.

Runs in a child of the keeper (keeper.py), which it never outlives.  All that is set up here goes with it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.cluster import cgroups, links, linux

#: Host directories that get a writable layer in memory: nothing that the node writes there reaches the host.
_OVERLAID = ("/etc", "/opt", "/usr/libexec", "/var/lib")
#: Directories that hold much, or that the host side reads: real ones below the state directory.
BOUND = {
    "etc-rancher": "/etc/rancher",
    "etc-docker": "/etc/docker",
    "var-lib-rancher": "/var/lib/rancher",
    "var-lib-kubelet": "/var/lib/kubelet",
    "var-lib-cni": "/var/lib/cni",
    "var-lib-docker": "/var/lib/docker",
    "var-lib-containerd": "/var/lib/containerd",
    "var-log": "/var/log",
}
#: Settings of the whole machine that a kubelet writes (--protect-kernel-defaults says which).  The node gets
#: files in their place: what it writes there changes nothing outside.
_KERNEL_SETTINGS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
_TEMPLATE_POLL_S = 0.1
#: LimitNOFILE of k3s.service, which install.sh writes.
_OPEN_FILES = 1048576
#: containerd's configuration of any version has one of these when it is whole.
_CRI_SECTION = re.compile(
    r"""^\s*\[plugins\.["']?(?:cri|io\.containerd\.(?:grpc\.v1\.cri|cri\.v1\.runtime))["']?\]""", re.MULTILINE
)
_DOCKER_LIBRARIES = "usr/lib/x86_64-linux-gnu"
#: Written when dockerd has ended, with its exit status.
DOCKER_ENDED = "logs/dockerd.ended"


@dataclass(frozen=True)
class NodeSpec:
    """What the node's processes are told; all paths are the host's."""

    name: str
    cgroup: str
    state_dir: str
    k3s: str
    arguments: list[str]
    subnet: int
    resolv_conf: str
    hosts: str
    docker_engine: str
    write_template: bool
    mtu: int
    environment: dict[str, str]

    @property
    def root(self) -> Path:
        """The state directory."""
        return Path(self.state_dir)


def enter_namespaces(cgroup: str) -> None:
    """Put the calling process into cgroups and namespaces of its own; its *children* into the PID one."""
    cgroups.enter(cgroup)
    linux.unshare(
        linux.CLONE_NEWNS
        | linux.CLONE_NEWNET
        | linux.CLONE_NEWPID
        | linux.CLONE_NEWUTS
        | linux.CLONE_NEWIPC
        | linux.CLONE_NEWCGROUP
    )
    cgroups.leave_root(cgroup)


def run_first_process(spec: NodeSpec, report: Callable[[dict[str, Any]], None]) -> int:
    """Be process 1 of the node: set up its view, run k3s, collect orphans; returns k3s's exit status."""
    try:
        os.setsid()
        linux.set_hostname(spec.name)
        _build_view(spec)
        links.configure_inside(links.Subnet(spec.subnet), spec.mtu)
        cgroups.hand_down()
        linux.raise_open_files(_OPEN_FILES)
        spec, notes = _with_network(spec)
    except Exception as error:
        report({"event": "failed", "message": f"the node's namespaces can't be set up: {error}",
                "evidence": traceback.format_exc()})  # fmt: skip
        return 1
    report({"event": "started", "notes": notes})
    first = _FirstProcess(spec)
    status = first.run()
    report({"event": "exited", "status": status})
    return status


def _with_network(spec: NodeSpec) -> tuple[NodeSpec, list[str]]:
    """k3s's own choice of network, vxlan, wherever this kernel has it; in this network namespace."""
    if any("flannel-backend" in it for it in spec.arguments) or links.has_vxlan():
        return spec, []
    note = "this kernel has no vxlan: flannel uses host-gw, and pods have the node's full MTU"
    return replace(spec, arguments=[*spec.arguments, "--flannel-backend=host-gw"]), [note]


# -- the node's view of the file system ----------------------------------------------------------------


def _build_view(spec: NodeSpec) -> None:
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    state = os.open(spec.state_dir, os.O_PATH)
    k3s = os.open(spec.k3s, os.O_PATH)
    node = spec.root / "node"
    staging = node / "staging"
    staging.mkdir(exist_ok=True)
    mount_kernel_views(spec.cgroup, staging)
    _shield_kernel_settings(node)
    _overlay(staging)
    for name, target in BOUND.items():
        _bind_at(node / name, Path(target), f"/proc/self/fd/{state}/node/{name}")
    _bind_at(spec.root, spec.root, f"/proc/self/fd/{state}")
    _bind_k3s(spec, k3s)
    _network_files(spec)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_SHARED)
    os.close(state)
    os.close(k3s)


def mount_kernel_views(cgroup: str, staging: Path) -> None:
    """/sys, /proc, cgroups and /run of these namespaces in place of the host's; ``staging`` is left empty.

    The host's /sys shows the host's links, and its cgroup mounts would be found first: both go.
    """
    cgroups.mount_own(cgroup, staging)
    linux.unmount("/sys")
    linux.mount("sysfs", "/sys", "sysfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    linux.mount(str(staging), cgroups.ROOT, flags=linux.MS_MOVE)
    linux.unmount("/proc")
    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    linux.mount("run", "/run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    if not Path("/var/run").is_symlink():
        linux.bind("/run", "/var/run")


def _overlay(staging: Path) -> None:
    """Layer memory over the host's directories."""
    linux.mount("node-layers", staging, "tmpfs", linux.MS_NODEV, "mode=755")
    for directory in _OVERLAID:
        if not Path(directory).is_dir() or Path(directory).is_symlink():
            continue
        upper, work = (staging / f"{part}{directory.replace('/', '-')}" for part in ("upper", "work"))
        upper.mkdir()
        work.mkdir()
        upper.chmod(0o755)
        linux.mount(
            "node", directory, "overlay", data=f"lowerdir={directory},upperdir={upper},workdir={work}"
        )


def _bind_at(source: Path, target: Path, through: str) -> None:
    """Bind by way of an open directory: ``source`` itself may be hidden by what is mounted by now."""
    del source
    target.mkdir(parents=True, exist_ok=True)
    linux.bind(through, target)


def _bind_k3s(spec: NodeSpec, opened: int) -> None:
    """k3s and the names that its installer gives it, in a directory that the node's shell has in its PATH."""
    program = spec.root / "bin/k3s"
    program.parent.mkdir(exist_ok=True)
    program.touch()
    linux.bind(f"/proc/self/fd/{opened}", program)
    for name in ("kubectl", "crictl", "ctr"):
        program.with_name(name).symlink_to(program.name)


def _shield_kernel_settings(node: Path) -> None:
    shield = node / "kernel-settings"
    shield.mkdir(exist_ok=True)
    for name in _KERNEL_SETTINGS:
        real = Path("/proc/sys") / name
        if real.exists():
            copy = shield / name.replace("/", ".")
            copy.write_text(real.read_text())
            linux.bind(copy, real)


def _network_files(spec: NodeSpec) -> None:
    for name, text in (
        ("resolv.conf", spec.resolv_conf),
        ("hosts", spec.hosts),
        ("hostname", f"{spec.name}\n"),
    ):
        path = Path("/etc") / name
        with suppress(OSError):
            linux.unmount(path)  # container engines bind files here
        path.unlink(missing_ok=True)
        path.write_text(text)


# -- process 1 -------------------------------------------------------------------------------------------


class _FirstProcess:
    """Runs k3s, and the docker engine beside it; ends with k3s."""

    def __init__(self, spec: NodeSpec) -> None:
        self._spec = spec
        self._logs = spec.root / "logs"
        self._k3s: subprocess.Popen[bytes] | None = None
        self._dockerd: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._stop)
        self._start()
        if self._spec.write_template:
            self._ensure_template()
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                return 1
            code = os.waitstatus_to_exitcode(status)
            if self._k3s and pid == self._k3s.pid:
                return code
            if self._dockerd and pid == self._dockerd.pid:
                (self._spec.root / DOCKER_ENDED).write_text(str(code))

    def _start(self) -> None:
        k3s = [str(self._spec.root / "bin/k3s"), *self._spec.arguments]
        self._k3s = self._spawn("k3s", k3s, self._environment())
        if self._spec.docker_engine:
            self._dockerd = self._spawn("dockerd", *self._docker())

    def _environment(self) -> dict[str, str]:
        temporary = self._spec.root / "node/tmp"
        temporary.mkdir(exist_ok=True)
        path = f"{self._spec.root / 'bin'}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        return {"PATH": path, "HOME": "/root", "TMPDIR": str(temporary), **self._spec.environment}

    def _docker(self) -> tuple[list[str], dict[str, str]]:
        """Unpack the engine and become dockerd: beside k3s's start, which it would hold up otherwise."""
        engine = self._spec.root / "docker-engine"
        engine.mkdir(exist_ok=True)
        environment = self._environment()
        parts = ("usr/sbin", "usr/bin", "sbin", "bin", "usr/libexec/docker")
        environment["PATH"] = ":".join([*(str(engine / part) for part in parts), environment["PATH"]])
        script = """
            tar -xf "$1" -C "$2" || exit 1
            if [ -d "$2/$3" ]; then export LD_LIBRARY_PATH="$2/$3"; fi
            if [ -d "$2/$3/xtables" ]; then export XTABLES_LIBDIR="$2/$3/xtables"; fi
            exec dockerd --host=unix:///var/run/docker.sock --exec-opt=native.cgroupdriver=cgroupfs
        """
        return [
            "sh",
            "-c",
            script,
            "docker",
            self._spec.docker_engine,
            str(engine),
            _DOCKER_LIBRARIES,
        ], environment

    def _spawn(self, name: str, argv: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with open(self._logs / f"{name}.log", "ab") as output:
            return subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd="/"
            )

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True
        if self._k3s:
            self._k3s.send_signal(signal.SIGTERM)

    def _ensure_template(self) -> None:
        """Without CAP_SYS_RESOURCE nothing may lower an oom_score_adj, so containerd must not try.

        k3s's own configuration differs from version to version; so the one that it has written is taken,
        changed, put in place as its template, and k3s is started again.  One that sees to it itself is left.
        """
        etc = Path("/var/lib/rancher/k3s/agent/etc/containerd")
        config = etc / "config.toml"
        while not (config.exists() and _CRI_SECTION.search(config.read_text())):
            if self._ended() or self._stopping:
                return
            time.sleep(_TEMPLATE_POLL_S)
        text = config.read_text()
        if "restrict_oom_score_adj = true" in text:
            return
        name = "config-v3.toml.tmpl" if "version = 3" in text else "config.toml.tmpl"
        (etc / name).write_text(with_restricted_oom_score(text))
        self._restart()

    def _ended(self) -> bool:
        """Whether k3s is gone; it is left for ``run`` to collect."""
        assert self._k3s
        return os.waitid(os.P_PID, self._k3s.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _restart(self) -> None:
        """Start again from an empty process table."""
        self._k3s = None
        os.kill(-1, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
        Path("/run/docker.pid").unlink(missing_ok=True)
        self._start()


def with_restricted_oom_score(config: str) -> str:
    """containerd's configuration with ``restrict_oom_score_adj = true`` in its CRI section, as a Go template.

    The section is ``cri`` in version 1 (which has no line that says so), ``io.containerd.grpc.v1.cri`` in
    version 2, ``io.containerd.cri.v1.runtime`` in version 3; there, k3s has a section of version 2's name as
    well, for the stream server alone.
    """
    version = re.search(r"^version = (\d)", config, re.MULTILINE)
    newer = {"2": "io.containerd.grpc.v1.cri", "3": "io.containerd.cri.v1.runtime"}
    name = newer.get(version[1] if version else "", "cri")
    sections = [f"[plugins.{quote}{name}{quote}]" for quote in ('"', "'", "")]
    lines, done = [], False
    for line in config.replace("{{", '{{"{{"}}').splitlines():
        if line.strip().startswith("restrict_oom_score_adj"):
            continue
        lines.append(line)
        if line.strip() in sections and not done:
            lines.append("  restrict_oom_score_adj = true")
            done = True
    if not done:
        lines += ["", f'[plugins."{name}"]', "  restrict_oom_score_adj = true"]
    return "\n".join(lines) + "\n"


def main_in_child(spec: NodeSpec, to_keeper: int, from_keeper: int) -> None:
    """What the keeper's child does: enter, let the keeper connect the link, become parent of process 1."""

    def report(message: dict[str, Any]) -> None:
        os.write(to_keeper, (json.dumps(message) + "\n").encode())

    linux.die_with_parent()
    try:
        enter_namespaces(spec.cgroup)
    except OSError as error:
        report(
            {"event": "failed", "message": f"this system gives the node no namespaces of its own: {error}"}
        )
        os._exit(1)
    report({"event": "entered"})
    if os.read(from_keeper, 1) != b"g":
        os._exit(1)
    announced, announce = os.pipe()
    first = os.fork()
    if first == 0:
        linux.die_with_parent()
        code = 1
        try:
            os.read(announced, 1)  # what it says comes after what is said of it
            code = run_first_process(spec, report)
        finally:
            sys.stderr.flush()
            os._exit(code & 0xFF)
    report({"event": "forked", "pid": first})
    os.write(announce, b"g")
    _, status = os.waitpid(first, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
