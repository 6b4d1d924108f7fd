"""The state file of a stack: what other processes (xdist workers, ``status``, ``down``) attach by."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from harness.errors import EnvironmentProblem, UsageError
from harness.files import write_whole
from harness.options import ProvisionOptions
from harness.ownership import stack_dir, state_home

FORMAT = 2
FILE = "stack.json"


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
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            known = ", ".join(names()) or "none"
            raise UsageError(
                f"there is no stack {directory.name!r}", f"stacks here: {known}; make one with `up --keep`"
            ) from None
        except (OSError, ValueError) as error:
            raise EnvironmentProblem(
                f"{path} can't be read: {error}", "`runner-conformance reap` removes it"
            ) from None
        if data.pop("format", None) != FORMAT:
            raise EnvironmentProblem(
                f"{path} was written by another version", "take it down with that version"
            )
        data["options"] = _options(data["options"])
        return cls(**data)

    @property
    def alive(self) -> bool:
        """Whether the process that made it still runs."""
        return Path(f"/proc/{self.pid}").exists()


def _options(data: Mapping[str, Any]) -> ProvisionOptions:
    paths = ("kubeconfig", "gitlab_token_file", "gitlab_ca_file", "registry_auth")
    values = dict(data)
    for name in paths:
        values[name] = Path(values[name]) if values.get(name) else None
    values["unreachable_registries"] = tuple(values["unreachable_registries"])
    return ProvisionOptions(**values)


def cluster_dir(directory: Path) -> Path:
    """Where a stack's cluster has its files."""
    return directory / "cluster"


def scratch_dir(directory: Path) -> Path:
    """Where the API client puts keys that it needs as files; goes with the stack, also after kill -9."""
    scratch = directory / "scratch"
    scratch.mkdir(mode=0o700, exist_ok=True)
    return scratch


def names() -> list[str]:
    """Names of the stacks on this host."""
    return sorted(path.parent.name for path in (state_home() / "stacks").glob(f"*/{FILE}"))


def directory_of(name_or_dir: str | Path) -> Path:
    """A stack's directory by its name, or by its path."""
    return Path(name_or_dir) if "/" in str(name_or_dir) else stack_dir(str(name_or_dir))


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
                f"stack {self._path.parent.name!r} is in use by process {holder}",
                "wait for it, choose another --name, or end that process",
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Let go; may be called more than once."""
        if self._file is not None:
            self._file.close()
            self._file = None
