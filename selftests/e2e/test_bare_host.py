"""A host that has little: no program that makes firewall rules, none of their modules, a dying engine."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cluster import K3sCluster
from harness.errors import EnvironmentProblem
from selftests.e2e.nodes import options

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making a node needs root")

ROOT = Path(__file__).parents[2]
HIDDEN = ("/usr/lib/x86_64-linux-gnu/xtables", "/usr/lib/xtables", "/lib/xtables")
WITHOUT = ("nft", "iptables", "ip6tables", "xtables", "arptables", "ebtables")

# In a mount namespace of its own, where iptables' modules are hidden. Starts a node with a docker engine.
START = f"""
import subprocess, sys
from dataclasses import replace
from pathlib import Path
from harness.cluster import K3sCluster
from harness.errors import EnvironmentProblem
from selftests.e2e.nodes import options

for directory in map(Path, {HIDDEN!r}):
    if directory.exists():
        subprocess.run(["mount", "-t", "tmpfs", "none", directory], check=True)
wish = options(Path(sys.argv[1]), Path(sys.argv[2]), "bare", docker=True)
try:
    K3sCluster(replace(wish, outgoing=True)).start()
except EnvironmentProblem as error:
    print("with a way out:", error.message)
cluster = K3sCluster(wish)
cluster.start()
try:
    print("the engine:", cluster.node_shell(["sh", "-c", sys.argv[3]]).stdout.strip())
finally:
    cluster.stop()
"""


@pytest.fixture
def few_programs(tmp_path: Path) -> Path:
    """A directory for PATH: links to all programs of this host but those that make firewall rules."""
    directory = tmp_path / "programs"
    directory.mkdir()
    for entry in (*os.environ["PATH"].split(os.pathsep), "/usr/sbin", "/sbin"):
        for program in Path(entry).glob("*"):
            link = directory / program.name
            if not program.name.startswith(WITHOUT) and not link.is_symlink():
                link.symlink_to(program)
    return directory


def test_a_node_of_a_bundle_needs_no_firewall_program(
    bundle_dir: Path, tmp_path: Path, few_programs: Path
) -> None:
    script = ["unshare", "--mount", sys.executable, "-c", START, str(bundle_dir), str(tmp_path / "state")]
    done = subprocess.run(
        [*script, "ls /run/docker.sock"],
        cwd=ROOT,
        env={**os.environ, "PATH": str(few_programs)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "with a way out: this host has neither nft nor iptables" in done.stdout
    assert "the engine: /run/docker.sock" in done.stdout


def test_an_engine_that_ends_is_told_at_once_and_with_its_last_words(
    bundle_dir: Path, tmp_path: Path
) -> None:
    program = tmp_path / "dockerd"
    program.write_text("#!/bin/sh\necho this kernel has no bridges >&2\nexit 3\n")
    program.chmod(0o755)
    engine = tmp_path / "docker.tar"
    with tarfile.open(engine, "w") as archive:
        archive.add(program, "usr/sbin/dockerd")
    wish = replace(options(bundle_dir, tmp_path / "state", "no-engine"), docker_engine=engine)
    began = time.monotonic()
    with pytest.raises(EnvironmentProblem, match="ended with status 3: this kernel has no bridges"):
        K3sCluster(wish).start()
    assert time.monotonic() - began < 40, "it waited for the time limit"
