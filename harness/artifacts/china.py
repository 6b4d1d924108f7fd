"""Artifacts by way of mirrors in China: k3s as INSTALL_K3S_MIRROR=cn fetches it, images from mirrors.

cert-manager and OLM have no mirror of their own: where GitHub can't be reached, RUNNER_CONFORMANCE_GITHUB
names a mirror laid out like it, or a bundle brings the files (how-to: GitHub unreachable).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from harness.artifacts.download import Downloader
from harness.artifacts.upstream import GITHUB, OPERATORHUB, UpstreamArtifacts
from harness.profile import Profile

RANCHER_MIRROR = "https://rancher-mirror.rancher.cn"
GITHUB_VARIABLE = "RUNNER_CONFORMANCE_GITHUB"

REGISTRY_MIRRORS: Mapping[str, tuple[str, ...]] = {
    "docker.io": ("https://docker.m.daocloud.io",),
    "gcr.io": ("https://gcr.m.daocloud.io",),
    "quay.io": ("https://quay.m.daocloud.io",),
    "registry.k8s.io": ("https://k8s.m.daocloud.io",),
}
"""Public mirrors of DaoCloud (public-image-mirror); registry.gitlab.com has none and needs none."""


class ChinaArtifacts(UpstreamArtifacts):
    """As upstream, with the k3s release and images from mirrors."""

    label = "china"

    def __init__(
        self,
        profile: Profile,
        downloader: Downloader | None = None,
        *,
        rancher: str = RANCHER_MIRROR,
        github: str | None = None,
        operatorhub: str = OPERATORHUB,
    ) -> None:
        chosen = github or os.environ.get(GITHUB_VARIABLE) or GITHUB
        super().__init__(profile, downloader, github=chosen, operatorhub=operatorhub)
        self.rancher = rancher

    def k3s_url(self, file: str) -> str:
        """As the mirror's install script has it: the "+" of the version becomes a "-"."""
        return f"{self.rancher}/k3s/{self.profile.k3s.replace('+', '-')}/{file}"

    def registry_endpoints(self) -> Mapping[str, tuple[str, ...]]:
        return REGISTRY_MIRRORS
