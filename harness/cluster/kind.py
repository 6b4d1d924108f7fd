"""A kind cluster (Kubernetes in Docker), by way of pytest-kind's KindCluster."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cluster.existing import node_address
from harness.cluster.protocol import LOAD_IMAGE, NODE_SHELL
from harness.errors import EnvironmentProblem
from harness.kube import Kube

if TYPE_CHECKING:
    from pytest_kind.cluster import KindCluster as PytestKindCluster

_DOCKER_TIMEOUT_S = 20


class KindCluster:
    """One kind cluster.  Its own node image decides the Kubernetes version: ``image``, or kind's default.

    >>> KindCluster("verify", state_dir).start()
    """

    def __init__(self, name: str, state_dir: Path, image: str | None = None) -> None:
        self._name, self._image = name, image
        self.state_dir = state_dir.absolute()
        self._node_ip = ""
        self._version = ""

    @property
    def name(self) -> str:
        return self._name

    @property
    def kubeconfig(self) -> Path:
        return self.state_dir / "kubeconfig"

    @property
    def context(self) -> str | None:
        return f"kind-{self._name}"

    @property
    def node_ip(self) -> str:
        return self._node_ip

    @property
    def host_ip(self) -> str:
        """The gateway of kind's docker network, an address of this host."""
        template = "{{range .IPAM.Config}}{{.Gateway}} {{end}}"
        found = _docker("network", "inspect", "kind", "--format", template)
        return next((it for it in found.stdout.split() if "." in it), "")

    @property
    def version(self) -> str:
        return self._version

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    @property
    def abilities(self) -> frozenset[str]:
        return frozenset({NODE_SHELL, LOAD_IMAGE})

    def start(self) -> Path:
        """Create it.  Raises EnvironmentProblem without docker, or with kind's own words."""
        if not shutil.which("docker") or _docker("info").returncode:
            raise EnvironmentProblem(
                "kind needs a docker engine that runs on this host", "start docker, or use k3s"
            )
        if self._name in self._clusters():
            raise EnvironmentProblem(
                f"there is a kind cluster {self._name!r} already, which is not of this run",
                f"choose another --name, or remove it: kind delete cluster --name {self._name}",
            )
        self.state_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._kind().create()
            node = Kube(self.kubeconfig, self.context).list("v1/Node")[0]
        except (subprocess.CalledProcessError, OSError) as error:
            self.stop()
            raise EnvironmentProblem(
                f"kind did not come up: {error}", "run kind by hand to see why"
            ) from error
        except BaseException:
            self.stop()
            raise
        self._node_ip = node_address(node)
        self._version = str(node["status"]["nodeInfo"]["kubeletVersion"])
        return self.kubeconfig

    def stop(self) -> None:
        """Delete the cluster if this state directory's ``start`` made it."""
        if not self.state_dir.exists():
            return
        if (self.state_dir / "kubeconfig").exists():
            with suppress(subprocess.CalledProcessError):
                self._kind().delete()
        shutil.rmtree(self.state_dir)

    def node_shell(self, argv: Sequence[str], timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command in the node's container."""
        return _docker("exec", f"{self._name}-control-plane", *argv, timeout_s=timeout_s)

    def load_image(self, archive: Path) -> None:
        """Import an archive into the node.  Raises EnvironmentProblem."""
        argv = [str(self._kind().kind_path), "load", "image-archive", str(archive), "--name", self._name]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EnvironmentProblem(f"kind can't load {archive}", evidence=done.stderr)

    def _clusters(self) -> list[str]:
        label = "label=io.x-k8s.kind.role=control-plane"
        found = _docker("ps", "--all", "--filter", label, "--format", '{{.Label "io.x-k8s.kind.cluster"}}')
        return found.stdout.split()

    def _kind(self) -> PytestKindCluster:
        """pytest-kind's handle.  It makes ``.pytest-kind`` where we are; left empty, that goes again."""
        from pytest_kind.cluster import KindCluster as PytestKindCluster

        program = shutil.which("kind")
        handle: Any = PytestKindCluster(
            self._name,
            kubeconfig=self.kubeconfig,
            image=self._image,
            kind_path=Path(program) if program else self.state_dir / "kind",
        )
        for directory in (handle.path, handle.path.parent):
            with suppress(OSError):
                directory.rmdir()
        return handle


def _docker(*arguments: str, timeout_s: float = _DOCKER_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentProblem(
            f"docker {arguments[0]} has not answered after {timeout_s:.0f} s", "is the docker engine well?"
        ) from error
