"""One kill: a run is started, a signal is sent to one of its processes, and what is left is looked at.

Every case has a TMPDIR of its own; the state home is that of the neighbours, who are to be spared.
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
from selftests.kills.neighbours import Neighbours
from selftests.kills.plan import EXISTING, REMOVES_AFTER, UP, WORKERS, Case

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
    """What cases need besides their own directory: a bundle, a state home, and who is beside, if anybody."""

    bundle: Path
    home: Path
    beside: Neighbours | None = None

    def made(self) -> frozenset[str]:
        """What there is in the state home, and in the neighbours' cluster and GitLab."""
        found = {
            str(it.relative_to(self.home))
            for top in ("stacks", "journal")
            for it in self.home.glob(f"{top}/*")
        }
        return frozenset(found) | (self.beside.inventory() if self.beside else frozenset())


@dataclass
class Result:
    """What became of a case. ``wrong`` is empty when all was as promised."""

    case: Case
    exit_code: int | None = None
    seconds: float = 0.0
    before_reap: list[str] = field(default_factory=list)
    after_reap: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    reached: bool = True

    def to_dict(self) -> dict[str, object]:
        """As a line of a file of results."""
        return {
            **vars(self.case),
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 1),
            "left_at_once": self.before_reap,
            "left_after_reap": self.after_reap,
            "wrong": self.wrong,
            "reached": self.reached,
        }


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


_EXISTING = ("tests/s01_cluster", "tests/s06_pipeline", "-k", "cluster/node-ready or pipeline/dind/")
_TARGET_COMMANDS = {
    "keeper": "harness.cluster.keeper import main",
    "gitlab": "embedded_gitlab",
    "worker": "exec(eval(sys.stdin.readline()))",
}


def run_case(case: Case, subject: Subject, directory: Path) -> Result:
    """Carry a case out below ``directory``, which must not exist."""
    temporary = directory / "tmp"
    temporary.mkdir(parents=True)
    environment = {
        **os.environ,
        HOME_VARIABLE: str(subject.home),
        "TMPDIR": str(temporary),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
    }
    result, began, before = Result(case), time.monotonic(), subject.made()
    running = Running(_command(case, subject, directory), directory, environment)
    ids: set[str] = set()
    try:
        result.reached = _reach(case, running)
        time.sleep(case.delay_s)  # a point within the phase, not a wait for something
        ids |= _ids(running)
        _strike(case, running)
        result.exit_code = _end(case, running)
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
    ids |= _ids(running)
    ids -= {Path(it).stem for it in before}  # what it says of others

    def left() -> list[str]:
        return _left(subject, before, temporary, ids)

    result.before_reap = left()
    _judge(case, result, running, directory)
    for turn in ("first", "second") if result.before_reap else ("only",):
        done = _reap(environment)
        if done.returncode:
            result.wrong.append(f"{turn} reap: exit {done.returncode}: {done.stderr.strip()[-300:]}")
    result.after_reap = left()
    if result.after_reap:
        result.wrong.append(f"left after reap: {result.after_reap}")
    if lost := sorted(before - subject.made()):
        result.wrong.append(f"the neighbours lost {lost}")
    result.seconds = time.monotonic() - began
    (directory / "output.txt").write_text(running.output)
    return result


def _command(case: Case, subject: Subject, directory: Path) -> list[str]:
    if case.subject == UP:
        words = ["-m", "harness.cli", "up", "--only", "gitlab", "--name", f"killed-{case.number}"]
        return [sys.executable, *words, "--artifacts", str(subject.bundle)]
    words = ["-m", "pytest", "-p", "no:cacheprovider", f"--report-dir={directory / 'report'}"]
    words.append(f"--artifacts={subject.bundle}")
    if case.subject == EXISTING:
        assert subject.beside is not None  # they bring the cluster and the GitLab
        return [sys.executable, *words, *subject.beside.options, *_EXISTING]
    workers = ["-n", "2"] if case.subject == WORKERS else []
    return [sys.executable, *words, *workers, "tests/s01_cluster"]


def _reach(case: Case, running: Running) -> bool:
    if case.phase != "removing":
        return running.wait_for(_MARKS[case.phase])
    if not running.wait_for(_MARKS[REMOVES_AFTER[case.subject]]):
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


def _ids(running: Running) -> set[str]:
    return set(_RUN_ID.findall(running.output))


def _left(subject: Subject, before: frozenset[str], temporary: Path, ids: set[str]) -> list[str]:
    """What there is of the run: on the host by its ids, in the state home, in the cluster, GitLab, TMPDIR."""
    new = sorted(subject.made() - before)
    ids |= {Path(it).stem for it in new if it.startswith("journal/")}
    found = new + [str(it) for run_id in ids for it in find_leftovers(run_id, running=True)]
    for file in temporary.rglob("*"):
        if file.is_file() and b"PRIVATE KEY" in file.read_bytes():
            found.append(f"a private key in TMPDIR: {file.name}")
    return found


def _judge(case: Case, result: Result, running: Running, directory: Path) -> None:
    """What was promised of the run itself."""
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
