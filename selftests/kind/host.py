"""A host with a docker engine, within this one: ``python -m selftests.kind.host BUNDLE DIR -- COMMAND``.

The engine is the bundle's (Debian's), and so is its runtime, behind selftests.kind.runtime. Network,
mounts, processes and cgroups are its own; what it leaves is gone with it, and its exit code is the command's.
DIR holds the engine's data. Root.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from pyroute2 import IPRoute

from harness.cluster import cgroups, linux
from harness.cluster.node import enter_namespaces, mount_kernel_views

_OVERLAID = ("/usr", "/etc", "/opt", "/var")
_ENGINE_S = 60.0
_END_S = 15.0


def main() -> int:
    """Entry point: makes the namespaces, and waits for their first process."""
    bundle, directory, _, *command = sys.argv[1:]
    scratch = Path(directory).absolute()
    group = f"kind-host-{os.getpid()}"
    cgroups.create(group)
    try:
        child = os.fork()
        if child == 0:
            os._exit(_enter(group, Path(bundle).absolute(), scratch, command))
        _pass_on(child)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    finally:
        for path in cgroups.remove(group):
            print(f"cgroup {path} can't be removed", file=sys.stderr)


def _pass_on(pid: int) -> None:
    """A signal that ends this process ends that one, which this one waits for."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, _frame: os.kill(pid, signum))


def _enter(group: str, bundle: Path, scratch: Path, command: list[str]) -> int:
    linux.die_with_parent()
    enter_namespaces(group)
    first = os.fork()
    if first == 0:
        linux.die_with_parent()
        os._exit(_be_first(group, bundle, scratch, command))
    _pass_on(first)
    _, status = os.waitpid(first, 0)
    return abs(os.waitstatus_to_exitcode(status))


def _be_first(group: str, bundle: Path, scratch: Path, command: list[str]) -> int:
    linux.set_hostname("users-laptop")
    _view(group, bundle, scratch)
    with IPRoute() as ipr:
        ipr.link("set", index=ipr.link_lookup(ifname="lo")[0], state="up")
    cgroups.hand_down()
    engine = _engine(scratch)
    child = subprocess.Popen(command, start_new_session=True)
    _pass_on(child.pid)
    code = _collect(child.pid)
    engine.terminate()
    _await_end(engine.pid)
    return code if code >= 0 else 128 - code


def _collect(pid: int) -> int:
    """Be process 1: collect whatever ends, until the command does; its exit code."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _await_end(pid: int) -> None:
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if ended == pid:
            return
        if not ended:
            time.sleep(0.1)


def _view(group: str, bundle: Path, scratch: Path) -> None:
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    staging = scratch / "staging"
    staging.mkdir(parents=True, exist_ok=True)
    mount_kernel_views(group, staging)
    layers = scratch / "layers"
    layers.mkdir(exist_ok=True)
    opened = os.open(scratch, os.O_PATH)
    for top in _OVERLAID:
        upper, work = layers / f"{top[1:]}", layers / f"{top[1:]}-work"
        upper.mkdir(exist_ok=True)
        work.mkdir(exist_ok=True)
    with tarfile.open(bundle / "files/docker.tar") as engine:
        engine.extractall(layers, filter="tar")
    # what lies below a directory that is overlaid already is reached through the open one
    below = f"/proc/self/fd/{opened}/layers"
    for top in _OVERLAID:
        data = f"lowerdir={top},upperdir={below}{top},workdir={below}{top}-work"
        linux.mount("kind-host", top, "overlay", data=data)
    scratch.mkdir(parents=True, exist_ok=True)
    linux.bind(f"/proc/self/fd/{opened}", scratch)
    os.close(opened)
    (Path("/lib/modules")).mkdir(exist_ok=True)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_SHARED)


def _engine(scratch: Path) -> subprocess.Popen[bytes]:
    """Start dockerd, and wait until it answers."""
    runtime = scratch / "runtime"
    program = Path(shutil.which("runc") or "/usr/bin/runc")
    runtime.write_text(
        f'#!/bin/sh\nexec {sys.executable} -I {Path(__file__).with_name("runtime.py")} {program} "$@"\n'
    )
    runtime.chmod(0o755)
    settings = scratch / "daemon.json"
    settings.write_text(
        json.dumps(
            {
                "data-root": str(scratch / "data"),
                "exec-opts": ["native.cgroupdriver=cgroupfs"],
                "storage-driver": "overlay2",
                "runtimes": {"without": {"path": str(runtime)}},
                "default-runtime": "without",
                "bip": "172.30.0.1/24",
            }
        )
    )
    with (scratch / "dockerd.log").open("wb") as log:
        engine = subprocess.Popen(
            ["dockerd", "--config-file", settings],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=linux.die_with_parent,
        )
    deadline = time.monotonic() + _ENGINE_S
    while time.monotonic() < deadline:
        if engine.poll() is not None:
            break
        if not subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
            return engine
        time.sleep(0.2)
    print((scratch / "dockerd.log").read_text()[-3000:], file=sys.stderr)
    raise SystemExit("the docker engine does not start")


if __name__ == "__main__":
    sys.exit(main())
