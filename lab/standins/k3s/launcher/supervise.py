"""Start the children in order, watch them, and stop them: the life of ``k3s server``."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Generator
from pathlib import Path

from launcher import log
from launcher.node import Program

Check = Callable[[], bool]
#: k3s's own limit is systemd's; ours is the 10 s within which a stop must be over, less the time to kill.
STOP_TIMEOUT_S = 8.0
_POLL_S = 0.05
_PR_SET_PDEATHSIG = 1
_LAST_LINES = 15
_WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}


class Supervisor:
    """Children by process id; each writes a log of its own, whose last lines explain its death."""

    def __init__(self, logs: Path, environment: dict[str, str]) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._logs, self._environment = logs, environment
        self._children: dict[int, tuple[Program, subprocess.Popen[bytes]]] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)

    def spawn(self, program: Program) -> None:
        """Start a child that dies with this process."""
        log.info(f"Running {Path(program.argv[0]).name} {' '.join(program.argv[1:])}")
        with open(self._log(program), "ab") as output:
            child = subprocess.Popen(
                program.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                preexec_fn=self._die_with_parent,
            )
        self._children[child.pid] = (program, child)

    def run(self, steps: Generator[Check, None, None]) -> None:
        """Run until a signal asks to stop.  ``steps`` yields a condition where it must wait.

        Raises log.Fatal with a child's last lines when one ends by itself.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        waiting: Check | None = lambda: True  # noqa: E731
        try:
            while True:
                if waiting and waiting():
                    waiting = next(steps, None)
                    continue
                received = signal.sigtimedwait(_WATCHED, _POLL_S if waiting else 5.0)
                if received and received.si_signo != signal.SIGCHLD:
                    return
                self._reap()
        finally:
            self._stop()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)

    def _log(self, program: Program) -> Path:
        return self._logs / f"{program.name}.log"

    def _die_with_parent(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def _reap(self) -> None:
        """Collect what ended: as the first process of a namespace, orphans too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._children:
                program, _ = self._children.pop(pid)
                raise log.Fatal(f"{program.name} exited: {_describe(status)}\n{self._tail(program)}")

    def _tail(self, program: Program) -> str:
        lines = self._log(program).read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LAST_LINES:])

    def _stop(self) -> None:
        """Ask each child to end, last started first; kill what still runs after the time limit."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for pid in reversed(list(self._children)):
            os.kill(pid, signal.SIGTERM)
        while self._children and time.monotonic() < deadline:
            self._collect()
            time.sleep(_POLL_S)
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        self._collect(0)

    def _collect(self, flags: int = os.WNOHANG) -> None:
        for pid in list(self._children):
            try:
                ended, _ = os.waitpid(pid, flags)
            except ChildProcessError:
                ended = pid
            if ended:
                del self._children[pid]


def _describe(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"signal: {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit status {os.WEXITSTATUS(status)}"


def listening(port: int) -> Check:
    """A condition: something accepts connections on this port of the loopback address."""

    def check() -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return check


def socket_at(path: str) -> Check:
    """A condition: something accepts connections at this unix socket."""

    def check() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(path) == 0

    return check


def answers(url: str, tls: Path, cert: str) -> Check:
    """A condition: a GET of ``url`` with a client certificate is answered with 200."""
    context = ssl.create_default_context(cafile=str(tls / "server-ca.crt"))
    context.load_cert_chain(tls / f"{cert}.crt", tls / f"{cert}.key")
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )

    def check() -> bool:
        try:
            with opener.open(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    return check
