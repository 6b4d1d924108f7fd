"""The cgroup v2 code on a real cgroup v2 tree, as on a host that has nothing else.

The tree is mounted in a mount namespace made for it, with a controller that no v1 hierarchy of this machine
holds: which one it is does not matter to the kernel's rules.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a cgroup tree needs root")

REPOSITORY = Path(__file__).parents[2]
IN_ITS_OWN_TREE = ["unshare", "--mount", "--propagation=private"]
TREE = """
import json, os, subprocess, sys, tempfile
from pathlib import Path
from harness.cluster import cgroups, linux, node

ROOT = Path("/sys/fs/cgroup")
linux.unmount(ROOT)
linux.mount("cgroup2", ROOT, "cgroup2")
cgroups.NEEDED = frozenset({sys.argv[1]})

def enabled():
    return (ROOT / "cgroup.subtree_control").read_text().split()

def groups():
    return sorted(it.name for it in ROOT.iterdir() if it.is_dir())

def processes():
    return (ROOT / "cgroup.procs").read_text().split()

class Node:
    \"\"\"The keeper's child and the node's first process, with nothing but their cgroups.\"\"\"

    def __init__(self, name):
        self.name = name
        cgroups.create(name)
        answer, tell = os.pipe()
        wait, self.end = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            os.close(self.end)
            node.enter_namespaces(name)
            if os.fork() == 0:
                os.write(tell, json.dumps(self.first()).encode())
                os.close(tell)
                os.read(wait, 1)
                os._exit(0)
            os.close(tell)
            os.wait()
            os._exit(0)
        os.close(tell), os.close(wait)
        self.seen = json.loads(os.fdopen(answer).read() or "{}")

    def first(self):
        linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        staging = Path(tempfile.mkdtemp())
        cgroups.mount_own(self.name, staging)
        linux.unmount(ROOT)
        linux.mount(str(staging), ROOT, flags=linux.MS_MOVE)
        try:
            cgroups.hand_down()
            (ROOT / "kubepods").mkdir()
            (ROOT / "kubepods/cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            return {"error": str(error)}
        return {"pods have": (ROOT / "kubepods/cgroup.controllers").read_text().split()}

    def stop(self):
        os.close(self.end)
        os.waitpid(self.child, 0)
        assert cgroups.remove(self.name) == []
"""


def _play(script: str, *arguments: str, before: list[str] | None = None) -> Any:
    """What a script that follows TREE prints, as JSON; in a mount namespace of its own."""
    argv = [*(before or []), *IN_ITS_OWN_TREE, sys.executable, "-c", TREE + script, *arguments]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def controller() -> str:
    """A controller that the v2 tree of this machine has."""
    found: list[str] = _play('print(json.dumps((ROOT / "cgroup.controllers").read_text().split()))', "")
    if not found:
        pytest.skip("all controllers of this machine are in v1 hierarchies")
    return found[0]


@pytest.fixture
def container(controller: str, tmp_path: Path) -> Iterator[list[str]]:
    """A command prefix: runs a program as in a container, whose root group is a group among the host's."""
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "cgroup2", tree], check=True)
    control = tree / "cgroup.subtree_control"
    had = controller in control.read_text().split()
    group = tree / f"container-{os.getpid()}"
    try:
        control.write_text(f"+{controller}")
        group.mkdir()
        enter = f'echo $$ > {group}/cgroup.procs; exec unshare --cgroup "$@"'
        yield ["sh", "-c", enter, "container"]
    finally:
        (group / "cgroup.kill").write_text("1")
        assert _empty(group), f"processes of the test live on in {group}"
        for left in (*sorted(group.rglob("*/"), reverse=True), group):
            left.rmdir()
        if not had:
            control.write_text(f"-{controller}")
        subprocess.run(["umount", tree], check=True)


def _empty(group: Path) -> bool:
    """Wait until no process is left in a group or below it."""
    deadline = time.monotonic() + 10
    while "populated 1" in (group / "cgroup.events").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    return "populated 0" in (group / "cgroup.events").read_text()


ONE_NODE = """
before = enabled(), groups()
one = Node("rc-0a1b2c3d-n")
during = enabled(), groups()
one.stop()
print(json.dumps({"before": before, "seen": one.seen, "during": during, "after": (enabled(), groups())}))
"""


def test_pods_get_controllers_and_the_host_is_then_as_before(controller: str) -> None:
    found = _play(ONE_NODE, controller)
    assert found["seen"] == {"pods have": [controller]}
    assert controller in found["during"][0]
    assert "rc-0a1b2c3d-n" in found["during"][1]
    assert found["after"] == found["before"]


def test_a_container_with_a_cgroup_namespace_of_its_own_is_emptied_and_filled_again(
    controller: str, container: list[str]
) -> None:
    script = """
other = subprocess.Popen(["sleep", "60"])
count = len(processes())
assert count >= 2 and enabled() == []
one = Node("rc-0a1b2c3d-n")
during = [len(processes()), groups(), enabled()]
one.stop()
after = [len(processes()) == count, groups(), enabled(), other.poll()]
other.kill(), other.wait()
print(json.dumps({"seen": one.seen, "during": during, "after": after}))
"""
    found = _play(script, controller, before=container)
    assert found["seen"] == {"pods have": [controller]}
    assert found["during"] == [0, ["rc-0a1b2c3d-n", "runner-conformance"], [controller]]
    assert found["after"] == [True, [], [], None]


def test_the_last_node_closes_what_the_first_opened(controller: str, container: list[str]) -> None:
    script = """
found = []
first = Node("rc-0a1b2c3d-a")
cgroups.create("rc-4e5f6071-b")  # has not come to use it yet
first.stop()
found.append(enabled())
cgroups.remove("rc-4e5f6071-b")
found.append(enabled())
print(json.dumps(found))
"""
    assert _play(script, controller, before=container) == [[controller], []]


def test_what_was_enabled_before_stays(controller: str, container: list[str]) -> None:
    script = """
(ROOT / "leaf").mkdir()
for pid in processes():
    (ROOT / "leaf/cgroup.procs").write_text(pid)
(ROOT / "cgroup.subtree_control").write_text("+" + sys.argv[1])
one = Node("rc-0a1b2c3d-n")
one.stop()
print(json.dumps([one.seen, enabled(), groups()]))
"""
    found = _play(script, controller, before=container)
    assert found == [{"pods have": [controller]}, [controller], ["leaf"]]


def test_a_controller_that_is_not_there_is_named() -> None:
    script = """
from harness.errors import EnvironmentProblem
try:
    cgroups.create("rc-0a1b2c3d-n")
except EnvironmentProblem as error:
    print(json.dumps([error.message, cgroups.remove("rc-0a1b2c3d-n")]))
"""
    message, left = _play(script, "imagined")
    assert message == "cgroup controllers imagined are not available in /sys/fs/cgroup"
    assert left == []
