"""A cluster that is there already: reached through a kubeconfig, never started or stopped."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness import kubeconfig as kubeconfigs
from harness.errors import EnvironmentProblem, SuiteDefect, UsageError
from harness.kube import ApiError, Kube

_TIMEOUT_S = 10.0


class ExistingCluster:
    """Kubeconfig and context, both explicit: what somebody's current context happens to be is never touched.

    >>> ExistingCluster(Path("~/.kube/config").expanduser(), "staging").start()
    """

    def __init__(
        self,
        kubeconfig: Path,
        context: str | None,
        connect: Callable[[Path, str | None], Kube] = Kube,
    ) -> None:
        """``connect`` gives the client with which it is looked at."""
        self._connect = connect
        self._kubeconfig = kubeconfig.absolute()
        self._context = context
        self._node_ip = ""
        self._version = ""

    @property
    def name(self) -> str:
        return self._context or "existing"

    @property
    def kubeconfig(self) -> Path:
        return self._kubeconfig

    @property
    def context(self) -> str | None:
        return self._context

    @property
    def node_ip(self) -> str:
        return self._node_ip

    @property
    def host_ip(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return self._version

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    @property
    def abilities(self) -> frozenset[str]:
        return frozenset()

    def start(self) -> Path:
        """Check that it answers: UsageError for a wrong file or context, EnvironmentProblem for silence."""
        self._check_context()
        kube = self._connect(self._kubeconfig, self._context)
        try:
            version = kube.request("GET", "/version", timeout_s=_TIMEOUT_S)
        except ApiError as error:
            raise (self._unknown_user() if error.status == 401 else self._silent(error.message)) from error
        if not isinstance(version, dict) or not isinstance(version.get("gitVersion"), str):
            raise self._silent("what answers /version is no Kubernetes API server")
        with suppress(ApiError):  # who may not see nodes can still check a stack
            self._look_at_nodes(kube.request("GET", "/api/v1/nodes", timeout_s=_TIMEOUT_S))
        return self._kubeconfig

    def _look_at_nodes(self, listed: object) -> None:
        items = listed.get("items") if isinstance(listed, dict) else None
        if not isinstance(items, list) or not all(isinstance(it, dict) for it in items):
            raise self._silent("its list of nodes is none")
        for node in items[:1]:
            self._node_ip = node_address(node)
            self._version = str(((node.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion", ""))

    def _silent(self, why: str) -> EnvironmentProblem:
        return EnvironmentProblem(
            f"the cluster of {self._context!r} in {self._kubeconfig} does not answer: {why}",
            "check it with kubectl --kubeconfig and --context",
        )

    def _unknown_user(self) -> EnvironmentProblem:
        expired = kubeconfigs.expired(self._kubeconfig, self._context)
        return EnvironmentProblem(
            f"the cluster of {self._context!r} in {self._kubeconfig} does not know its user (HTTP 401)"
            + (f": {expired}" if expired else ""),
            "renew the kubeconfig's token or client certificate",
            reason_id="api/unauthorized",
        )

    def _check_context(self) -> None:
        """The file and the context are the user's own words: what is wrong with them is a UsageError."""
        if self._context is None:
            raise UsageError(
                f"no context was named; the current one of {self._kubeconfig} is not assumed",
                f"--context with one of: {', '.join(kubeconfigs.contexts(self._kubeconfig))}",
            )
        kubeconfigs.load(self._kubeconfig, self._context).close()

    def stop(self) -> None:
        """Nothing of it is ours."""

    def node_shell(self, argv: Sequence[str], timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Not an ability of this cluster."""
        raise SuiteDefect(
            f"an existing cluster has no node shell to run {argv[0]} in: ask for the ability first"
        )

    def load_image(self, archive: Path) -> None:
        """Not an ability of this cluster."""
        raise SuiteDefect(f"an existing cluster can't load {archive.name}: ask for the ability first")


def node_address(node: dict[str, Any]) -> str:
    """InternalIP of a Node object; empty if it has none."""
    addresses = (node.get("status") or {}).get("addresses") or []
    return next((str(it["address"]) for it in addresses if it.get("type") == "InternalIP"), "")
