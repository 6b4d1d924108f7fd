"""One kill: a run is started, a signal is sent to one of its processes, and what is left is looked at.

Every case has a state home and a TMPDIR of its own, so that neighbours do not matter and are not touched.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.cluster import find_leftovers
from harness.ownership import HOME_VARIABLE
from selftests.kills.plan import EXISTING, UP, WORKERS, Case

ROOT = Path(__file__).parents[2]
PHASE_TIMEOUT_S = 300.0
END_TIMEOUT_S = 180.0
_RUN_ID = re.compile(r"\brc-[0-9a-f]{8}\b")

# What the output has when a phase has begun.
_MARKS: Mapping[str, str] = {
    "begin": "",
    "cluster starting": "cluster          starting",
    "cluster ready": "cluster          ready",
    "gitlab installing": "gitlab           installing",
    "running": "Running; Ctrl-C removes it",
    "creates": "runner-conformance: verifies",
    "cluster: ready": "cluster: ready after",
    "outcome": "passed",
    "runner set-up": "registry: ready after",
    "pipeline": "runner-dind: ready after",
}


@dataclass(frozen=True)
class Subject:
    """What cases need besides their own directory: a bundle, and where somebody's cluster and GitLab are."""

    bundle: Path
    existing: tuple[str, ...] = ()


@dataclass
class Result:
    """What became of a case. ``wrong`` is empty when all was as promised."""

    case: Case
    exit_code: int | None = None
    seconds: float = 0.0
    before_reap: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    reached: bool = True


def _heed_signals() -> None:
    """In the child: a shell starts its jobs in the background with SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


class Running:
    """The run of a case, its output as it comes, and its processes."""

    def __init__(self, command: Iterable[str], directory: Path, environment: Mapping[str, str]) -> None:
        self.output = ""
        self.process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            start_new_session=True,
            preexec_fn=_heed_signals,
        )
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.output += line
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, mark: str) -> bool:
        """Whether the output has it before the run's end."""
        with self._changed:
            self._changed.wait_for(
                lambda: mark in self.output or not self._reader.is_alive(), timeout=PHASE_TIMEOUT_S
            )
            return mark in self.output

    def descendants(self, text: str) -> list[int]:
        """Ids of the run's processes whose command has ``text``."""
        children: dict[int, list[int]] = {}
        commands: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
        found, queue = [], [self.process.pid]
        while queue:
            below = children.get(queue.pop(), [])
            found += [pid for pid in below if text in commands[pid]]
            queue += below
        return found


_TARGET_COMMANDS = {
    "keeper": "harness.cluster.keeper import main",
    "gitlab": "embedded_gitlab",
    "worker": "exec(eval(sys.stdin.readline()))",
}


def run_case(case: Case, subject: Subject, directory: Path) -> Result:
    """Carry a case out below ``directory``, which must not exist."""
    temporary, home = directory / "tmp", directory / "home"
    temporary.mkdir(parents=True)
    environment = {
        **os.environ,
        HOME_VARIABLE: str(home),
        "TMPDIR": str(temporary),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
    }
    result, began = Result(case), time.monotonic()
    running = Running(_command(case, subject, directory), directory, environment)
    ids: set[str] = set()
    try:
        result.reached = _reach(case, running)
        time.sleep(case.delay_s)  # a point within the phase, not a wait for something
        ids |= _ids(home, running)
        _strike(case, running)
        result.exit_code = _end(case, running)
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
    ids |= _ids(home, running)
    result.before_reap = _left(home, temporary, ids)
    _judge(case, result, running, directory, environment, ids)
    result.seconds = time.monotonic() - began
    (directory / "output.txt").write_text(running.output)
    return result


def _command(case: Case, subject: Subject, directory: Path) -> list[str]:
    if case.subject == UP:
        words = ["-m", "harness.cli", "up", "--only", "gitlab", "--name", "killed"]
        return [sys.executable, *words, "--artifacts", str(subject.bundle)]
    words = ["-m", "pytest", "-p", "no:cacheprovider", f"--report-dir={directory / 'report'}"]
    words.append(f"--artifacts={subject.bundle}")
    if case.subject == EXISTING:
        return [sys.executable, *words, *subject.existing, "tests/s06_pipeline", "-k", "dind"]
    workers = ["-n", "2"] if case.subject == WORKERS else []
    return [sys.executable, *words, *workers, "tests/s01_cluster"]


def _reach(case: Case, running: Running) -> bool:
    if case.phase != "removing":
        return running.wait_for(_MARKS[case.phase])
    if not running.wait_for(_MARKS["running" if case.subject == UP else "outcome"]):
        return False
    running.process.send_signal(signal.SIGINT)  # from here on it removes
    return True


def _strike(case: Case, running: Running) -> None:
    pids = [running.process.pid]
    if case.target != "main":
        pids = running.descendants(_TARGET_COMMANDS[case.target])[:1]
    for name in case.signal.split():
        for pid in pids:
            try:
                os.kill(pid, getattr(signal, f"SIG{name}"))
            except ProcessLookupError:
                continue
        time.sleep(0.1)  # two key presses of a person


def _end(case: Case, running: Running) -> int | None:
    """The run's exit code; where another process was struck, `up` is ended as a person ends it."""
    if case.subject == UP and case.target != "main":
        try:
            return running.process.wait(5)
        except subprocess.TimeoutExpired:
            running.process.send_signal(signal.SIGINT)
    try:
        return running.process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None


def _ids(home: Path, running: Running) -> set[str]:
    journals = {it.stem for it in (home / "journal").glob("*.jsonl")}
    return journals | set(_RUN_ID.findall(running.output))


def _left(home: Path, temporary: Path, ids: set[str]) -> list[str]:
    """What there is of the run: on the host by its ids, in its state home, in TMPDIR."""
    found = [str(it) for run_id in ids for it in find_leftovers(run_id, running=True)]
    for top in (home / "stacks", home / "journal"):
        found += [str(it.relative_to(home)) for it in top.glob("*")]
    for file in temporary.rglob("*"):
        if file.is_file() and b"PRIVATE KEY" in file.read_bytes():
            found.append(f"a private key in TMPDIR: {file.name}")
    return found


def _judge(
    case: Case,
    result: Result,
    running: Running,
    directory: Path,
    environment: Mapping[str, str],
    ids: set[str],
) -> None:
    home, temporary = directory / "home", directory / "tmp"
    wrong = result.wrong
    if result.exit_code is None:
        wrong.append(f"it did not end within {END_TIMEOUT_S:.0f} s")
    begun = case.phase != "begin"  # before that it is Python that is interrupted, at its imports
    if begun and "Traceback (most recent call last)" in running.output:
        wrong.append("a traceback")
    killed = case.signal == "KILL" and case.target == "main"
    if not killed:
        if result.before_reap:
            wrong.append(f"left without reap: {result.before_reap}")
        if case.target == "main":
            _judge_reports(case, result, running, directory)
    for turn in ("first", "second"):
        done = _reap(environment)
        if done.returncode:
            wrong.append(f"{turn} reap: exit {done.returncode}: {done.stderr.strip()[-300:]}")
    if after := _left(home, temporary, ids):
        wrong.append(f"left after reap: {after}")


def _judge_reports(case: Case, result: Result, running: Running, directory: Path) -> None:
    """After a signal there is a verdict, and no false one."""
    complete = "CONFORMS (rehearsal): " in running.output and "not run" not in running.output
    if case.phase == "outcome" and complete and result.exit_code == 0:
        return  # the signal came when the last test had ended
    if case.phase != "begin" and result.exit_code != 130:
        result.wrong.append(f"exit code {result.exit_code}")
    if case.subject == UP or case.phase in ("begin", "creates"):
        return  # no run had begun
    report = directory / "report/conformance.json"
    if not report.exists():
        result.wrong.append("no report")
        return
    document = json.loads(report.read_text())
    if not document["run"]["interrupted"]:
        result.wrong.append("the report does not say that it was interrupted")
    if document["verdict"]["word"] == "DOES NOT CONFORM":
        result.wrong.append(f"false verdict: {document['verdict']['reason']}")


def _reap(environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli", "reap"]
    return subprocess.run(
        command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, timeout=300, check=False
    )
