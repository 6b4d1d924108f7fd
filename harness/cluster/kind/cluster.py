"""The kind cluster, by way of pytest-kind's KindCluster."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.artifacts.registry_server import RegistryServer, free_port
from harness.cluster import links, logs, nat
from harness.cluster.kind import engine, node_files, program
from harness.cluster.kind.node_files import KindOptions
from harness.cluster.protocol import DOCKER, LOAD_IMAGE, NODE_SHELL
from harness.diagnosis import as_error, classify
from harness.diagnosis.facts import node_facts
from harness.environment import for_child
from harness.errors import EnvironmentProblem, HarnessError, LeftoversError
from harness.files import write_whole
from harness.journal import KIND_CLUSTER
from harness.kube import Kube
from harness.wait import wait_for

if TYPE_CHECKING:
    from pytest_kind.cluster import KindCluster as PytestKindCluster

_RECORD = "kind.json"
_LOG = "kind.log"
_NODE_TIMEOUT_S = 180.0
_REGISTRY = "runner-conformance-registry"
"""The unit of the bundle's registry within the node."""
_IMAGES = "runner-conformance/"
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class _Made:
    """What is to be known of a cluster that another process made."""

    run_id: str
    name: str
    beside: str = ""
    node_ip: str = ""
    host_ip: str = ""
    version: str = ""
    docker_socket: bool = False
    made_certs_d: bool = False
    pulled: str = ""
    notes: tuple[str, ...] = ()


class KindCluster:
    """A kind cluster of one node, with a docker network of its own.

    >>> cluster = KindCluster(KindOptions("rc-0a1b2c3d", "verify", state_dir))
    >>> kubeconfig = cluster.start()
    >>> cluster.stop()
    """

    def __init__(self, options: KindOptions) -> None:
        self._options = options
        self.state_dir = options.state_dir.absolute()
        self._made = _Made(options.run_id, options.name, options.beside, docker_socket=options.docker_socket)

    @classmethod
    def attach(cls, state_dir: Path) -> KindCluster:
        """A cluster that another process made. Raises EnvironmentProblem where its node is gone."""
        made = _read(state_dir)
        if made is None:
            raise EnvironmentProblem(
                f"{state_dir} holds no kind cluster", "remove what is left with runner-conformance reap"
            )
        cluster = cls(
            KindOptions(made.run_id, made.name, state_dir, made.beside, docker_socket=made.docker_socket)
        )
        cluster._made = made
        if cluster.node not in engine.containers_of(cluster.cluster):
            raise EnvironmentProblem(
                f"the cluster {made.name} no longer runs: docker has no container {cluster.node}",
                "remove what it left with runner-conformance reap, and make it again",
            )
        return cluster

    # -- what it is ----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._options.name

    @property
    def cluster(self) -> str:
        """What kind and docker call it."""
        return self._options.cluster

    @property
    def node(self) -> str:
        """The node, and the container that it runs in."""
        return f"{self.cluster}-control-plane"

    @property
    def kubeconfig(self) -> Path:
        return self.state_dir / "kubeconfig"

    @property
    def context(self) -> str | None:
        return f"kind-{self.cluster}"

    @property
    def node_ip(self) -> str:
        return self._made.node_ip

    @property
    def host_ip(self) -> str:
        """The gateway of the cluster's docker network, an address of this host."""
        return self._made.host_ip

    @property
    def version(self) -> str:
        return self._made.version

    @property
    def notes(self) -> tuple[str, ...]:
        return self._made.notes

    @property
    def abilities(self) -> frozenset[str]:
        return frozenset({NODE_SHELL, LOAD_IMAGE} | ({DOCKER} if self._made.docker_socket else set()))

    # -- life ----------------------------------------------------------------------------------------------

    def start(self) -> Path:
        """Make it and wait until its node is Ready. Raises HarnessError; then nothing is left."""
        options = self._options
        found = engine.check()
        kind = program.find(bundled=options.program, online=not options.air_gapped)
        if engine.containers_of(self.cluster):
            raise EnvironmentProblem(
                f"there is a kind cluster {self.cluster!r} already, which this run did not make",
                f"choose another --name, or remove it: kind delete cluster --name {self.cluster}",
            )
        self.state_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._remember(notes=(f"kind {kind.version} ({kind.origin}), docker {found.version}",))
            self._make(kind.path, found)
        except BaseException:
            self.stop()
            raise
        return self.kubeconfig

    def _make(self, kind: Path, found: engine.Engine) -> None:
        options = self._options
        network = self._network()
        gateway = engine.gateway_of(network)
        self._check_reachable(gateway)
        self._remember(host_ip=gateway, made_certs_d=not node_files.DOCKER_CERTS_D.exists())
        image = self._image()
        configuration = node_files.write(options, found.socket)
        self._create(kind, network, image, configuration)
        self._remember(node_ip=engine.address_of(self.node, network))
        self._serve_bundle()
        kube = Kube(self.kubeconfig, self.context)
        self._await_ready(kube)

    def _network(self) -> str:
        """The network of the run beside, where it has one, else one of this run, made now."""
        run_id, beside = self._options.run_id, self._options.beside
        if beside and engine.networks_of(beside):
            return beside
        subnet, reservation = links.reserve()
        with reservation:
            bridge, mtu = links.bridge_name(run_id), links.uplink_mtu()
            engine.make_network(run_id, bridge, subnet.wider, subnet.host_ip, mtu)
        if nat.lack() is None:
            nat.admit(run_id, links.bridge_name(run_id))
        return run_id

    def _check_reachable(self, gateway: str) -> None:
        """Whether the engine's networks are this host's; they are not where it runs in its own machine."""
        if gateway not in links.addresses():
            raise EnvironmentProblem(
                f"docker's network has the gateway {gateway}, which is no address of this host: the engine "
                "runs in a machine of its own (Docker Desktop, or a container)",
                "use an engine that runs on this host, or --cluster existing with a GitLab that pods reach",
            )

    def _image(self) -> str:
        """The node image, in the engine; empty: kind's default, which kind pulls."""
        options = self._options
        if options.image:
            if not engine.has_image(options.image):
                engine.pull(options.image)
            return options.image
        if not options.bundled_image or options.registry_program is None or options.storage is None:
            return ""
        # Of 127.0.0.0/8 alone docker pulls without TLS.
        port = free_port(_LOOPBACK, 0)
        server = RegistryServer(
            options.registry_program, options.storage, _LOOPBACK, port, state_dir=self.state_dir / "pull"
        )
        pulled = f"{_LOOPBACK}:{port}/{options.bundled_image}"
        ours = f"{_IMAGES}{self.cluster}:node"
        self._remember(pulled=pulled)
        with server:
            engine.pull(pulled)
        engine.done("tag", pulled, ours, what="docker names no image")
        engine.docker("rmi", pulled)
        return ours

    def _create(self, kind: Path, network: str, image: str, configuration: Path) -> None:
        handle = self._kind(program.wrapped(kind, network, self.state_dir), image)
        try:
            handle.create(configuration)
        except subprocess.CalledProcessError as error:
            raise EnvironmentProblem(
                f"kind made no cluster: {self._last_words() or error}",
                "the lines before it say more; with --kind-image another node image can be named",
                evidence=self.log_tail(),
            ) from None

    def _last_words(self) -> str:
        _, _, said = self.log_tail().rpartition("ERROR: ")
        return words_of(said)

    def _serve_bundle(self) -> None:
        """Start the bundle's registry within the node, where it lives and dies with the cluster."""
        if not self._options.air_gapped:
            return
        unit = [f"--unit={_REGISTRY}", "--property=Restart=always", "--setenv=OTEL_TRACES_EXPORTER=none"]
        serve = [f"{node_files.INSIDE}/registry", "serve", node_files.REGISTRY_CONFIGURATION]
        started = self.node_shell(["systemd-run", "--quiet", *unit, *serve])
        if started.returncode:
            raise EnvironmentProblem(
                f"the bundle's registry does not start in the node: {started.stderr.strip()}",
                "the node image must have systemd, as kind's have",
            )

    def _await_ready(self, kube: Kube) -> None:
        nodes = wait_for(
            lambda: kube.list("v1/Node"),
            ready=lambda found: bool(found) and not _not_ready(found),
            what=f"node {self.node} Ready",
            timeout_s=_NODE_TIMEOUT_S,
            describe=lambda found: "; ".join(it.text for it in _not_ready(found)) or "not registered",
        )
        reason = classify(_not_ready(nodes))
        if reason is not None:
            raise as_error(reason)
        self._remember(version=str(nodes[0]["status"]["nodeInfo"]["kubeletVersion"]))

    def stop(self) -> None:
        """Remove all that carries the run's id. Raises LeftoversError if something resists."""
        made = _read(self.state_dir) or self._made
        left = []
        if engine.is_there():
            for remove in (self._remove_trust, self._remove_node, self._remove_rest):
                try:
                    remove(made)
                except HarnessError as error:
                    left.append(error.message)
        if self.state_dir.exists():
            try:
                shutil.rmtree(self.state_dir)
            except OSError as error:
                left.append(f"{error.filename}: {error.strerror}")
        if left:
            raise LeftoversError(
                f"the cluster {self.name} is deleted, but something of it is left: {'; '.join(left)}",
                "try runner-conformance reap",
            )

    def left(self) -> list[str]:
        """What is there of the run, a line each. Raises EnvironmentProblem where docker can't be asked."""
        found = []
        made = _read(self.state_dir) or self._made
        if engine.is_there():
            found += [f"container {it}" for it in engine.containers_of(self.cluster)]
            found += [f"docker network {it}" for it in engine.networks_of(self._options.run_id)]
            found += [f"docker image {it}" for it in self._images(made)]
        trusted = _trusted(made)
        if trusted is not None and trusted.exists():
            found.append(f"directory {trusted}")
        return [f"{KIND_CLUSTER} {self.cluster}: {it}" for it in found]

    def _remove_trust(self, made: _Made) -> None:
        """Take the registry's CA from the host's docker again, through the node, which has that directory."""
        trusted = _trusted(made)
        if trusted is None:
            return
        if engine.containers_of(self.cluster):
            self.node_shell(["rm", "-rf", str(trusted)])
        else:
            shutil.rmtree(trusted, ignore_errors=True)
        if trusted.exists():
            raise EnvironmentProblem(f"{trusted} can't be removed", "remove it as root")
        if made.made_certs_d:
            with suppress(OSError):  # not empty: somebody else's by now; or not ours to remove
                trusted.parent.rmdir()

    def _remove_node(self, made: _Made) -> None:
        kind = self.state_dir / "kind"
        if kind.exists() and engine.containers_of(self.cluster):
            with suppress(subprocess.CalledProcessError, OSError):  # what it leaves is removed below
                self._kind(kind, "").delete()

    def _remove_rest(self, made: _Made) -> None:
        """What kind left, or was never told of: containers with their volumes, network, image."""
        for name in engine.containers_of(self.cluster):
            engine.done("rm", "--force", "--volumes", name, what=f"container {name} can't be removed")
        for run_id in filter(None, (self._options.run_id, made.beside)):
            for network in engine.networks_of(run_id):
                self._leave(network, run_id)
        for name in self._images(made):
            engine.done("rmi", name, what=f"image {name} can't be removed")

    def _images(self, made: _Made) -> list[str]:
        """The run's images in the engine, and the node image under the name by which it was pulled."""
        found = engine.images_of(self._options.run_id)
        return [*found, made.pulled] if made.pulled and engine.has_image(made.pulled) else found

    @staticmethod
    def _leave(network: str, run_id: str) -> None:
        """Remove a network, unless a cluster beside is still in it: whoever is the last removes it."""
        if engine.containers_in(network):
            return
        engine.done("network", "rm", network, what=f"network {network} can't be removed")
        if nat.lack() is None:
            nat.close(links.bridge_name(run_id))

    # -- abilities -----------------------------------------------------------------------------------------

    def node_shell(self, argv: Sequence[str], timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command in the node's container."""
        return engine.docker("exec", self.node, *argv, timeout_s=timeout_s)

    def load_image(self, archive: Path) -> None:
        """Import an archive into the node. Raises EnvironmentProblem."""
        argv = [str(self.state_dir / "kind"), "load", "image-archive", str(archive), "--name", self.cluster]
        ended = subprocess.run(argv, capture_output=True, text=True, check=False, env=for_child({}))
        if ended.returncode:
            raise EnvironmentProblem(f"kind can't load {archive}", evidence=self.log_tail())

    def log_tail(self) -> str:
        """The last lines that kind said."""
        path = self.state_dir / _LOG
        return logs.tail(path) if path.exists() else ""

    def _remember(self, **changed: Any) -> None:
        self._made = _Made(**{**asdict(self._made), **changed})
        write_whole(self.state_dir / _RECORD, json.dumps(asdict(self._made)))

    def _kind(self, kind: Path, image: str) -> PytestKindCluster:
        """pytest-kind's handle. It makes ``.pytest-kind`` where we are; left empty, that goes again."""
        from pytest_kind.cluster import KindCluster as PytestKindCluster

        handle: Any = PytestKindCluster(
            self.cluster, kubeconfig=self.kubeconfig, image=image or None, kind_path=kind
        )
        for directory in (handle.path, handle.path.parent):
            with suppress(OSError):
                directory.rmdir()
        return handle


def words_of(said: str) -> str:
    """The cause in what kind says at its end.

    kind writes the whole command that failed, and then all that it printed; of that the first line that names
    an error, else the last, is the cause.
    """
    head, _, output = said.removeprefix("failed to create cluster: ").partition("Command Output:")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    cause = next((it for it in lines if re.search(r"\berror\b", it, re.IGNORECASE)), "".join(lines[-1:]))
    command = r'(?P<what>.*?)(: )?command "(?P<words>\S+ \S+).*" failed with error: (?P<how>.*)'
    failed = re.fullmatch(command, head.strip(), re.DOTALL)
    if failed is None:
        return head.strip().split("\n")[0]
    what = failed["what"] or f"{failed['words']} failed"
    return f"{what} ({failed['how'].strip()}): {cause}".rstrip(": ")


def _trusted(made: _Made) -> Path | None:
    """Where the CA of the run's registry is for the host's docker, if it was put there."""
    return node_files.DOCKER_CERTS_D / made.node_ip if made.docker_socket and made.node_ip else None


def _not_ready(nodes: Sequence[dict[str, Any]]) -> list[Any]:
    return [it for it in node_facts(list(nodes)) if it.text.startswith("Ready=")]


def _read(state_dir: Path) -> _Made | None:
    try:
        found = json.loads((state_dir / _RECORD).read_text())
    except (OSError, ValueError):
        return None
    return _Made(**{**found, "notes": tuple(found.get("notes", ()))})
