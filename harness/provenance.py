"""Which parts of a running stack are stand-ins: read from what is found on it, never from an option.

Every image of the lab says in its labels what it is (`io.runner-conformance.provenance`, `.component`,
`.version`), and its k3s has a version of its own (`+lab1`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness.artifacts import Artifacts
from harness.cluster import NODE_SHELL, Cluster
from harness.errors import HarnessError
from harness.kube import Kube

LABEL = "io.runner-conformance."
REAL = "real"
STAND_IN = "stand-in"
_OWN_K3S = re.compile(r"\+lab\d+$")
# Configurations of the node's images are files of containerd's content store; layers are larger.
_CONFIGURATIONS = """
store=io.containerd.content.v1.content/blobs/sha256
{ cd "/var/lib/rancher/k3s/agent/containerd/$store" 2>/dev/null || cd "/var/lib/containerd/$store"; } &&
find . -type f -size -256k -exec grep -l -F io.runner-conformance.provenance {} + |
while read -r file; do cat "$file"; echo; done
"""


@dataclass(frozen=True)
class Found:
    """A stand-in that runs, or is on the node to be run."""

    component: str
    version: str


def stand_ins(kube: Kube, cluster: Cluster, artifacts: Artifacts) -> tuple[Found, ...]:
    """The stand-ins found, by component, sorted. Raises HarnessError where the cluster can't be asked."""
    return _sorted([*_on_nodes(kube), *_labelled(_labels(kube, cluster, artifacts))])


def _on_nodes(kube: Kube) -> Iterator[Found]:
    for node in kube.list("v1/Node"):
        version = str(node["status"]["nodeInfo"]["kubeletVersion"])
        if _OWN_K3S.search(version):
            yield Found("k3s", version)


def _labelled(images: Iterable[Mapping[str, str]]) -> Iterator[Found]:
    for labels in images:
        component = labels.get(f"{LABEL}component", "")
        if component and labels.get(f"{LABEL}provenance", REAL) != REAL:
            yield Found(component, labels.get(f"{LABEL}version", ""))


def _sorted(found: Iterable[Found]) -> tuple[Found, ...]:
    """By component, each once."""
    named = {it.component: it for it in found}
    return tuple(named[name] for name in sorted(named))


def _labels(kube: Kube, cluster: Cluster, artifacts: Artifacts) -> Iterable[Mapping[str, str]]:
    """Labels of the images on the node; where it gives no shell, of those that run and the artifacts know."""
    if NODE_SHELL in cluster.abilities:
        done = cluster.node_shell(["sh", "-c", _CONFIGURATIONS])
        yield from (_labels_of(line) for line in done.stdout.splitlines())
        return
    for image in sorted(_running(kube)):
        yield _labels_of(artifacts.image_configuration(image))


def _running(kube: Kube, namespace: str | None = None) -> set[str]:
    """References by digest of the images that pods run, in one namespace or in all."""
    statuses = [
        status
        for pod in kube.list("v1/Pod", namespace)
        for kind in ("containerStatuses", "initContainerStatuses")
        for status in pod.get("status", {}).get(kind, ())
    ]
    found = {str(status.get("imageID", "")).rpartition("://")[2] for status in statuses}
    return {image for image in found if "@sha256:" in image}


def _labels_of(configuration: str) -> Mapping[str, str]:
    try:
        document: Any = json.loads(configuration)
        labels = document["config"]["Labels"]
    except (ValueError, KeyError, TypeError):
        return {}
    return labels if isinstance(labels, dict) else {}


def look(kube: Kube, cluster: Cluster, artifacts: Artifacts) -> tuple[Found, ...]:
    """As ``stand_ins``; nothing where a cluster that has failed can't be asked any more."""
    try:
        return stand_ins(kube, cluster, artifacts)
    except HarnessError:
        return ()


def running_stand_ins(
    kube: Kube, artifacts: Artifacts, namespaces: Iterable[str]
) -> tuple[tuple[Found, ...], int]:
    """Stand-ins among the nodes and the pods of ``namespaces``; of how many images nothing is known.

    For a cluster of somebody's, which may hold hundreds of images that are no part of the stack.
    """
    found: list[Found] = []
    with suppress(HarnessError):
        found += _on_nodes(kube)
    images: set[str] = set()
    for namespace in dict.fromkeys(namespaces):
        with suppress(HarnessError):
            images |= _running(kube, namespace)
    configurations = [artifacts.image_configuration(image) for image in sorted(images)]
    found += _labelled(map(_labels_of, configurations))
    return _sorted(found), configurations.count("")
