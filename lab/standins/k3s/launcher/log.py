"""Log lines in the form in which k3s writes them (logrus)."""

from __future__ import annotations

import sys
import time
from typing import NoReturn

_STARTED = time.monotonic()


def _write(level: str, message: str) -> None:
    if sys.stderr.isatty():
        line = f"{level.upper()[:4]}[{int(time.monotonic() - _STARTED):04d}] {message}"
    else:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        quoted = message.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        line = f'time="{stamp}" level={level} msg="{quoted}"'
    print(line, file=sys.stderr, flush=True)


def info(message: str) -> None:
    """Log at level info."""
    _write("info", message)


def warning(message: str) -> None:
    """Log at level warning."""
    _write("warning", message)


class Fatal(Exception):
    """Ends the program; the message is the last line of the log."""


def fatal(message: str) -> NoReturn:
    """Log at level fatal and leave with exit code 1, as logrus does."""
    _write("fatal", message)
    sys.exit(1)
