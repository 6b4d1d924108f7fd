"""What must be so before a cluster is started; each thing that isn't is one sentence and its mend."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness.cluster import cgroups, linux, nat
from harness.cluster.protocol import ClusterOptions
from harness.errors import EnvironmentProblem, UsageError
from harness.ownership import is_run_id
from harness.patience import patience

_TOOLS = {"nsenter": "util-linux", "mount": "mount", "tar": "tar"}
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
_DISK_BYTES = 4 << 30
_MEMORY_KIB = 1200 * 1024
#: A node had 17 when idle; containers that follow files have theirs.
INOTIFY_INSTANCES = 24
_RUN_TIMEOUT_S = 60
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\Z")


def check(options: ClusterOptions) -> str:
    """Check host and options; returns the version that the k3s binary says it has.  Raises HarnessError."""
    if not is_run_id(options.run_id):
        raise UsageError(f"{options.run_id!r} is no run id", "take one from harness.ownership.new_run_id()")
    if not _NAME.match(options.name):
        raise UsageError(
            f"{options.name!r} is no name for a node", "use lower-case letters, digits and dashes"
        )
    if (options.registry_program is None) != (options.storage is None):
        raise UsageError("registry_program and storage belong together; only one of them was given")
    check_host(options.state_dir, outgoing=options.outgoing)
    if (options.state_dir / "cluster.json").exists():
        raise EnvironmentProblem(
            f"there is a cluster in {options.state_dir} already",
            f"stop it (runner-conformance down {options.name}), reuse it, or take another name",
        )
    return k3s_version(options.k3s)


def check_host(state_dir: Path, *, outgoing: bool) -> None:
    """What any cluster needs of this host.  Raises EnvironmentProblem for the first thing that it lacks."""
    for problem in host_problems(state_dir, outgoing=outgoing):
        raise problem


def host_problems(state_dir: Path, *, outgoing: bool) -> list[EnvironmentProblem]:
    """Everything that this host lacks for a cluster, each with its mend.

    ``outgoing``: its node must reach what is beyond this host.
    """
    found = []
    if os.geteuid() != 0:
        found.append(
            EnvironmentProblem("making a cluster needs root", "run it with sudo, or use --cluster existing")
        )
    elif not linux.has_capability(linux.CAP_SYS_ADMIN):
        found.append(
            EnvironmentProblem(
                "this process is root, but may not make namespaces (CAP_SYS_ADMIN is missing)",
                "in a container: run it with --privileged",
            )
        )
    if missing := [it for it in _NAMESPACES if not Path(f"/proc/self/ns/{it}").exists()]:
        kinds = ", ".join(missing)
        found.append(
            EnvironmentProblem(f"this kernel has no namespaces of type {kinds}", "use another kernel")
        )
    if missing := sorted({package for tool, package in _TOOLS.items() if not shutil.which(tool)}):
        found.append(
            EnvironmentProblem(
                f"programs are missing: {', '.join(missing)}", f"apt-get install {' '.join(missing)}"
            )
        )
    if not _has_filesystem("overlay"):
        found.append(EnvironmentProblem("this kernel has no overlayfs", "modprobe overlay"))
    if (problem := cgroups.lack()) is not None:
        found.append(problem)
    if (instances := linux.free_inotify_instances(INOTIFY_INSTANCES)) < INOTIFY_INSTANCES:
        found.append(
            EnvironmentProblem(
                f"{instances} more inotify instances can be had; a cluster needs {INOTIFY_INSTANCES}",
                "sysctl fs.inotify.max_user_instances=1024, or stop other clusters",
            )
        )
    if outgoing and (problem := nat.lack()) is not None:
        found.append(problem)
    return found + _space_problems(state_dir)


def _space_problems(state_dir: Path) -> list[EnvironmentProblem]:
    found = []
    existing = state_dir
    while not existing.exists():
        existing = existing.parent
    if (free := shutil.disk_usage(existing).free) < _DISK_BYTES:
        found.append(
            EnvironmentProblem(
                f"{existing} has {free / 1e9:.1f} GB left; a cluster needs {_DISK_BYTES / 1e9:.1f} GB",
                "free some, or set RUNNER_CONFORMANCE_HOME to a directory on a larger disk",
            )
        )
    memory = re.search(r"^MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if memory and int(memory[1]) < _MEMORY_KIB:
        found.append(
            EnvironmentProblem(
                f"{int(memory[1]) // 1024} MiB of memory are available; "
                f"a cluster needs {_MEMORY_KIB // 1024} MiB",
                "stop other programs or clusters (runner-conformance status)",
            )
        )
    return found


def _has_filesystem(kind: str) -> bool:
    known = Path("/proc/filesystems").read_text().split()
    if kind not in known and shutil.which("modprobe"):
        subprocess.run(["modprobe", kind], capture_output=True, check=False)
        known = Path("/proc/filesystems").read_text().split()
    return kind in known


def k3s_version(program: Path) -> str:
    """The version that ``k3s --version`` prints (``v1.28.5+k3s1``); EnvironmentProblem if it is no k3s.

    It prints the name that it was called by: "k3s version …" only where the file is called k3s.
    """
    if not program.is_file():
        raise EnvironmentProblem(f"there is no k3s at {program}", "check --artifacts")
    output = _run([str(program), "--version"])
    found = re.match(r".+ version (v\d+\.\d+\S*) \(\w*\)", output)
    if not found:
        first = output.strip().partition("\n")[0][:120]
        raise EnvironmentProblem(
            f"{program} is no k3s: its --version prints {first!r}", "give the executable of a k3s release"
        )
    return found[1]


def server_flags(program: Path, scratch: Path) -> frozenset[str]:
    """The flags of ``k3s server``, with their dashes, from its help.

    To print that, k3s unpacks itself: into ``scratch``, so that nothing of it comes to the host's own places.
    """
    with tempfile.TemporaryDirectory(prefix="k3s-help-", dir=scratch) as data:
        text = _run([str(program), "server", f"--data-dir={data}", "--help"])
    return frozenset(re.findall(r"(?<![\w-])--[a-z0-9][a-z0-9-]*", text))


def _run(argv: list[str]) -> str:
    limit_s = _RUN_TIMEOUT_S * patience()
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except OSError as error:
        raise EnvironmentProblem(
            f"{argv[0]} can't be run: {error.strerror}",
            "it must be an executable for this machine's architecture",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise EnvironmentProblem(
            f"{' '.join(argv)} has not ended after {limit_s:.0f} s: this is no k3s"
        ) from error
    return done.stdout + done.stderr
