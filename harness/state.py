"""The state file of a stack: what other processes (xdist workers, ``status``, ``down``) attach by."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from harness.errors import EnvironmentProblem, UsageError
from harness.files import clipped, is_locked, parse_json, read_text, write_whole
from harness.options import OPTIONS, ProvisionOptions
from harness.ownership import is_run_id, is_stack_name, stack_dir, state_home

FORMAT = 2
FILE = "stack.json"
_UNREADABLE = "take it down with the version that made it; `runner-conformance reap --unknown` removes it"
_TYPES = {
    "name": str,
    "run_id": str,
    "pid": int,
    "created": str,
    "artifacts": str,
    "kubeconfig": str,
    "layers": dict,
}


@dataclass
class StackState:
    """A stack on disk. ``layers`` maps a layer to whether it got ready; no secret is ever in here."""

    name: str
    run_id: str
    pid: int
    created: str
    options: ProvisionOptions
    artifacts: str
    kubeconfig: str = ""
    context: str | None = None
    layers: dict[str, bool] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    """Image → what replaces it, of several that might."""

    def save(self, directory: Path) -> None:
        """Write atomically: a reader sees the file before or after, never half of it."""
        data = {"format": FORMAT, **dataclasses.asdict(self)}
        write_whole(directory / FILE, json.dumps(data, indent=2, default=str) + "\n", mode=0o600)

    @classmethod
    def load(cls, directory: Path) -> StackState:
        """Raises UsageError when there is no stack, EnvironmentProblem when its file can't be read."""
        path = directory / FILE

        def complain(sentence: str) -> EnvironmentProblem:
            return EnvironmentProblem(sentence, _UNREADABLE)

        try:
            data = parse_json(read_text(path, complain), path, complain)
        except FileNotFoundError:
            known = ", ".join(names()) or "none"
            raise UsageError(
                f"there is no stack {directory.name!r}", f"stacks here: {known}; make one with `up --keep`"
            ) from None
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise complain(f"{path} was written by another version, or by nobody")
        try:
            return cls(**{**data, "options": _options(data["options"])})._checked()
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            why = clipped(f"{type(error).__name__}: {error}")
            raise complain(f"{path} is no state of a stack: {why}") from None

    def _checked(self) -> StackState:
        """Raises TypeError for a field of the wrong type."""
        for name, kind in _TYPES.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is no {kind.__name__}")
        if not is_run_id(self.run_id) or not is_stack_name(self.name):
            raise ValueError("its name or run id is none")
        return self


def _options(data: Mapping[str, Any]) -> ProvisionOptions:
    values = dict(data)
    for option in OPTIONS:
        if option.type == "path" and values.get(option.name):
            values[option.name] = Path(values[option.name])
    values["unreachable_registries"] = tuple(values["unreachable_registries"])
    return ProvisionOptions(**values)


def cluster_dir(directory: Path) -> Path:
    """Where a stack's cluster has its files."""
    return directory / "cluster"


def names() -> list[str]:
    """Names of the stacks on this host."""
    return sorted(path.parent.name for path in (state_home() / "stacks").glob(f"*/{FILE}"))


def directory_of(name_or_dir: str | Path) -> Path:
    """A stack's directory by its name, or by its path."""
    return Path(name_or_dir) if "/" in str(name_or_dir) else stack_dir(str(name_or_dir))


def is_held(directory: Path) -> bool:
    """Whether a process holds the lock of a stack's directory."""
    return is_locked(directory / "lock")


class StackLock:
    """Held by the process that owns a stack; the kernel lets go of it when that process dies."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Raises UsageError when another process holds it."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = self._path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            self._file = None
            raise UsageError(
                f"stack {self._path.parent.name!r} is in use by process {holder} since {self._since()}",
                f"wait for it, choose another --name, or end it: kill {holder}",
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def _since(self) -> str:
        moment = datetime.fromtimestamp(self._path.stat().st_mtime, UTC)
        return moment.isoformat(timespec="seconds")

    def release(self) -> None:
        """Let go; may be called more than once."""
        if self._file is not None:
            self._file.close()
            self._file = None
