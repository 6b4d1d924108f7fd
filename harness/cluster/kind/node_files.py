"""What a kind node is given: kind's configuration, where containerd pulls from, and the bundle's registry."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.artifacts.registry_server import configuration
from harness.cluster.protocol import UPSTREAM_REGISTRIES
from harness.redact import Secret

INSIDE = "/usr/local/lib/runner-conformance"
"""Where the node finds what the suite brings along."""
REGISTRY_PORT = 5000
REGISTRY_CONFIGURATION = f"{INSIDE}/registry.yaml"
CERTS_D = "/etc/containerd/certs.d"
DOCKER_CERTS_D = Path("/etc/docker/certs.d")
DOCKER_SOCKET = "/var/run/docker.sock"
_CLOSED = "http://127.0.0.1:9"
"""The discard service, on which nobody listens: a pull is refused at once."""
_CONFIG_PATH = f"""\
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "{CERTS_D}"
"""


@dataclass(frozen=True)
class KindOptions:
    """A kind cluster of one node.

    state_dir belongs to the cluster alone. beside: the run whose network it joins, where that run has
    one: docker lets no two networks reach each other. image: the node image; empty: the bundle's
    (``bundled_image``), else kind's own default. program: kind of a bundle. registry_program and storage:
    a bundle's registry, served within the node; None for both: the node pulls from the internet, through
    registry_endpoints (registry → mirror URLs) where given. unreachable_registries: their pulls are
    refused. docker_socket: the node gets the host's docker.sock. registry_auth: registry host → user and
    password to pull with.
    """

    run_id: str
    name: str
    state_dir: Path
    beside: str = ""
    image: str = ""
    bundled_image: str = ""
    program: Path | None = None
    registry_program: Path | None = None
    storage: Path | None = None
    upstream_registries: tuple[str, ...] = UPSTREAM_REGISTRIES
    registry_endpoints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unreachable_registries: tuple[str, ...] = ()
    docker_socket: bool = False
    registry_auth: Mapping[str, tuple[str, Secret]] = field(default_factory=dict)

    @property
    def cluster(self) -> str:
        """What kind calls the cluster: it carries the run's id, and so do its containers."""
        return self.name if self.name.startswith(self.run_id) else f"{self.run_id}-{self.name}"

    @property
    def air_gapped(self) -> bool:
        """Whether the node pulls from the bundle's registry and nowhere else."""
        return self.storage is not None


def hosts_toml(options: KindOptions, registry: str) -> str:
    """containerd's hosts.toml for a registry (containerd's docs/hosts.md); empty: nothing is changed.

    In a bundle's registry a repository is called after its upstream host, hence the path.
    """
    if registry in options.unreachable_registries:
        return _nothing_but(_CLOSED)
    if options.air_gapped and registry in options.upstream_registries:
        return _nothing_but(f"http://127.0.0.1:{REGISTRY_PORT}/v2/{registry}")
    mirrors = options.registry_endpoints.get(registry, ())
    return "\n".join(f'[host."{url}"]\n  capabilities = ["pull", "resolve"]\n' for url in mirrors)


def _nothing_but(url: str) -> str:
    """Pull from there and nowhere else.

    containerd 1.6 does not read a file that names no host at all, and asks the upstream registry instead.
    """
    path = "override_path = true\n"
    return f'server = "{url}"\n{path}\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n  {path}'


def write(options: KindOptions, socket: Path) -> Path:
    """Write all of it below the state directory, and return kind's configuration file."""
    place = options.state_dir
    mounts = [_mount(place / "certs.d", CERTS_D)]
    for registry in sorted(
        {*options.upstream_registries, *options.registry_endpoints, *options.unreachable_registries}
    ):
        if text := hosts_toml(options, registry):
            (place / "certs.d" / registry).mkdir(parents=True)
            (place / "certs.d" / registry / "hosts.toml").write_text(text)
    (place / "certs.d").mkdir(exist_ok=True)
    if options.registry_program is not None and options.storage is not None:
        settings = place / "registry.yaml"
        settings.write_text(configuration(f"{INSIDE}/storage", "127.0.0.1", REGISTRY_PORT))
        mounts.append(_mount(settings, REGISTRY_CONFIGURATION))
        mounts.append(_mount(options.registry_program, f"{INSIDE}/registry"))
        mounts.append(_mount(options.storage, f"{INSIDE}/storage"))
    if options.registry_auth:
        logins = place / "config.json"
        logins.touch(0o600)
        logins.write_text(json.dumps({"auths": _logins(options)}))
        mounts.append(_mount(logins, "/var/lib/kubelet/config.json"))
    if options.docker_socket:
        mounts.append(_mount(socket, DOCKER_SOCKET, read_only=False))
        mounts.append(_mount(DOCKER_CERTS_D, str(DOCKER_CERTS_D), read_only=False))
    document = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "containerdConfigPatches": [_CONFIG_PATH],
        "nodes": [{"role": "control-plane", "extraMounts": mounts}],
    }
    file = place / "kind.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def _mount(source: Path, target: str, *, read_only: bool = True) -> dict[str, Any]:
    return {"hostPath": str(source.absolute()), "containerPath": target, "readOnly": read_only}


def _logins(options: KindOptions) -> dict[str, dict[str, str]]:
    return {
        host: {"auth": b64encode(f"{user}:{password.reveal()}".encode()).decode()}
        for host, (user, password) in options.registry_auth.items()
    }
