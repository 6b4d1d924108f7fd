"""Artifacts from a bundle directory: the air gap, and the lab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.artifacts.bundle import Bundle
from harness.artifacts.registry_auth import Credentials
from harness.artifacts.storage import ImageRef, Storage, StorageError
from harness.errors import EnvironmentProblem, UsageError
from harness.profile import Profile

if TYPE_CHECKING:
    from harness.gitlab.registry_client import ImageSource


class BundleArtifacts:
    """A bundle as Artifacts. Raises UsageError when it was made for other versions than the profile's."""

    def __init__(self, bundle: Bundle, profile: Profile, *, why: str = "named by --artifacts") -> None:
        self.bundle = bundle
        self._why = why
        _check(bundle, profile)

    @property
    def source(self) -> str:
        return f"bundle {self.bundle.path} ({self._why})"

    @property
    def rehearsal(self) -> tuple[str, ...]:
        return self.bundle.stand_ins

    @property
    def versions(self) -> Mapping[str, str]:
        return {component.name: component.version for component in self.bundle.components.values()}

    @property
    def stands_for(self) -> Mapping[str, str]:
        parts = self.bundle.components.values()
        return {component.name: component.stands_for for component in parts if component.stands_for}

    def k3s(self) -> Path:
        return self.bundle.file("k3s")

    def manifest(self, name: str) -> Path:
        return self.bundle.file(name)

    def registry(self) -> tuple[Path, Path] | None:
        return self.bundle.file("registry"), self.bundle.storage

    def registry_endpoints(self) -> Mapping[str, tuple[str, ...]]:
        return {}

    def docker_engine(self) -> Path | None:
        return self.bundle.file("docker.tar") if self.bundle.has_file("docker.tar") else None

    def kind(self) -> Path | None:
        return self.bundle.file("kind") if self.bundle.has_file("kind") else None

    def registry_auth(self) -> Credentials:
        return {}  # nothing is pulled from anywhere else

    def first_image(self, references: Sequence[str]) -> str:
        for ref in references:
            if any(image.ref == ref for image in self.bundle.images):
                return ref
        return self.bundle.image(references[0]).ref

    def image_source(self, reference: str) -> ImageSource:
        from harness.gitlab.registry_client import StorageSource

        return StorageSource(Storage(self.bundle.storage))

    def image_configuration(self, reference: str) -> str:
        from harness.gitlab.registry_client import StorageSource

        storage, ref = Storage(self.bundle.storage), ImageRef.parse(reference)
        try:
            manifest = StorageSource(storage).manifest(ref.repository, ref.digest or ref.tag)
            return storage.blob_path(manifest.content["config"]["digest"]).read_text()
        except (EnvironmentProblem, StorageError, ValueError, KeyError, OSError):
            return ""

    def images(self) -> tuple[str, ...]:
        return tuple(image.ref for image in self.bundle.images)


def _check(bundle: Bundle, profile: Profile) -> None:
    """A component must be of the version asked for, or say that it stands for it."""
    wrong = []
    for name, wanted in profile.requested.items():
        component = bundle.components.get(name)
        if component is None:  # the layer that needs it will ask for its file, and be told by name
            continue
        if wanted.removeprefix("v") not in (
            component.version.removeprefix("v"),
            component.stands_for.removeprefix("v"),
        ):
            wrong.append(f"{name} {component.version}, asked for is {wanted}")
    if wrong:
        raise UsageError(
            f"{bundle.path} was made for profile {bundle.profile!r} and holds {'; '.join(wrong)}",
            "choose the profile that it was made for, or make a bundle for this one",
        )
