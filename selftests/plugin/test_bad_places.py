"""Hosts that lack something: a sentence, an exit code, and nothing half-made; or no difference at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.ownership import HOME_VARIABLE
from selftests.plugin.test_plugin import GOOD

ROOT = Path(__file__).parents[2]
CLOCK = """
import pytest, time
JUMP = {jump}
real = time.time

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    time.time = lambda: real() + JUMP
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces needs root")


@pytest.mark.parametrize("jump", [86_400, -86_400, 4e9])
def test_a_clock_that_jumps_changes_nothing(project, jump):
    project.test(GOOD)
    (project.pytester.path / "clock.py").write_text(CLOCK.format(jump=jump))
    result = project.run("-p", "clock")
    assert result.ret == 0
    run = project.document()["run"]
    assert 0 < run["duration_s"] < 60
    assert all(0 <= it["duration_s"] < 60 for it in project.document()["outcomes"])


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_a_run_needs_no_more_than_256_open_files(project, workers):
    project.test(GOOD)
    command = ["prlimit", "--nofile=256:256", sys.executable, "-m", "pytest", *workers, "tests"]
    done = subprocess.run(command, cwd=project.pytester.path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_root
def test_without_dev_shm_a_run_is_as_with_it(project):
    project.test(GOOD)
    script = f"""
        mount -t tmpfs none /dev
        mknod -m 666 /dev/null c 1 3
        mknod -m 666 /dev/urandom c 1 9
        test ! -e /dev/shm && exec {sys.executable} -m pytest -n 2 tests
    """
    command = ["unshare", "--mount", "sh", "-ec", script]
    done = subprocess.run(
        command, cwd=project.pytester.path, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr


def up(home: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """`up` as a user types it, in a place that lacks something; what it would be made from is not there."""
    return subprocess.run(
        [*before, sys.executable, "-m", "harness.cli", "up", "--artifacts", str(home)],
        cwd=ROOT,
        env={**os.environ, HOME_VARIABLE: str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_too_few_open_files_are_told_before_anything_is_made(tmp_path):
    done = up(tmp_path, "prlimit", "--nofile=60")
    assert done.returncode == 10, done.stderr
    assert "this process may have 60 files open at once; a run needs 256" in done.stderr
    assert "What to do: ulimit -n 1024" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@needs_root
def test_exhausted_inotify_instances_are_told_before_anything_is_made(tmp_path):
    """Exhausted in a user namespace, which has a limit of its own: the host's other programs have theirs."""
    few = 'echo 3 > /proc/sys/user/max_inotify_instances; exec "$@"'
    done = up(tmp_path, "unshare", "--user", "--map-root-user", "sh", "-ec", few, "sh")
    assert done.returncode == 10, done.stderr
    assert "3 more inotify instances can be had; a cluster needs 24" in done.stderr
    assert "sysctl fs.inotify.max_user_instances" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
