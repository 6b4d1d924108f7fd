"""Where the k3s binary, the manifests and the images come from: one protocol, several sources.

``upstream`` and ``china`` download; a bundle directory holds all of it on disk (air gap, lab).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from harness.artifacts.download import Transferred
    from harness.artifacts.registry_auth import Credentials
    from harness.gitlab.registry_client import ImageSource
    from harness.profile import Profile

COMPONENTS = ("k3s", "cert-manager", "olm", "operator", "runner")
"""Components whose version a profile asks for."""

MANIFESTS = ("cert-manager.yaml", "crds.yaml", "olm.yaml", "gitlab-runner-operator.yaml")


ONLINE = ("upstream", "china")
"""Choices that download."""


class Artifacts(Protocol):
    """All that a stack is made of, as local files."""

    @property
    def source(self) -> str:
        """One line: where it comes from and why that was chosen."""

    @property
    def rehearsal(self) -> tuple[str, ...]:
        """Components that are stand-ins, sorted; empty for the real thing."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Component → the version that will be found running."""

    @property
    def stands_for(self) -> Mapping[str, str]:
        """Component → the version it stands for, where that differs from ``versions``."""

    def k3s(self) -> Path:
        """The executable k3s, checksum verified."""

    def manifest(self, name: str) -> Path:
        """A manifest of MANIFESTS as a local file."""

    def registry(self) -> tuple[Path, Path] | None:
        """The registry program and its storage directory; None when images come from the internet."""

    def registry_endpoints(self) -> Mapping[str, tuple[str, ...]]:
        """Upstream registry host → mirror URLs to try first."""

    def docker_engine(self) -> Path | None:
        """The docker engine for the node (a tar relative to /), where there is one."""

    def kind(self) -> Path | None:
        """The program kind, where it comes along."""

    def registry_auth(self) -> Credentials:
        """Registry host → user and password to pull with; those that the user gave."""

    def first_image(self, references: Sequence[str]) -> str:
        """The first of several images that can be had. Raises EnvironmentProblem when none can."""

    def image_source(self, reference: str) -> ImageSource:
        """An image to be copied elsewhere."""

    def image_configuration(self, reference: str) -> str:
        """The configuration (JSON) of an image named by digest; empty where it is not at hand."""

    def images(self) -> tuple[str, ...]:
        """Image references known to be there; empty when nobody can say (internet)."""


def open_artifacts(
    choice: str,
    profile: Profile,
    *,
    report: Callable[[str], None] = lambda line: None,
    transferred: Transferred = lambda name, done, total: None,
    registry_auth: Path | None = None,
    build: bool = True,
) -> Artifacts:
    """Artifacts by the user's choice: ``auto``, ``upstream``, ``china`` or the path of a bundle.

    ``registry_auth``: a file with credentials for registries. ``build``: ``auto`` may let the lab build one.
    Raises UsageError for an unknown choice, EnvironmentProblem when the source doesn't answer.
    """
    # auto needs the protocol above, and brings an HTTP client that a kept stack can do without
    from harness.artifacts.auto import open_artifacts as choose

    return choose(
        choice, profile, report=report, transferred=transferred, registry_auth=registry_auth, build=build
    )
