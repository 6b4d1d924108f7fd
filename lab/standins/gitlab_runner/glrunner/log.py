"""The runner's own log on stderr, in gitlab-runner's default format ("runner")."""

import sys
import threading
from collections.abc import Mapping

RESET = "\x1b[0;m"
COLORS = {"WARNING": "\x1b[0;33m", "ERROR": "\x1b[31;1m", "FATAL": "\x1b[31;1m", "PANIC": "\x1b[31;1m"}
_MESSAGE_WIDTH = 50
_lock = threading.Lock()


def log(level: str, message: str, fields: Mapping[str, object] | None = None) -> None:
    """Write one record; `level` is INFO, WARNING, ERROR, FATAL or PANIC (which end nothing here)."""
    color = COLORS.get(level, "")
    text = f"{level}: {message}" if color else message
    tail = "".join(f" {color}{key}{RESET}={value}" for key, value in sorted((fields or {}).items()))
    with _lock:
        sys.stderr.write(f"{color}{text:<{_MESSAGE_WIDTH}}{RESET} {tail}\n")
        sys.stderr.flush()


def info(message: str, fields: Mapping[str, object] | None = None) -> None:
    """Shorthand for the commonest level."""
    log("INFO", message, fields)


def warning(message: str, fields: Mapping[str, object] | None = None) -> None:
    """Shorthand."""
    log("WARNING", message, fields)


def error(message: str, fields: Mapping[str, object] | None = None) -> None:
    """Shorthand."""
    log("ERROR", message, fields)
