"""What the embedded GitLab is told at its start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """Fixed for the life of the process. Times are in seconds."""

    external_url: str
    state_dir: Path
    registry_host: str | None = None
    """``CI_REGISTRY``; None: the container registry is off, as in a GitLab without one."""
    registry_ca: Path | None = None
    long_poll_s: float = 50.0
    """How long an idle job request is held (Workhorse: apiCiLongPollingDuration)."""
    trace_limit_mib: int = 100
    """GitLab's plan limit ci_jobs_trace_size_limit."""
    body_limit_bytes: int = 10 * MEBIBYTE
    bodies_limit_bytes: int = 64 * MEBIBYTE
    """Of all requests that are being read, together."""
    push_limit_bytes: int = 512 * MEBIBYTE
    stuck_running_s: float = 3600.0
    """A running job whose runner was not heard of for this long fails: stuck_or_timeout_failure."""
    stuck_pending_s: float = 86400.0
    timeout_grace_s: float = 900.0
    """How long after its timeout GitLab ends a job that the runner did not: job_execution_timeout."""
    online_s: float = 7200.0
    """A runner is online when it was heard of within two hours, as GitLab counts it."""
    stale_s: float = 7 * 86400.0
    client_timeout_s: float = 60.0
    """How long a client may stop within a request's head or body, or while it is sent an answer."""

    @property
    def host(self) -> str:
        """Host name or address of ``external_url``."""
        return urlsplit(self.external_url).hostname or ""

    @property
    def port(self) -> int:
        """Port of ``external_url``."""
        parts = urlsplit(self.external_url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return urlsplit(self.external_url).scheme
