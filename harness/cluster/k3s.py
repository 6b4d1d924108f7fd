"""The ephemeral cluster: any k3s binary, in namespaces of its own on this host."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import yaml

from harness.cluster import cgroups, keeper, links, linux, logs, preflight
from harness.cluster.arguments import server_arguments
from harness.cluster.node import DOCKER_ENDED
from harness.cluster.protocol import DOCKER, LOAD_IMAGE, NODE_SHELL, ClusterOptions
from harness.cluster.record import Record
from harness.cluster.registries import LOCAL, registries_yaml
from harness.environment import for_child
from harness.errors import Blame, EnvironmentProblem, HarnessError, LeftoversError
from harness.kube import ApiError, Kube, Object
from harness.patience import patience
from harness.wait import WaitError, wait_for

log = logging.getLogger(__name__)

_API_TIMEOUT_S = 120.0
_NODE_TIMEOUT_S = 180.0
_DOCKER_TIMEOUT_S = 60.0
_REQUEST_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 40.0
_POLL_S = 0.05


class K3sCluster:
    """A k3s of one node that leaves nothing behind.

    >>> cluster = K3sCluster(ClusterOptions("rc-0a1b2c3d", "verify", k3s, state_dir))
    >>> kubeconfig = cluster.start()
    >>> cluster.stop()
    """

    def __init__(self, options: ClusterOptions) -> None:
        self._options: ClusterOptions | None = options
        self.state_dir = options.state_dir.absolute()
        self._name = options.name
        self._record: Record | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._version = ""

    @classmethod
    def attach(cls, state_dir: Path) -> K3sCluster:
        """A cluster that another process started.  Raises EnvironmentProblem if it no longer runs."""
        record = Record.load(state_dir)
        cluster = cls.__new__(cls)
        cluster._options, cluster._keeper = None, None
        cluster.state_dir, cluster._name = state_dir.absolute(), record.name
        cluster._record, cluster._version = record, record.version
        if record.ended or not record.alive:
            raise EnvironmentProblem(
                f"the cluster {record.name} no longer runs" + (f": {record.ended}" if record.ended else ""),
                "remove what it left with runner-conformance reap, and start it again",
                evidence=cluster.log_tail(),
            )
        return cluster

    # -- what it is ----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def kubeconfig(self) -> Path:
        return self.state_dir / "kubeconfig"

    @property
    def context(self) -> str | None:
        return None

    @property
    def node_ip(self) -> str:
        return links.Subnet(self._running.subnet).node_ip

    @property
    def host_ip(self) -> str:
        return links.Subnet(self._running.subnet).host_ip

    @property
    def version(self) -> str:
        return self._version

    @property
    def abilities(self) -> frozenset[str]:
        docker = (
            self._options.docker_engine is not None if self._options else bool(self._running.docker_engine)
        )
        return frozenset({NODE_SHELL, LOAD_IMAGE} | ({DOCKER} if docker else set()))

    @property
    def node_etc_docker(self) -> Path:
        """/etc/docker of the node, on this host: for ``certs.d/<registry>/ca.crt``."""
        return self.state_dir / "node/etc-docker"

    @property
    def _running(self) -> Record:
        if self._record is None or not self._record.subnet:
            raise EnvironmentProblem(f"the cluster {self._name} has not been started")
        return self._record

    @property
    def notes(self) -> tuple[str, ...]:
        """What the node does unusually because of this host, a sentence each."""
        return tuple(self._running.notes)

    # -- life ----------------------------------------------------------------------------------------------

    def start(self) -> Path:
        """Start k3s and wait for the node to be Ready.  Raises HarnessError; then nothing is left."""
        options = self._options
        if options is None:
            return self.kubeconfig
        self._version = preflight.check(options)
        self.state_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._record = self._new_record(options)
            self._record.save(self.state_dir)
            self.node_etc_docker.mkdir(parents=True)
            self._start_keeper(options)
            self._await_kubeconfig()
            self._await_node()
        except BaseException:
            self.stop()
            raise
        return self.kubeconfig

    def _new_record(self, options: ClusterOptions) -> Record:
        return Record(
            run_id=options.run_id,
            name=options.name,
            k3s=str(options.k3s.absolute()),
            version=self._version,
            arguments=server_arguments(
                options, self._version, preflight.server_flags(options.k3s, self.state_dir)
            ),
            registries=yaml.safe_dump(registries_yaml(options, LOCAL), sort_keys=True),
            unreachable=list(options.unreachable_registries),
            registry_program=str(options.registry_program.absolute()) if options.registry_program else "",
            storage=str(options.storage.absolute()) if options.storage else "",
            docker_engine=str(options.docker_engine.absolute()) if options.docker_engine else "",
            keep=options.keep,
            outgoing=options.outgoing,
            proxies=dict(options.proxies),
        )

    def _start_keeper(self, options: ClusterOptions) -> None:
        with open(self.state_dir / "keeper.log", "ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-c", keeper.COMMAND, str(self.state_dir)],
                stdin=subprocess.DEVNULL if options.keep else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,  # Ctrl-C must reach the harness alone, which then stops this
                cwd="/",
                env=for_child({"PYTHONPATH": _import_path()}),
            )
        assert self._keeper.stdout
        message = _read_message(self._keeper.stdout)
        if message.get("event") != "started":
            raise EnvironmentProblem(
                str(message.get("message", "the process that keeps the cluster ended at its start")),
                str(message.get("hint", "")),
                blame=Blame(message["blame"]) if "blame" in message else None,
                evidence=str(message.get("evidence", "")) or logs.tail(self.state_dir / "keeper.log"),
            )
        self._record = Record.load(self.state_dir)

    def _await_kubeconfig(self) -> None:
        """Take k3s's own kubeconfig, with the node's address as this host sees it."""
        source = self.state_dir / "node/etc-rancher/k3s/k3s.yaml"
        self._poll(
            lambda: source.exists() and source.stat().st_size > 0,
            f"k3s of {self._name} has written its kubeconfig",
            _API_TIMEOUT_S,
        )
        text = source.read_text().replace("https://127.0.0.1:6443", f"https://{self.node_ip}:6443")
        descriptor = os.open(self.kubeconfig, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)

    def _await_node(self) -> None:
        kube = Kube(self.kubeconfig)
        self._poll(
            lambda: bool(kube.request("GET", "/readyz", timeout_s=_REQUEST_TIMEOUT_S * patience())),
            f"the API server of {self._name} answers",
            _API_TIMEOUT_S,
        )

        def read() -> Object | None:
            self._give_up_if_ended()
            try:
                found: Object = kube.request(
                    "GET", f"/api/v1/nodes/{self._name}", timeout_s=_REQUEST_TIMEOUT_S * patience()
                )
            except ApiError as error:
                log.debug("%s", error.message)  # while k3s starts, or dies, any answer may come
                return None
            return found

        try:
            wait_for(
                read,
                ready=lambda it: _ready_condition(it).get("status") == "True",
                describe=lambda it: str(_ready_condition(it).get("message") or "not registered"),
                what=f"node {self._name} Ready",
                timeout_s=_NODE_TIMEOUT_S,
                poll_s=_POLL_S,
            )
        except WaitError as error:
            raise EnvironmentProblem(
                error.message, "k3s's log says more", evidence=self.log_tail()
            ) from error
        if self._running.docker_engine:
            self._poll(self._docker_listens, f"the docker engine of {self._name} listens", _DOCKER_TIMEOUT_S)

    def _docker_listens(self) -> bool:
        ended = self.state_dir / DOCKER_ENDED
        if ended.exists():
            log_lines = logs.tail(self.state_dir / "logs/dockerd.log").splitlines() or ["it said nothing"]
            raise EnvironmentProblem(
                f"the docker engine of {self._name} ended with status {ended.read_text()}: {log_lines[-1]}",
                "the last lines of its log say more",
                evidence="\n".join(log_lines),
            )
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(f"/proc/{self._running.node}/root/run/docker.sock") == 0

    def _poll(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait for what comes without k3s telling; an API that doesn't answer yet is no error."""
        timeout_s *= patience()
        deadline = time.monotonic() + timeout_s
        while True:
            reason = "not yet"
            try:
                if condition():
                    return
            except ApiError as error:
                reason = error.message
            self._give_up_if_ended()
            if time.monotonic() > deadline:
                raise EnvironmentProblem(
                    f"{what}: timed out after {timeout_s:.0f} s: {reason}",
                    "the logs say more",
                    evidence=self._logs("dockerd"),
                )
            time.sleep(_POLL_S)

    def _ended(self) -> str | None:
        if self._keeper and self._keeper.poll() is not None:
            return (
                Record.load(self.state_dir).ended or f"its keeper ended with status {self._keeper.returncode}"
            )
        return None

    def _give_up_if_ended(self) -> None:
        if reason := self._ended():
            raise EnvironmentProblem(
                f"the cluster {self._name} did not come up: {reason}",
                "the last lines of its log say more",
                evidence=self.log_tail(),
            )

    def stop(self) -> None:
        """End the node and remove all that belonged to it.  Raises LeftoversError if something resists."""
        if not (self.state_dir / "cluster.json").exists():
            if self._options and self.state_dir.exists():
                shutil.rmtree(self.state_dir)
            return
        record = Record.load(self.state_dir)
        _end_keeper(record, self._keeper)
        record = Record.load(self.state_dir)  # the keeper may have written more meanwhile
        left = keeper.remove_outside(record) if record.link else []
        try:
            shutil.rmtree(self.state_dir)
        except OSError as error:
            left.append(f"{error.filename}: {error.strerror}")
        if left:
            raise LeftoversError(
                f"the cluster {self._name} is stopped, but something of it is left: {'; '.join(left)}",
                "try runner-conformance reap",
            )

    # -- abilities -----------------------------------------------------------------------------------------

    def node_shell(self, argv: Sequence[str], timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command in the node's namespaces; ``kubectl``, ``ctr`` and ``crictl`` are in its PATH."""
        record = self._running
        path = f"{self.state_dir / 'bin'}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        try:
            return subprocess.run(
                ["nsenter", "--target", str(record.node), "--all", "--", *argv],
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
                env={"PATH": path, "HOME": "/root", "LANG": "C.UTF-8"},
            )
        except subprocess.TimeoutExpired as error:
            raise HarnessError(
                f"on the node {self._name}, {' '.join(argv)} has not ended after {timeout_s:.0f} s",
                evidence=str(error.stdout or ""),
                blame=Blame.ENVIRONMENT,
            ) from error

    def load_image(self, archive: Path) -> None:
        """Import an archive into the node's containerd."""
        done = self.node_shell(
            ["k3s", "ctr", "-n", "k8s.io", "images", "import", str(archive)], timeout_s=300
        )
        if done.returncode:
            raise EnvironmentProblem(f"the node can't import {archive}", evidence=done.stderr)

    def _logs(self, other: str) -> str:
        tails = (self.log_tail(), logs.tail(self.state_dir / f"logs/{other}.log"))
        return "\n".join(it for it in tails if it)

    def log_tail(self) -> str:
        """The last lines of k3s's log."""
        return logs.tail(self.state_dir / "logs/k3s.log")


def _ready_condition(node: Object | None) -> Object:
    conditions: list[Object] = (node or {}).get("status", {}).get("conditions", [])
    return next((it for it in conditions if it["type"] == "Ready"), {})


def _end_keeper(record: Record, child: subprocess.Popen[bytes] | None) -> None:
    """Ask the keeper to end, then make it; its children die with it.

    Our own child is known before it has written who it is: an interrupt may come at any moment.
    """
    keeper = (child.pid, linux.start_ticks(child.pid)) if child else (record.keeper, record.keeper_ticks)
    pid, ticks = keeper
    for number in (signal.SIGTERM, signal.SIGKILL):
        if ticks is None or linux.start_ticks(pid) != ticks:
            break
        os.kill(pid, number)
        linux.await_gone(pid, ticks, _STOP_TIMEOUT_S)
    if child:
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe:
                pipe.close()
    for straggler in cgroup_processes(record):
        with suppress(ProcessLookupError):
            os.kill(straggler, signal.SIGKILL)


def cgroup_processes(record: Record) -> set[int]:
    """Processes that are still in the node's cgroups: all of them are the node's."""
    return {pid for it in cgroups.hierarchies() for pid in cgroups.processes(it.path / record.cgroup)}


def _import_path() -> str:
    """PYTHONPATH with which another Python finds this package, wherever it is run from."""
    given = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), given]))


def _read_message(stream: IO[bytes]) -> dict[str, Any]:
    line = stream.readline()
    message: dict[str, Any] = json.loads(line) if line else {}
    return message
