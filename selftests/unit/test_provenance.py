"""What is a stand-in is read from what runs: labels of images, and the lab's own k3s version."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest

from harness.cluster import NODE_SHELL
from harness.errors import EnvironmentProblem
from harness.options import ProvisionOptions
from harness.plan import subject_of
from harness.profile import load_profile
from harness.provenance import Found, look, stand_ins


def configuration(**labels: str) -> str:
    return json.dumps(
        {"config": {"Labels": {f"io.runner-conformance.{key}": it for key, it in labels.items()}}}
    )


class PlayKube:
    """A cluster with one node and one pod that runs ``image``."""

    def __init__(self, kubelet: str, image: str = "") -> None:
        self._node = {"status": {"nodeInfo": {"kubeletVersion": kubelet}}}
        status = [{"imageID": f"docker-pullable://{image}"}] if image else []
        self._pod = {"status": {"containerStatuses": status}}

    def list(self, kind: str, namespace: str | None = None) -> list[dict[str, Any]]:
        return [self._node] if kind == "v1/Node" else [self._pod]


class PlayNode:
    """A cluster with a shell that prints the configurations of the images on the node."""

    abilities = frozenset({NODE_SHELL})

    def __init__(self, *configurations: str) -> None:
        self._lines = "\n".join(configurations)

    def node_shell(self, argv: Sequence[str], timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(list(argv), 0, self._lines, "")


class NoShell:
    abilities: frozenset[str] = frozenset()


class PlayArtifacts:
    """Artifacts that call themselves real, and know one image by its digest."""

    source = "upstream"
    rehearsal = ()

    def __init__(self, **known: str) -> None:
        self.versions: dict[str, str] = {}
        self.stands_for: dict[str, str] = {}
        self._known = known

    def image_configuration(self, reference: str) -> str:
        return self._known.get(reference.rpartition(":")[2], "")


def test_labels_on_the_node_tell_whatever_the_artifacts_say() -> None:
    node = PlayNode(
        configuration(provenance="stand-in", component="olm", version="v0.26.0"),
        configuration(provenance="real", component="cert-manager", version="v1.7.1"),
        '{"config": {}}',
        "[]",
        "not JSON",
    )
    found = stand_ins(PlayKube("v1.28.5+k3s1"), node, PlayArtifacts())  # type: ignore[arg-type]
    assert found == (Found("olm", "v0.26.0"),)


@pytest.mark.parametrize(
    ("version", "found"),
    [("v1.28.15+lab1", (Found("k3s", "v1.28.15+lab1"),)), ("v1.28.5+k3s1", ()), ("v1.28.5+labor", ())],
)
def test_the_labs_k3s_says_so_in_its_version(version: str, found: tuple[Found, ...]) -> None:
    assert stand_ins(PlayKube(version), NoShell(), PlayArtifacts()) == found  # type: ignore[arg-type]


def test_without_a_shell_the_running_images_are_looked_up_by_digest() -> None:
    kube = PlayKube("v1.30.0", "quay.io/operator-framework/olm@sha256:abc")
    artifacts = PlayArtifacts(abc=configuration(provenance="stand-in", component="olm", version="v0.26.0"))
    assert stand_ins(kube, NoShell(), artifacts) == (Found("olm", "v0.26.0"),)  # type: ignore[arg-type]


def test_a_cluster_that_is_gone_tells_nothing_and_stops_nothing() -> None:
    class Gone:
        def list(self, kind: str, namespace: str | None = None) -> list[object]:
            raise EnvironmentProblem("nobody answers")

    assert look(Gone(), NoShell(), PlayArtifacts()) == ()  # type: ignore[arg-type]


def test_what_was_found_makes_the_run_a_rehearsal() -> None:
    profile, options = load_profile("seed"), ProvisionOptions()
    before = subject_of(profile, PlayArtifacts(), options)  # type: ignore[arg-type]
    assert before.rehearsal == ()
    found = (Found("olm", "v0.26.0"), Found("pause", "lab1"))
    after = subject_of(profile, PlayArtifacts(), options, found)  # type: ignore[arg-type]
    assert after.rehearsal == ("olm", "pause")
