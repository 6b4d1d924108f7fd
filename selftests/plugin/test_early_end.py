"""A run that ends early, or that can't write: one way to the end, with teardown, verdict and reports."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selftests.plugin.test_plugin import GOOD

WAITS = '''
    import pathlib, time

    @outcome("cluster/node")
    def test_node(cluster):
        """One node.

        How-to, "k3s": one node Ready.
        """
        pathlib.Path("begun.txt").write_text("yes")
        time.sleep(60)
'''


def begin(project, *args: str, **popen: object) -> subprocess.Popen[bytes]:
    """Start pytest on the project, and return once its test is at work."""
    command = [sys.executable, "-m", "pytest", *args, "tests"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "cwd": project.pytester.path, **popen}
    process = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    begun = Path(project.pytester.path / "begun.txt")
    deadline = time.monotonic() + 60
    while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert begun.exists()
    return process


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_a_signal_takes_down_judges_and_reports(project, name):
    project.test(WAITS)
    process = begin(project)
    process.send_signal(getattr(signal, name))
    out = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, out
    assert (project.pytester.path / "closed.txt").read_text() == "True"
    assert f"first reason: interrupted by {name}" in out
    assert project.document()["run"]["interrupted"] is True
    assert project.document()["verdict"]["word"] == "INCONCLUSIVE"
    assert (project.pytester.path / "report" / "junit.xml").exists()


@pytest.mark.parametrize(("name", "when"), [("SIGTERM", "choosing"), ("SIGHUP", "collecting")])
def test_a_signal_before_anything_was_begun_ends_with_the_same_code(project, name, when):
    project.plan(**({"opening_seconds": 30} if when == "choosing" else {}))
    slow = "    import pathlib, time\n    pathlib.Path('begun.txt').touch(); time.sleep(30)\n"
    project.test(f"{slow if when == 'collecting' else ''}{GOOD}")
    process = begin(project)
    process.send_signal(getattr(signal, name))
    out = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, out
    assert "Traceback" not in out
    assert project.made_steps() == []


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
@pytest.mark.parametrize("when", ["first", "last"])
def test_a_signal_while_pytest_starts_ends_with_the_same_code(project, when, workers):
    """Of other plugins, too: pytest calls no finish hook for a session that has not begun."""
    project.test(GOOD)
    (project.pytester.path / "early.py").write_text(
        "import os, pytest, signal\n"
        f"@pytest.hookimpl(try{when}=True, wrapper={when == 'last'})\n"
        "def pytest_sessionstart(session):\n"
        f"    {'yield' if when == 'last' else 'pass'}\n"
        "    if not hasattr(session.config, 'workerinput'):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    result = project.run("-p", "early", *workers)
    text = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in text
    assert result.ret == 130, text
    assert "INCONCLUSIVE: interrupted by SIGTERM" in text
    assert project.made_steps() == []


def test_signals_during_teardown_cut_nothing_short(project):
    project.plan(close_seconds=1.5)
    project.test(WAITS)
    process = begin(project)
    for _ in range(4):
        process.send_signal(signal.SIGINT)
        time.sleep(0.15)
    process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, out
    assert (project.pytester.path / "closed.txt").read_text() == "True"
    assert "removing what the run made" in out
    assert project.document()["verdict"]["word"] == "INCONCLUSIVE"


@pytest.mark.parametrize("signals", [1, 2])
def test_a_second_signal_leaves_out_what_leaving_nothing_does_not_need(project, signals):
    project.plan(fails="olm", evidence_seconds=8)
    project.test(WAITS)
    project.test(GOOD.replace("cluster/", "later/"), "test_later.py")
    process = begin(project)
    evidence = project.pytester.path / "report" / "evidence" / "step-olm"
    while not evidence.exists():
        time.sleep(0.02)
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    out = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, out
    assert (project.pytester.path / "closed.txt").read_text() == "True"
    assert (evidence / "why.txt").exists() is (signals == 1)
    assert ("leaving out all else" in out) is (signals == 2)
    assert project.document()["verdict"]["word"] == "INCONCLUSIVE"


@pytest.mark.parametrize("listener", ["terminal", "pipe"])
def test_where_nobody_listens_any_more_it_takes_down_and_reports(project, listener):
    """The exit code is the run's, not that of Python's last flush of what could not be written (120, 1)."""
    project.test(WAITS)
    ours, theirs = pty.openpty() if listener == "terminal" else os.pipe()
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = begin(project, stdout=theirs, stderr=theirs, start_new_session=True, env=buffered)
    os.close(theirs)
    os.close(ours)  # from now on each write fails with EIO or EPIPE; the kernel's SIGHUP is sent by hand:
    process.send_signal(signal.SIGHUP)  # the pty is nobody's controlling terminal here
    assert process.wait(timeout=60) == 130
    assert (project.pytester.path / "closed.txt").read_text() == "True"
    assert project.document()["run"]["interrupted"] is True


def test_a_green_run_stays_green_where_nobody_listens_any_more(project):
    project.test(WAITS.replace("time.sleep(60)", "time.sleep(2)"))
    ours, theirs = os.pipe()
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = begin(project, stdout=theirs, stderr=theirs, env=buffered)
    os.close(theirs)
    os.close(ours)
    assert process.wait(timeout=60) == 0


def test_nohup_is_kept(project):
    project.test(WAITS.replace("time.sleep(60)", "time.sleep(2)"))
    process = begin(project, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_pytest_exit_takes_down_and_reports(project):
    project.test(WAITS.replace("time.sleep(60)", 'pytest.exit("enough", returncode=7)'))
    result = project.run()
    assert result.ret == 130
    assert (project.pytester.path / "closed.txt").read_text() == "True"
    assert project.document()["run"]["interrupted"] is True
    result.stdout.fnmatch_lines(["first reason: ended early: enough"])


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_report_directory_that_is_none_is_refused_before_anything(project, kind):
    (project.pytester.path / "taken").write_text("")
    project.test(GOOD)
    result = project.run(f"--report-dir={'taken' if kind == 'file' else 'taken/below'}")
    assert result.ret == 4
    assert "no report can be written into taken" in result.stderr.str() + result.stdout.str()
    assert "Traceback" not in result.stderr.str() + result.stdout.str()
    assert project.made_steps() == []


def test_reports_that_cannot_be_written_at_the_end_are_told_and_never_green(project):
    project.test(
        GOOD.replace(
            'assert olm.made == "olm"', "import shutil; shutil.rmtree('report'); open('report', 'w')"
        )
    )
    result = project.run()
    assert result.ret == 10
    result.stdout.fnmatch_lines(["*a report can't be written into report: *", "CONFORMS: 3 passed"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert (project.pytester.path / "closed.txt").read_text() == "False"


def test_a_disk_that_is_full_is_a_sentence_and_no_traceback(project):
    project.test(GOOD)
    (project.pytester.path / "full.py").write_text(
        "import errno, pytest\n"
        "def pytest_runtest_logfinish(nodeid):\n"
        "    raise OSError(errno.ENOSPC, 'No space left on device', '/somewhere')\n"
    )
    result = project.run("-p", "full")
    assert result.ret == 10
    text = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in text
    result.stdout.fnmatch_lines(["first reason: provision/pytest: *No space left on device: /somewhere"])
    assert (project.pytester.path / "closed.txt").exists()


def test_an_error_within_pytest_takes_down_and_reports(project):
    project.test(GOOD)
    (project.pytester.path / "broken.py").write_text(
        "def pytest_runtest_logfinish(nodeid):\n    raise RuntimeError('broken plugin')\n"
    )
    result = project.run("-p", "broken")
    assert result.ret == 12
    assert (project.pytester.path / "closed.txt").read_text() == "True"
    assert project.document()["verdict"]["word"] == "INCONCLUSIVE"


def test_a_signal_after_the_last_test_changes_nothing(project):
    """pytest itself is between its loop and its end then, where it takes no KeyboardInterrupt."""
    project.test(GOOD)
    (project.pytester.path / "late.py").write_text(
        "import os, pytest, signal\n"
        "class Late:\n"
        "    @pytest.hookimpl(tryfirst=True)\n"
        "    def pytest_sessionfinish(self, session):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "def pytest_sessionstart(session):\n"
        "    session.config.pluginmanager.register(Late())\n"
    )
    result = project.run("-p", "late")
    text = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in text
    assert result.ret == 0, text
    assert "SIGTERM: removing what the run made" in text
    assert (project.pytester.path / "closed.txt").exists()
