"""A cluster that is there already: reached through a kubeconfig, never started or stopped."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from harness.errors import EnvironmentProblem, SuiteDefect, UsageError
from harness.kube import ApiError, Kube

_TIMEOUT_S = 10.0


class ExistingCluster:
    """Kubeconfig and context, both explicit: what somebody's current context happens to be is never touched.

    >>> ExistingCluster(Path("~/.kube/config").expanduser(), "staging").start()
    """

    def __init__(self, kubeconfig: Path, context: str | None) -> None:
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
        kube = Kube(self._kubeconfig, self._context)
        try:
            kube.request("GET", "/version", timeout_s=_TIMEOUT_S)
        except ApiError as error:
            raise EnvironmentProblem(
                f"the cluster of {self._context!r} in {self._kubeconfig} does not answer: {error.message}",
                "check it with kubectl --kubeconfig and --context",
            ) from error
        with suppress(ApiError):  # who may not see nodes can still check a stack
            nodes = kube.request("GET", "/api/v1/nodes", timeout_s=_TIMEOUT_S)["items"]
            self._node_ip = node_address(nodes[0])
            self._version = str(nodes[0]["status"]["nodeInfo"]["kubeletVersion"])
        return self._kubeconfig

    def _check_context(self) -> None:
        if not self._kubeconfig.is_file():
            raise UsageError(f"there is no kubeconfig {self._kubeconfig}", "check --kubeconfig")
        try:
            content = yaml.safe_load(self._kubeconfig.read_text())
        except yaml.YAMLError as error:
            raise UsageError(
                f"{self._kubeconfig} is no kubeconfig: it is not YAML", "check --kubeconfig"
            ) from error
        contexts = content.get("contexts") if isinstance(content, dict) else None
        if not contexts:
            raise UsageError(f"{self._kubeconfig} is no kubeconfig: it has no contexts", "check --kubeconfig")
        names = [str(it.get("name")) for it in contexts]
        if self._context is None:
            raise UsageError(
                f"no context was named; the current one of {self._kubeconfig} is not assumed",
                f"--context with one of: {', '.join(names)}",
            )
        if self._context not in names:
            raise UsageError(
                f"{self._kubeconfig} has no context {self._context!r}", f"it has: {', '.join(names)}"
            )

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
    addresses = node.get("status", {}).get("addresses", [])
    return next((str(it["address"]) for it in addresses if it["type"] == "InternalIP"), "")
