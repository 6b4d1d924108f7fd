"""Artifacts from where the documented commands download them: GitHub releases, operatorhub.io, registries."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from harness.artifacts import engine
from harness.artifacts.download import Downloader, architecture, k3s_file_name
from harness.artifacts.pull import Connect, Pulled, Registries
from harness.artifacts.registry_auth import Credentials
from harness.artifacts.storage import ImageRef
from harness.ownership import cache_dir
from harness.profile import Profile
from harness.stack.images import engine_image
from harness.web import WebProblem

GITHUB = "https://github.com"
OPERATORHUB = "https://operatorhub.io"
GITHUB_VARIABLE = "RUNNER_CONFORMANCE_GITHUB"
OPERATORHUB_VARIABLE = "RUNNER_CONFORMANCE_OPERATORHUB"


class UpstreamArtifacts:
    """Releases of the projects themselves; each file is fetched when it is first asked for.

    ``github`` and ``operatorhub`` are base URLs: a company's mirror that is laid out like the original. The
    variables RUNNER_CONFORMANCE_GITHUB and RUNNER_CONFORMANCE_OPERATORHUB name them where they are not given.
    """

    label = "upstream"
    mirrors: Mapping[str, tuple[str, ...]] = {}
    """Registry host → URLs that are asked before the registry itself."""

    def __init__(
        self,
        profile: Profile,
        downloader: Downloader | None = None,
        *,
        github: str = "",
        operatorhub: str = "",
        credentials: Credentials | None = None,
        connect: Connect | None = None,
    ) -> None:
        self.profile = profile
        self.downloader = downloader or Downloader()
        self.github = github or os.environ.get(GITHUB_VARIABLE) or GITHUB
        self.operatorhub = operatorhub or os.environ.get(OPERATORHUB_VARIABLE) or OPERATORHUB
        self._credentials = credentials or {}
        self.registries = Registries(self.mirrors, self._credentials, self.downloader, connect)

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
            raise WebProblem(self.github, f"no release is known to hold {name}", "")
        return f"{self.github}/{project}/releases/download/{version}/{name}"

    def registry(self) -> tuple[Path, Path] | None:
        return None

    def registry_endpoints(self) -> Mapping[str, tuple[str, ...]]:
        return self.mirrors

    def registry_auth(self) -> Credentials:
        return self._credentials

    def kind(self) -> Path | None:
        return None  # of PATH, or downloaded where a cluster is made

    def docker_engine(self) -> Path | None:
        return self._docker_engine

    @cached_property
    def _docker_engine(self) -> Path:
        """Made once of each image, and kept beside the downloads."""
        image = engine_image(self.profile)
        pulled = self.registries.pull(ImageRef.parse(image))
        target = cache_dir() / "engines" / engine.file_name(pulled.own.digest)
        if not target.exists():
            engine.write_engine(pulled.layers, target, image)
        return target

    def first_image(self, references: Sequence[str]) -> str:
        return self.registries.first(references)

    def image_source(self, reference: str) -> Pulled:
        return self.registries.pull(ImageRef.parse(reference))

    def image_configuration(self, reference: str) -> str:
        return ""  # would be downloads, of images that somebody else's cluster has taken from anywhere

    def images(self) -> tuple[str, ...]:
        return ()


_SUM = re.compile(r"(?:^|[\s=:])([0-9a-fA-F]{64})(?=\s|$)")


def checksum_of(name: str, sums: str, where: str) -> str:
    """The sha256 of ``name`` in a checksum file of any usual form.

    "<hash>  name" (or " *name", or with a path), "SHA256 (name) = <hash>", "name: <hash>", or, as in a file
    for one asset, the hash alone. Raises WebProblem when the file doesn't name it.
    """
    found = []
    for line in sums.splitlines():
        if match := _SUM.search(line):
            rest = line[: match.start(1)] + line[match.end(1) :]
            words = re.split(r"[\s()=:*]+", rest.replace("SHA256", " "))
            names = [word.rpartition("/")[2] for word in words if word]
            found.append((match[1].lower(), names))
    for digest, names in found:
        if name in names:
            return digest
    if len(found) == 1 and not found[0][1]:
        return found[0][0]
    raise WebProblem(where, f"its checksum file doesn't name {name}", "is the release complete?")
