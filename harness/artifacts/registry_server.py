"""The registry program (distribution) as a child process, read-only over a directory."""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from harness.cluster import linux
from harness.environment import for_child
from harness.errors import EnvironmentProblem

_START_TIMEOUT_S = 60.0  # an emulated processor took more than 15 s; one that ends is told at once
_STOP_TIMEOUT_S = 5.0
_POLL_S = 0.02

_CONFIG = """\
version: 0.1
log:
  level: warn
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {storage}
    maxthreads: 100
  delete:
    enabled: false
  maintenance:
    uploadpurging:
      enabled: false
    readonly:
      enabled: true
http:
  addr: {address}:{port}
  secret: not-used-read-only
  draintimeout: 1s
"""


class RegistryServer:
    """Serves the images below ``storage`` at http://address:port.

    It dies with the thread that called ``start``.

    >>> with RegistryServer(program, storage, "127.0.0.1", 5000, state_dir=tmp) as registry:
    ...     pull(registry.url)
    """

    def __init__(self, program: Path, storage: Path, address: str, port: int, *, state_dir: Path) -> None:
        """``storage`` holds ``docker/registry/v2``; configuration and log go to ``state_dir``."""
        self._program, self._storage = program, storage
        self._address, self._port = address, port
        self._state_dir = state_dir
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://{self._address}:{self._port}"

    @property
    def log(self) -> Path:
        """The program's output."""
        return self._state_dir / "registry.log"

    def start(self) -> None:
        """Start it; returns when it accepts connections.  Raises EnvironmentProblem."""
        self._check()
        self._state_dir.mkdir(parents=True, exist_ok=True)
        config = self._state_dir / "registry.yaml"
        config.write_text(configuration(self._storage, self._address, self._port))
        # OTEL_*: newer versions send traces to localhost unless told not to
        environment = for_child({"OTEL_TRACES_EXPORTER": "none"})
        with open(self.log, "ab") as output:
            try:
                self._child = subprocess.Popen(
                    [self._program, "serve", config],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    preexec_fn=linux.die_with_parent,
                )
            except OSError as error:
                raise EnvironmentProblem(
                    f"the registry program {self._program} can't be run: {error.strerror}",
                    "it must be an executable for this machine; see files/registry of the bundle",
                ) from error
        self._await_listening()

    def stop(self) -> None:
        """Stop it.  May be called any number of times."""
        child, self._child = self._child, None
        if child is None:
            return
        child.terminate()
        try:
            child.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def __enter__(self) -> RegistryServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _check(self) -> None:
        if not (self._storage / "docker/registry/v2").is_dir():
            raise EnvironmentProblem(
                f"{self._storage} holds no registry storage (docker/registry/v2)",
                "give the directory registry/ of a bundle",
            )
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._address, self._port))
            except OSError as error:
                raise EnvironmentProblem(
                    f"the registry can't listen on {self._address}:{self._port}: {error.strerror}",
                    "stop the program that uses it (ss -ltnp shows which)",
                ) from error

    def _await_listening(self) -> None:
        assert self._child
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if (code := self._child.poll()) is not None:
                self._fail(f"ended with status {code} at its start")
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex((self._address, self._port)) == 0:
                    return
            time.sleep(_POLL_S)
        self.stop()
        self._fail(f"accepts no connection on {self._address}:{self._port} after {_START_TIMEOUT_S:.0f} s")

    def _fail(self, what: str) -> None:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
        raise EnvironmentProblem(f"the registry program {what}", f"its log: {self.log}", evidence=tail)


def configuration(storage: Path | str, address: str, port: int) -> str:
    """The program's configuration file."""
    return _CONFIG.format(storage=storage, address=address, port=port)


def free_port(address: str, preferred: int) -> int:
    """``preferred`` if it is free at this address, else any that is."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((address, port))
                return int(probe.getsockname()[1])
    raise EnvironmentProblem(f"no port is free at {address}", "has this host that address?")
