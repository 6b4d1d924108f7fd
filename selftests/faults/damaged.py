"""Bundles that are no longer whole: each is refused before anything is made."""

from __future__ import annotations

from selftests.faults.fault import REFUSED, Fault
from selftests.faults.steps import Append, Edit, Remove, Truncate, Withhold

RUNNER = "registry.gitlab.com/gitlab-org/ci-cd/gitlab-runner-ubi-images"

DAMAGED_BUNDLES: tuple[Fault, ...] = (
    Fault(
        "bundle-without-listing",
        "the directory has no bundle.toml",
        REFUSED,
        r"is no bundle: it has no bundle\.toml",
        bundle=(Remove("bundle.toml"),),
    ),
    Fault(
        "bundle-for-arm64",
        "the bundle is for another architecture",
        REFUSED,
        r"is for arm64, this machine is",
        bundle=(Edit("bundle.toml", 'architecture = "amd64"', 'architecture = "arm64"'),),
    ),
    Fault(
        "bundle-unknown-field",
        "bundle.toml has a field that nobody knows",
        REFUSED,
        r"bundle\.toml.*colour",
        bundle=(Edit("bundle.toml", "format = 1", 'format = 1\ncolour = "red"'),),
    ),
    Fault(
        "k3s-tampered",
        "files/k3s is not the one that bundle.toml has the sha256 of",
        REFUSED,
        r"files/k3s was changed: sha256",
        bundle=(Append("files/k3s"),),
    ),
    Fault(
        "manifest-missing",
        "files/cert-manager.yaml is not there",
        REFUSED,
        r"files/cert-manager\.yaml is missing",
        bundle=(Remove("files/cert-manager.yaml"),),
    ),
    Fault(
        "image-missing",
        "an image that bundle.toml promises is not in the registry's storage",
        REFUSED,
        r"not whole: .*gitlab-runner-ocp",
        bundle=(Withhold(f"{RUNNER}/gitlab-runner-ocp:v16.0.1", listed=True),),
    ),
    Fault(
        "layer-truncated",
        "half of a layer of docker:latest is missing",
        REFUSED,
        r"a layer of .* is truncated",
        bundle=(Truncate("docker.io/library/docker:latest"),),
    ),
)
