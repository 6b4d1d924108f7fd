"""The embedded GitLab as a process: started, found again by another process, stopped."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness.cluster.linux import start_ticks
from harness.environment import for_child
from harness.errors import EnvironmentProblem, SuiteDefect
from harness.files import write_whole
from harness.patience import patience
from harness.redact import Secret, redact, register

_START_S = 30.0
_STOP_S = 8.0
_LOG_TAIL_CHARS = 4000
LONG_POLL_S = 29.0
"""Just under the operator's check_interval of 30 s, so that one request is nearly always open."""


class EmbeddedGitLab:
    """One embedded GitLab, with its state below ``state_dir``.

    >>> gitlab = EmbeddedGitLab("10.99.1.1", Path("/var/lib/…/gitlab"), registry_host="10.99.1.2")
    >>> gitlab.start().url
    'http://10.99.1.1:34567'
    """

    def __init__(
        self,
        host_ip: str,
        state_dir: Path,
        registry_host: str | None = None,
        *,
        registry_ca: Path | None = None,
        port: int = 0,
        keep: bool = False,
        long_poll_s: float = LONG_POLL_S,
        extra: tuple[str, ...] = (),
    ) -> None:
        """``keep``: go on after this process has ended. ``registry_ca`` may appear after the start."""
        self._host_ip, self.state_dir, self._registry_host = host_ip, state_dir, registry_host
        self._registry_ca, self._port, self._keep = registry_ca, port, keep
        self._long_poll_s, self._extra = long_poll_s, extra
        self._child: subprocess.Popen[str] | None = None
        self._lifeline: int | None = None
        self.url = ""
        self.pid = 0

    @property
    def token(self) -> Secret:
        """The administrator's token."""
        return register(json.loads((self.state_dir / "administrator.json").read_text())["token"])

    @property
    def token_certificate(self) -> Path:
        """The certificate that the registry must trust for tokens of /jwt/auth."""
        return self.state_dir / "registry-token.crt"

    def start(self) -> EmbeddedGitLab:
        """Start, and return once it listens. Raises EnvironmentProblem with the log's end when it doesn't."""
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [sys.executable, "-m", "embedded_gitlab", "--listen", f"{self._host_ip}:{self._port}"]
        command += ["--state", str(self.state_dir), "--long-poll", str(self._long_poll_s), *self._extra]
        if self._registry_host:
            command += ["--registry", self._registry_host]
        if self._registry_ca:
            command += ["--registry-ca", str(self._registry_ca)]
        if not self._keep:
            command.append("--until-stdin-closes")
        # A raw descriptor, not a file object: it stays open until stop() or the end of this process, even
        # if nobody holds this instance. Its closing is what ends a child that isn't to be kept.
        lifeline, self._lifeline = os.pipe()
        with (self.state_dir / "gitlab.log").open("ab") as log:
            self._child = subprocess.Popen(
                command,
                stdin=lifeline,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env=for_child({"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}),
            )
        os.close(lifeline)
        self.pid = self._child.pid
        self.url = self._announced(self._child)
        record = {"pid": self.pid, "started": _start_time(self.pid), "url": self.url}
        write_whole(self.state_dir / "process.json", json.dumps(record), mode=0o600)
        return self

    def _announced(self, child: subprocess.Popen[str]) -> str:
        assert child.stdout is not None
        ready, _, _ = select.select([child.stdout], [], [], _START_S * patience())
        line = child.stdout.readline().strip() if ready else ""
        if line.startswith("listening on "):
            return line.removeprefix("listening on ")
        code = child.poll()
        self.stop()
        raise EnvironmentProblem(
            f"the embedded GitLab did not start on {self._host_ip} (exit code {code})",
            "see the log below: the address must belong to this host, and git must be installed",
            evidence=self.log_tail(),
        )

    @classmethod
    def attach(cls, state_dir: Path) -> EmbeddedGitLab:
        """The running one of ``state_dir``. Raises EnvironmentProblem when it isn't running any more."""
        try:
            record: dict[str, Any] = json.loads((state_dir / "process.json").read_text())
        except (OSError, ValueError) as error:
            raise EnvironmentProblem(
                f"no embedded GitLab was started in {state_dir}", "start the stack first", evidence=str(error)
            ) from None
        found = cls("", state_dir)
        found.url, found.pid = record["url"], record["pid"]
        if _start_time(found.pid) != record["started"]:
            raise EnvironmentProblem(
                f"the embedded GitLab of {state_dir} has ended",
                "start the stack again",
                evidence=found.log_tail(),
            )
        return found

    @classmethod
    def runs_at(cls, state_dir: Path) -> bool:
        """Whether the one of ``state_dir`` runs, whoever started it."""
        try:
            record = json.loads((state_dir / "process.json").read_text())
            return _start_time(int(record["pid"])) == str(record["started"])
        except (OSError, ValueError, LookupError, TypeError):
            return False

    @classmethod
    def stop_at(cls, state_dir: Path) -> None:
        """Stop the one of ``state_dir``, whoever started it; nothing happens when it has ended already."""
        found = cls("", state_dir)
        try:
            found.pid = int(json.loads((state_dir / "process.json").read_text())["pid"])
        except (OSError, ValueError, LookupError, TypeError):
            return
        found.stop()

    def healthy(self) -> bool:
        """Whether it answers."""
        import httpx  # not with the module: most commands never ask

        try:
            # Unauthenticated: 401 from the API shows that the application answers.
            return httpx.get(f"{self.url}/api/v4/version", timeout=5, trust_env=False).status_code == 401
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """End it; the state directory stays. Safe to call again."""
        if not self.pid:
            return
        deadline = time.monotonic() + _STOP_S
        if self._signal(signal.SIGTERM):
            while self._running() and time.monotonic() < deadline:
                time.sleep(0.02)  # the child of another process can't be waited for
            if self._running():
                self._signal(signal.SIGKILL)
        if self._child is not None:
            self._child.wait(_STOP_S)
            if self._child.stdout is not None:
                self._child.stdout.close()
            if self._lifeline is not None:
                os.close(self._lifeline)
                self._lifeline = None
        (self.state_dir / "process.json").unlink(missing_ok=True)
        self.pid = 0

    def _running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return _start_time(self.pid) is not None

    def _signal(self, number: signal.Signals) -> bool:
        """Send a signal, if the process with our pid is still the one that was started."""
        if self._child is None:
            record = self.state_dir / "process.json"
            if not record.exists() or json.loads(record.read_text())["started"] != _start_time(self.pid):
                return False
        elif self._child.poll() is not None:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError as error:
            raise SuiteDefect(f"process {self.pid} is not ours to end", evidence=str(error)) from None
        return True

    def log_tail(self) -> str:
        """The end of its log, without secrets."""
        file = self.state_dir / "gitlab.log"
        return redact(file.read_text(errors="replace")[-_LOG_TAIL_CHARS:]) if file.exists() else ""

    def __enter__(self) -> EmbeddedGitLab:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _start_time(pid: int) -> str | None:
    """The kernel's start time of a process, which tells a reused pid apart; None for a dead one."""
    ticks = start_ticks(pid)
    return None if ticks is None else str(ticks)
