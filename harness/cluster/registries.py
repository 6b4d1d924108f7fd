"""k3s's registries.yaml for a node."""

from __future__ import annotations

from typing import Any

from harness.cluster.protocol import ClusterOptions

#: Stands for the URL until the keeper has chosen address and port.
LOCAL = "{registry}"
#: Where a person would look for it; another port where this one is taken.
PREFERRED_PORT = 5000
#: The discard service: nothing listens there on the node's own loopback, so a pull is refused at once.
_CLOSED = "http://127.0.0.1:9"


def registries_yaml(options: ClusterOptions, local: str) -> dict[str, Any]:
    """Content of registries.yaml; ``local`` is the URL of the bundle's registry, where there is one.

    In a bundle's registry a repository is called after its upstream host, so each name is rewritten
    (``rewrite``: k3s's documentation, "Private Registry Configuration").
    """
    mirrors: dict[str, Any] = {}
    for registry, urls in options.registry_endpoints.items():
        mirrors[registry] = {"endpoint": list(urls)}
    if options.air_gapped:
        for registry in options.upstream_registries:
            mirrors[registry] = {"endpoint": [local], "rewrite": {"^(.*)$": f"{registry}/$1"}}
    for registry in options.unreachable_registries:
        mirrors[registry] = {"endpoint": [_CLOSED]}
    found: dict[str, Any] = {"mirrors": mirrors}
    if options.registry_auth:
        found["configs"] = {
            host: {"auth": {"username": user, "password": password.reveal()}}
            for host, (user, password) in options.registry_auth.items()
        }
    return found
