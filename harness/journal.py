"""What a run makes, written down before it is made and struck out when it is seen to be gone.

One file a run, ``<state home>/journal/<run id>.jsonl``, locked by the run's main process for as long as it
lives. It outlives the run's state directory until nothing in it is left. ``down`` and ``reap`` go by it
alone: what no journal of this state home knows is not ours.

A run is *living* while its lock is held (or, where locks mean nothing, its process is the one that is written
there: id and start), *kept* when it was finished with --keep, else *stale*.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from harness.errors import EnvironmentProblem, UsageError
from harness.files import clipped, is_locked, read_text
from harness.ownership import is_run_id, state_home

FORMAT = 1
CLUSTER_PLACE, GITLAB_PLACE = "cluster", "GitLab"
DIRECTORY, CGROUP, LINK, RULES, PROCESS = "directory", "cgroup", "link", "firewall rules", "process"
KIND_CLUSTER = "kind cluster"
_SUFFIX = ".jsonl"
_MAX_BYTES = 64_000_000
_READERS_S = 0.5
"""Who only looks at a journal holds it for a moment."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Life(StrEnum):
    """What a run is to those who look at its journal."""

    LIVING = "living"
    KEPT = "kept"
    STALE = "stale"


@dataclass(frozen=True)
class Entry:
    """One thing: its kind, its name there, and where it is (empty: on this host).

    ``where`` names a place of the journal: see ``Journal.place``.
    """

    kind: str
    name: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" in {self.where}" if self.where else "")


@dataclass(frozen=True)
class Account:
    """A journal as anybody may read it."""

    path: Path
    run_id: str
    name: str
    created: str
    boot_id: str
    pid: int
    start_ticks: int | None
    state_dir: Path
    beside: str = ""
    kept: bool = False
    places: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    open: tuple[Entry, ...] = ()

    @property
    def this_boot(self) -> bool:
        """Whether processes, links and cgroups of this run can still be there."""
        return self.boot_id == boot_id()

    @property
    def life(self) -> Life:
        """Living, kept or stale, as of now."""
        if is_locked(self.path):
            return Life.LIVING
        if self.kept:
            return Life.KEPT
        return Life.LIVING if self.process_lives else Life.STALE

    @property
    def process_lives(self) -> bool:
        """Whether the run's main process, and no other under its id, lives; not asked of ourselves."""
        if not self.this_boot or self.start_ticks is None or self.pid == os.getpid():
            return False
        return _start_ticks(self.pid) == self.start_ticks

    def __str__(self) -> str:
        return f"run {self.run_id} ({self.name}, since {self.created}, process {self.pid})"


class Journal:
    """The journal of a run, held by the process that writes it.

    >>> journal = Journal.begin("rc-0a1b2c3d", "demo", state_dir)
    >>> journal.will_make("link", "rc0a1b2c3dn1")
    >>> journal.gone(Entry("link", "rc0a1b2c3dn1"))
    >>> journal.close()      # nothing is left in it: the file goes too
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self._file: IO[bytes] | None = file
        self._lock = threading.Lock()

    @classmethod
    def begin(cls, run_id: str, name: str, state_dir: Path, *, beside: str = "") -> Journal:
        """Begin one and lock it; ``beside`` is the run with which this one is taken down.

        Raises EnvironmentProblem where the state home can't be written.
        """
        path = directory() / f"{run_id}{_SUFFIX}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = _opened(path, os.O_CREAT | os.O_EXCL)
        except OSError as error:
            raise EnvironmentProblem(
                f"the run's journal can't be begun: {error.strerror}: {path}",
                "make room there, or name another directory with RUNNER_CONFORMANCE_HOME",
            ) from None
        journal = cls(path, file)
        fcntl.flock(file, fcntl.LOCK_EX)  # at most a reader has it for a moment
        pid = os.getpid()
        journal._write(
            {
                "format": FORMAT,
                "run_id": run_id,
                "name": name,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "boot_id": boot_id(),
                "pid": pid,
                "start_ticks": _start_ticks(pid),
                "state_dir": str(state_dir),
                "beside": beside,
            }
        )
        return journal

    @classmethod
    def take(cls, account: Account) -> Journal:
        """Go on with the journal of a run that is over. Raises UsageError while somebody else holds it."""
        try:
            file = _opened(account.path, 0)
        except FileNotFoundError:
            raise UsageError(f"{account} is gone already") from None
        deadline = time.monotonic() + _READERS_S
        while not account.process_lives and time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return cls(account.path, file)
            except BlockingIOError:
                time.sleep(0.02)
        file.close()
        raise UsageError(f"{account} is in use", f"wait for it, or end that process: kill {account.pid}")

    def will_make(self, kind: str, name: str, where: str = "") -> None:
        """Before something is made."""
        with self._lock:
            self._write({"make": kind, "name": name, "where": where})

    def gone(self, entry: Entry) -> None:
        """When something was seen to be gone."""
        with self._lock:
            self._write({"gone": entry.kind, "name": entry.name, "where": entry.where})

    def place(self, name: str, **how: str) -> str:
        """Write down how a cluster or a GitLab is reached (paths and addresses, never a secret); its name."""
        with self._lock:
            self._write({"place": name, **{key: value for key, value in how.items() if value}})
        return name

    def keep(self) -> None:
        """The run is finished, and its stack is to stay."""
        with self._lock:
            self._write({"keep": True})

    def discard(self) -> None:
        """From now on it is nobody's: what is left may be reaped."""
        with self._lock:
            self._write({"keep": False})

    @property
    def open(self) -> tuple[Entry, ...]:
        """What was written down and has not been seen to be gone."""
        return load(self.path).open  # the keeper writes into it too

    def close(self) -> None:
        """Let go of it; with nothing left in it the file goes too. May be called more than once."""
        with self._lock:
            if self._file is None:
                return
            with suppress(EnvironmentProblem):
                if not load(self.path).open:
                    self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            return  # whoever comes after the end of the run makes nothing any more
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise EnvironmentProblem(
                f"the run's journal can't be written: {error.strerror}: {self.path}",
                "make room there; what is not written down is not made",
            ) from None


def note(run_id: str, kind: str, name: str, where: str = "") -> None:
    """Write into the journal of a run from another of its processes; a run without a journal has none.

    Raises OSError: what can't be written down is not made.
    """
    path = directory() / f"{run_id}{_SUFFIX}"
    if path.exists():
        with _opened(path, 0) as file:
            file.write(json.dumps({"make": kind, "name": name, "where": where}).encode() + b"\n")


def directory() -> Path:
    """Where the journals of this state home are."""
    return state_home() / "journal"


def boot_id() -> str:
    """The kernel's id of this boot."""
    return _BOOT_ID.read_text().strip()


def accounts() -> tuple[list[Account], list[str]]:
    """All journals of this state home, and a sentence for each file there that is none."""
    found, unreadable = [], []
    for path in sorted(directory().glob(f"*{_SUFFIX}")):
        try:
            found.append(load(path))
        except EnvironmentProblem as error:
            if path.exists():  # not just struck out by its own run
                unreadable.append(error.message)
    return found, unreadable


def by_name(name: str) -> list[Account]:
    """The journals of runs with this stack name."""
    return [it for it in accounts()[0] if it.name == name]


def load(path: Path) -> Account:
    """Read a journal. A last line that a kill cut short doesn't count. Raises EnvironmentProblem."""

    def complain(sentence: str) -> EnvironmentProblem:
        return EnvironmentProblem(sentence, "`runner-conformance reap --unknown` removes it")

    try:
        text = read_text(path, complain, max_bytes=_MAX_BYTES)
    except FileNotFoundError:
        raise complain(f"{path} is gone") from None
    lines = list(_lines(text))
    head = lines[0] if lines else {}
    try:
        if head["format"] != FORMAT or not is_run_id(head["run_id"]) or path.stem != head["run_id"]:
            raise ValueError("another version's, or somebody's copy")
        account = Account(
            path,
            head["run_id"],
            str(head["name"]),
            str(head["created"]),
            str(head["boot_id"]),
            int(head["pid"]),
            head["start_ticks"],
            Path(head["state_dir"]),
            str(head.get("beside", "")),
            **_replayed(lines[1:]),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise complain(f"{path} is no journal of a run: {clipped(str(error))}") from None
    return account


def _start_ticks(pid: int) -> int | None:
    from harness.cluster.linux import start_ticks  # its package has parts that write journals

    return start_ticks(pid)


def _lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            found = json.loads(line)
            if isinstance(found, dict):
                yield found


def _replayed(lines: list[dict[str, Any]]) -> dict[str, Any]:
    entries: dict[Entry, None] = {}
    places: dict[str, dict[str, str]] = {}
    kept = False
    for line in lines:
        if "make" in line:
            entries[Entry(str(line["make"]), str(line["name"]), str(line.get("where", "")))] = None
        elif "gone" in line:
            entries.pop(Entry(str(line["gone"]), str(line["name"]), str(line.get("where", ""))), None)
        elif "place" in line:
            places[str(line["place"])] = {key: str(value) for key, value in line.items() if key != "place"}
        elif "keep" in line:
            kept = bool(line["keep"])
    return {"kept": kept, "places": places, "open": tuple(entries)}


def _opened(path: Path, flags: int) -> IO[bytes]:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
    return os.fdopen(descriptor, "ab", buffering=0)
