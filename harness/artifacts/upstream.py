"""Artifacts from where the documented commands download them: GitHub releases and operatorhub.io."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from harness.artifacts.download import Downloader, DownloadError, architecture, k3s_file_name
from harness.profile import Profile

GITHUB = "https://github.com"
OPERATORHUB = "https://operatorhub.io"


class UpstreamArtifacts:
    """Releases of the projects themselves; each file is fetched when it is first asked for.

    ``github`` and ``operatorhub`` are base URLs: a company's mirror that is laid out like the original.
    """

    label = "upstream"

    def __init__(
        self,
        profile: Profile,
        downloader: Downloader | None = None,
        *,
        github: str = GITHUB,
        operatorhub: str = OPERATORHUB,
    ) -> None:
        self.profile = profile
        self.downloader = downloader or Downloader()
        self.github = github
        self.operatorhub = operatorhub

    @property
    def source(self) -> str:
        return f"{self.label} ({self.k3s_url('').rstrip('/')}, {self.github}, {self.operatorhub})"

    @property
    def rehearsal(self) -> tuple[str, ...]:
        return ()

    @property
    def versions(self) -> Mapping[str, str]:
        return self.profile.requested

    @property
    def stands_for(self) -> Mapping[str, str]:
        return {}

    def k3s_url(self, file: str) -> str:
        """Where a file of the k3s release lies."""
        return f"{self.github}/k3s-io/k3s/releases/download/{quote(self.profile.k3s, safe='')}/{file}"

    def k3s(self) -> Path:
        """The binary, checked against the release's sha256sum file."""
        name = k3s_file_name()
        sums = self.downloader.text(self.k3s_url(f"sha256sum-{architecture()}.txt"))
        return self.downloader.fetch(
            self.k3s_url(name), sha256=checksum_of(name, sums, self.k3s_url("")), executable=True
        )

    def manifest(self, name: str) -> Path:
        if name == "gitlab-runner-operator.yaml":
            wish = self.profile.operator
            url = f"{self.operatorhub}/install/{wish.channel}/{wish.package}.yaml"
            return self.downloader.fetch(url, immutable=False)
        return self.downloader.fetch(self.manifest_url(name))

    def manifest_url(self, name: str) -> str:
        """Where a release's manifest lies."""
        if name == "cert-manager.yaml":
            project, version = "cert-manager/cert-manager", self.profile.cert_manager
        elif name in ("crds.yaml", "olm.yaml"):
            project, version = "operator-framework/operator-lifecycle-manager", self.profile.olm
        else:
            raise DownloadError(f"no release is known to hold {name}")
        return f"{self.github}/{project}/releases/download/{version}/{name}"

    def registry(self) -> tuple[Path, Path] | None:
        return None

    def registry_endpoints(self) -> Mapping[str, tuple[str, ...]]:
        return {}

    def docker_engine(self) -> Path | None:
        return None

    def images(self) -> tuple[str, ...]:
        return ()


def checksum_of(name: str, sums: str, where: str) -> str:
    """The sha256 of ``name`` in a sha256sum file; its lines are "<hash>  <name>"."""
    for line in sums.splitlines():
        digest, _, file = line.strip().partition(" ")
        if file.strip().lstrip("*") == name and len(digest) == 64:
            return digest.lower()
    raise DownloadError(f"the checksum file of {where} doesn't name {name}", "is the release complete?")
