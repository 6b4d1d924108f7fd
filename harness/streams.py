"""stdout and stderr with nobody at their other end: a closed terminal, a reader that went, a full disk."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

from harness.redact import redact


class SafeFile:
    """A text file for a terminal or a pipe: cuts secrets, and goes quiet where nobody listens any more.

    A closed terminal (EIO), a reader that went (EPIPE) or a full disk must not end the teardown.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        try:
            return self._file.write(redact(text))
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError:
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def write_all(descriptor: int, data: bytes) -> None:
    """Write to a descriptor, or say nothing where nobody listens any more."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        return


def let_go_of_dead_streams() -> None:
    """Point stdout and stderr to /dev/null where what they still hold can't be written.

    Python writes that out when it ends, and where it can't, it ends with an exit code of its own (120), not
    with ours.
    """
    dead = [file for file in (sys.stdout, sys.stderr) if not _takes_all(file)]
    if not dead:
        return
    null = os.open(os.devnull, os.O_WRONLY)
    for file in dead:
        with suppress(OSError, ValueError):
            os.dup2(null, file.fileno())
            file.flush()
    os.close(null)
    atexit.unregister(let_go_of_dead_streams)
    atexit.register(let_go_of_dead_streams)  # pytest puts the dead descriptor back when its capturing ends


def _takes_all(file: TextIO | None) -> bool:
    try:
        if file is not None:
            file.flush()
    except OSError:
        return False
    except ValueError:
        return True  # closed: nothing is left in it
    return True
