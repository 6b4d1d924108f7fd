"""Time and stream before each line of a job's log, as releases from 18.7 on send it.

`2026-01-31T12:00:00.123456Z 01O text`: the stream's number in hexadecimal, `O` or `E`, then a blank, or `+`
for a continued line. What ends without a line feed (a section's mark) ends its line, and what comes next on
that stream continues it (gitlab-runner, common/buildlogger/internal/timestamper).
"""

from collections.abc import Callable
from datetime import UTC, datetime

EXECUTOR, WORK = 0, 1  # the runner's own words; what the job's scripts print


def _now() -> datetime:
    return datetime.now(UTC)


class Stamps:
    """Stamps of one log; remembers which streams are within a line."""

    def __init__(self, now: Callable[[], datetime] = _now) -> None:
        self._now = now
        self._continues: set[int] = set()

    def stamped(self, data: bytes, stream: int) -> bytes:
        """The lines of `data`, each with its head."""
        return b"".join(self._line(line, stream) for line in _lines(data))

    def _line(self, line: bytes, stream: int) -> bytes:
        flag = "+" if stream in self._continues else " "
        head = f"{self._now():%Y-%m-%dT%H:%M:%S.%f}Z {stream:02x}O{flag}".encode()
        if line.endswith(b"\n"):
            self._continues.discard(stream)
            return head + line
        self._continues.add(stream)
        return head + line + b"\n"


def _lines(data: bytes) -> list[bytes]:
    """Split at line feeds alone: a carriage return is part of its line."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
