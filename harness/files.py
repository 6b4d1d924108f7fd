"""Reading what others wrote and writing what only we may read: with limits, in one step, 0600 in 0700.

Whatever a user names may be a directory, a FIFO that never ends, 2 GB of zeros, binary, or nested without
end. Each is one sentence here, so that nobody who parses a file has to think of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from harness.errors import HarnessError, UsageError

MAX_BYTES = 4_000_000
"""Far more than any profile, kubeconfig or listing has."""
MAX_DEPTH = 40
_MAX_NODES = 200_000
"""Of a parsed document: YAML's aliases make a kilobyte into a billion values."""

Complaint = Callable[[str], HarnessError]
"""Makes the error that says who is wrong: the sentence is "<path> <what is wrong with it>"."""


def read_text(path: Path, complain: Complaint = UsageError, *, max_bytes: int = MAX_BYTES) -> str:
    """The text of a regular file of limited size.

    Raises FileNotFoundError as it is, and what ``complain`` makes for everything else.
    """
    try:
        # a FIFO without a writer would hold open() for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise complain(f"{_shown(path)} can't be read: {_why(error)}") from None
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise complain(f"{_shown(path)} is {'a directory' if stat.S_ISDIR(kind) else 'no regular file'}")
    with os.fdopen(descriptor, "rb") as file:
        try:
            data = file.read(max_bytes + 1)
        except OSError as error:
            raise complain(f"{_shown(path)} can't be read: {_why(error)}") from None
    if len(data) > max_bytes:
        raise complain(f"{_shown(path)} is larger than {max_bytes / 1e6:g} MB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise complain(f"{_shown(path)} is no text (UTF-8): byte {error.start} is not") from None


def parse_toml(text: str, path: Path, complain: Complaint = UsageError) -> dict[str, Any]:
    """TOML of limited depth."""
    return _parsed(tomllib.loads, text, path, "TOML", complain)  # type: ignore[no-any-return]


def parse_json(text: str, path: Path, complain: Complaint = UsageError) -> Any:
    """JSON of limited depth."""
    return _parsed(json.loads, text, path, "JSON", complain)


def parse_yaml(text: str, path: Path, complain: Complaint = UsageError) -> Any:
    """One YAML document of limited depth and of limited size once its aliases are followed."""
    return _parsed(yaml.safe_load, text, path, "YAML", complain)


def _parsed(parse: Callable[[str], Any], text: str, path: Path, form: str, complain: Complaint) -> Any:
    try:
        found = parse(text)
    except RecursionError:
        raise complain(f"{_shown(path)} is nested too deeply") from None
    except (ValueError, yaml.YAMLError, OverflowError) as error:  # ValueError: also a number of 5000 digits
        raise complain(f"{_shown(path)} is no {form}: {_why(error)}") from None
    except (TypeError, AttributeError, LookupError) as error:  # YAML: an unhashable key, a bad timestamp
        raise complain(f"{_shown(path)} is no {form}: {_why(error)}") from None
    if (reason := _too_much(found)) is not None:
        raise complain(f"{_shown(path)} {reason}")
    return found


def _too_much(document: Any) -> str | None:
    """What a document has too much of, if so; counts what an alias stands for as often as it is used."""
    level, nodes = [document], 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
            if len(below) > _MAX_NODES:
                return "holds too many values"
        nodes += len(below)
        if nodes > _MAX_NODES:
            return "holds too many values"
        if not below:
            return None
        level = below
    return "is nested too deeply"


def write_whole(path: Path, text: str, *, mode: int | None = None) -> None:
    """Replace ``path`` by a file with ``text``, at once: a reader sees the one before or the one after.

    ``mode`` are its permissions from the first byte on; a directory that is made for it is its owner's alone.
    """
    if mode is not None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666 if mode is None else mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def is_locked(path: Path) -> bool:
    """Whether somebody holds a file; a look with a shared lock, which is let go at once."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def clipped(text: str, limit: int = 400) -> str:
    """A sentence that repeats what somebody wrote, as one line that can be read."""
    shown = text if all(char.isprintable() or char == "\n" for char in text) else ascii(text)[1:-1]
    return shown if len(shown) <= limit else f"{shown[: limit // 2]} … {shown[-limit // 2 :]}"


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


def _shown(path: Path) -> str:
    """A path as one readable line, whatever is in it."""
    text = str(path).encode(errors="backslashreplace").decode()
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 200 else f"{text[:120]}…{text[-60:]}"
