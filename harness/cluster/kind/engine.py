"""The docker engine in which kind's nodes run, asked through docker's own command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.environment import for_child, snapshot
from harness.errors import EnvironmentProblem, UsageError

RUN_LABEL = "io.runner-conformance.run"
CLUSTER_LABEL = "io.x-k8s.kind.cluster"
"""What kind writes on each of its containers."""
PROVIDER = "KIND_EXPERIMENTAL_PROVIDER"
_SOCKET = "unix://"
_RUN_ID = re.compile(r"rc-[0-9a-f]{8}(?=-)")
_TIMEOUT_S = 30.0
_PULL_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Engine:
    """An engine that can hold nodes: its socket on this host, and its version."""

    socket: Path
    version: str


def docker(*arguments: str, timeout_s: float = _TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Run docker's command line. Raises EnvironmentProblem where it is not there or does not end."""
    try:
        return subprocess.run(
            ["docker", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
            env=_environment(),
        )
    except FileNotFoundError:
        raise EnvironmentProblem(
            "kind runs its node in Docker, and this host has no docker command",
            "install a docker engine (Debian: apt-get install docker.io), or use --cluster k3s",
        ) from None
    except subprocess.TimeoutExpired:
        raise EnvironmentProblem(
            f"docker {arguments[0]} has not ended after {timeout_s:.0f} s", "is the docker engine well?"
        ) from None


def _environment() -> dict[str, str]:
    """What docker's command line goes by: DOCKER_HOST and its like, and what every program needs."""
    return for_child({name: value for name, value in snapshot().items() if name.startswith("DOCKER_")})


def done(*arguments: str, what: str, timeout_s: float = _TIMEOUT_S) -> str:
    """What docker's command line printed. Raises EnvironmentProblem with its words where it failed."""
    ended = docker(*arguments, timeout_s=timeout_s)
    if ended.returncode:
        raise EnvironmentProblem(f"{what}: {_words(ended)}", "see what docker says", evidence=ended.stderr)
    return ended.stdout.strip()


def check(environment: Mapping[str, str] = os.environ) -> Engine:
    """Whether kind's nodes can run here. Raises UsageError and EnvironmentProblem, a sentence each."""
    provider = environment.get(PROVIDER, "docker")
    if provider != "docker":
        raise UsageError(
            f"{PROVIDER}={provider}: the suite makes kind clusters with docker alone, "
            "because its registry, its GitLab and docker.sock are reached through docker's network",
            f"unset {PROVIDER}, or verify a cluster that you make yourself with --cluster existing",
        )
    socket = _socket()
    answer = docker("info", "--format", "{{json .}}")
    about = _document(answer.stdout)
    if answer.returncode or about.get("ServerErrors") or not about.get("ServerVersion"):
        raise _no_answer(" ".join(map(str, about.get("ServerErrors") or [])) or _words(answer))
    if any("rootless" in str(it) for it in about.get("SecurityOptions") or ()):
        raise EnvironmentProblem(
            "the docker engine is rootless: its networks are not this host's, so pods and this host could "
            "not reach each other",
            "use an engine that root runs (DOCKER_HOST=unix:///var/run/docker.sock), or --cluster k3s",
        )
    return Engine(socket, str(about["ServerVersion"]))


def _socket() -> Path:
    """The engine's socket: of DOCKER_HOST, or of docker's current context."""
    named = done("context", "inspect", "--format", "{{.Endpoints.docker.Host}}", what="docker has no context")
    if not named.startswith(_SOCKET):
        raise EnvironmentProblem(
            f"the docker engine is at {named}, and kind's nodes have to run on this host",
            "unset DOCKER_HOST and DOCKER_CONTEXT, or use --cluster k3s",
        )
    return Path(named.removeprefix(_SOCKET))


def _no_answer(words: str) -> EnvironmentProblem:
    if "permission denied" in words.lower():
        return EnvironmentProblem(
            f"this user may not use the docker engine: {words}",
            "run it with sudo, or add the user to the group docker and log in again",
        )
    return EnvironmentProblem(
        f"the docker engine does not answer: {words}",
        "start it (systemctl start docker), or use --cluster k3s",
    )


def make_network(run_id: str, bridge: str, subnet: str, gateway: str, mtu: int) -> None:
    """Make a network of a run's own, which is called after it.

    ``bridge`` names its link on this host; ``mtu`` is the uplink's, which a smaller one would otherwise cut.
    """
    options = {"bridge.name": bridge, "driver.mtu": str(mtu)}
    words = [f"--opt=com.docker.network.{key}={value}" for key, value in options.items()]
    words += [f"--label={RUN_LABEL}={run_id}", f"--subnet={subnet}", f"--gateway={gateway}"]
    done("network", "create", *words, run_id, what="docker makes no network")


def gateway_of(network: str) -> str:
    """An address of this host, as containers of the network reach it."""
    template = "{{range .IPAM.Config}}{{.Gateway}} {{end}}"
    gateways = done("network", "inspect", network, "--format", template, what=f"docker's network {network}")
    return next((it for it in gateways.split() if "." in it), "")


def containers_in(network: str) -> list[str]:
    """Names of the containers that a network has."""
    template = "{{range .Containers}}{{.Name}} {{end}}"
    words = ["network", "inspect", network, "--format", template]
    return done(*words, what=f"docker's network {network}").split()


def address_of(container: str, network: str) -> str:
    """The address of a container in a network."""
    template = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
    return done("inspect", container, "--format", template, what=f"docker's container {container}")


def has_image(reference: str) -> bool:
    """Whether the engine has the image."""
    return docker("image", "inspect", reference, "--format", "{{.Id}}").returncode == 0


def pull(reference: str) -> None:
    """Pull an image. Raises EnvironmentProblem with the registry's words."""
    ended = docker("pull", "--quiet", reference, timeout_s=_PULL_TIMEOUT_S)
    if ended.returncode:
        raise EnvironmentProblem(
            f"the node image {reference} can't be pulled: {_words(ended)}",
            "name one that there is: https://github.com/kubernetes-sigs/kind/releases lists them",
            evidence=ended.stderr,
        )


def containers_of(cluster: str) -> list[str]:
    """Names of a cluster's containers, running or not."""
    words = ["ps", "--all", f"--filter=label={CLUSTER_LABEL}={cluster}", "--format={{.Names}}"]
    return done(*words, what="docker lists no containers").split()


def living_runs() -> set[str]:
    """Ids of the runs whose node runs in this engine: nobody has left it behind."""
    if not is_there():
        return set()
    words = ["ps", f"--filter=label={CLUSTER_LABEL}", "--format={{.Names}}"]
    names = done(*words, what="docker lists no containers").split()
    return {found[0] for found in map(_RUN_ID.match, names) if found}


def networks_of(run_id: str) -> list[str]:
    """Names of a run's networks."""
    words = ["network", "ls", f"--filter=label={RUN_LABEL}={run_id}", "--format={{.Name}}"]
    return done(*words, what="docker lists no networks").split()


def images_of(run_id: str) -> list[str]:
    """References of a run's images: the node's, and what its jobs built by way of docker.sock."""
    words = ["image", "ls", "--format={{.Repository}}:{{.Tag}}"]
    return [it for it in done(*words, what="docker lists no images").split() if run_id in it]


def is_there() -> bool:
    """Whether a docker command is on PATH; without one nothing of ours is in an engine."""
    return shutil.which("docker") is not None


def _words(ended: subprocess.CompletedProcess[str]) -> str:
    """The last line of what docker says, without its prefix."""
    lines = [line.strip() for line in (ended.stderr or ended.stdout).splitlines() if line.strip()]
    said = next(
        (it for it in reversed(lines) if not it.startswith("See 'docker")), f"exit {ended.returncode}"
    )
    return said.removeprefix("Error response from daemon: ").removeprefix("ERROR: ")


def _document(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
