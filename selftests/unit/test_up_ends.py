"""`up` that is ended by signals, where somebody listens and where nobody does any more: it removes all."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

UP = """
import os, pathlib, sys, time
from types import SimpleNamespace
from harness import cli, interrupts, provision
from harness.graph import Step

interrupts._AGAIN_AFTER_S = 0.0
HERE = pathlib.Path(sys.argv.pop())

class Slow(provision.Provisioner):
    def plan(self, layers):
        return SimpleNamespace(lines=lambda: ["a plan"])

    def up(self, layers):
        if "raise" in os.environ:
            raise eval(os.environ["raise"])
        self.graph.run({"slow": Step("slow", self.make)})
        return SimpleNamespace(cluster=SimpleNamespace(kubeconfig="none"))

    def make(self):
        (HERE / "begun").touch()
        self._cancelled.wait(30)
        time.sleep(1.5)
        (HERE / "made").touch()

    def down(self):
        made = (HERE / "made").exists()
        time.sleep(1.5)
        (HERE / "down").write_text("after what was being made" if made else "before it")
        return []

provision.Provisioner = Slow
cli.main()
"""


def begin(here: Path, output: int) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-c", UP, "up", str(here)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=Path(__file__).parents[2],
        env=environment,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (here / "begun").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (here / "begun").exists()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_one_after_the_other_cut_nothing_short(tmp_path: Path, number: signal.Signals) -> None:
    output = (tmp_path / "output").open("w+b")
    process = begin(tmp_path, output.fileno())
    while process.poll() is None:
        process.send_signal(number)
        time.sleep(0.4)
    output.seek(0)
    text = output.read().decode()
    assert process.returncode == 130, text
    assert (tmp_path / "down").read_text() == "after what was being made"
    assert "Traceback" not in text
    assert "Nothing is left." in text


@pytest.mark.parametrize("listener", ["terminal", "pipe"])
def test_where_nobody_listens_any_more_it_removes_all(tmp_path: Path, listener: str) -> None:
    ours, theirs = pty.openpty() if listener == "terminal" else os.pipe()
    process = begin(tmp_path, theirs)
    os.close(theirs)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 130
    assert (tmp_path / "down").read_text() == "after what was being made"


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (
            "OSError(28, 'No space left on device', '/x')",
            10,
            "could not go on: No space left on device: /x\n",
        ),
        ("OSError(24, 'Too many open files')", 10, "What to do: let this process open more files: ulimit -n"),
        ("ValueError('ours')", 12, "Traceback (most recent call last)"),
    ],
)
def test_an_error_that_nobody_foresaw_is_the_host_s_or_ours_and_never_the_product_s(
    tmp_path: Path, raised: str, code: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UP, "up", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "raise": raised},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert said in done.stderr
    assert ("Traceback" in done.stderr) is (code == 12)
    assert (tmp_path / "down").exists()
