"""Job logs: one file a job, grown by the runner's patches, never held in memory."""

from __future__ import annotations

from pathlib import Path
from typing import IO

_COPY_BYTES = 64 * 1024


class Traces:
    """Job logs below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def file(self, job_id: int) -> Path:
        """Where the log of a job is; it may not exist yet."""
        return self._directory / f"{job_id}.log"

    def size(self, job_id: int) -> int:
        """Bytes written so far."""
        file = self.file(job_id)
        return file.stat().st_size if file.exists() else 0

    def append(self, job_id: int, offset: int, data: IO[bytes], hide: str) -> int:
        """Append ``data`` if the log ends at ``offset``; the size afterwards, whether appended or not.

        ``hide`` (the job's token) is blotted out without changing the length, as GitLab does.
        """
        size = self.size(job_id)
        if size != offset:
            return size
        secret = hide.encode()
        with self.file(job_id).open("ab") as log:
            while chunk := data.read(_COPY_BYTES):
                if secret in chunk:
                    chunk = chunk.replace(secret, b"[MASKED]".ljust(len(secret), b"x"))
                log.write(chunk)
            return log.tell()

    def remove(self, job_id: int) -> None:
        """Erase a log."""
        self.file(job_id).unlink(missing_ok=True)
