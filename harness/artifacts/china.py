"""Artifacts by way of mirrors in China: k3s as INSTALL_K3S_MIRROR=cn fetches it, images from mirrors.

cert-manager, OLM and operatorhub.io have no mirror of their own: where they can't be reached,
RUNNER_CONFORMANCE_GITHUB and RUNNER_CONFORMANCE_OPERATORHUB name mirrors laid out like them, or a bundle
brings the files (how-to: GitHub unreachable).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.artifacts.download import Downloader
from harness.artifacts.upstream import UpstreamArtifacts
from harness.profile import Profile

RANCHER_MIRROR = "https://rancher-mirror.rancher.cn"

REGISTRY_MIRRORS: Mapping[str, tuple[str, ...]] = {
    "docker.io": ("https://docker.m.daocloud.io",),
    "gcr.io": ("https://gcr.m.daocloud.io",),
    "quay.io": ("https://quay.m.daocloud.io",),
    "registry.k8s.io": ("https://k8s.m.daocloud.io",),
}
"""Public mirrors of DaoCloud (public-image-mirror), which serve what is on their list; for the rest the
registry itself is asked. registry.gitlab.com has none and needs none."""


class ChinaArtifacts(UpstreamArtifacts):
    """As upstream, with the k3s release and images from mirrors."""

    label = "china"
    mirrors = REGISTRY_MIRRORS

    def __init__(
        self,
        profile: Profile,
        downloader: Downloader | None = None,
        *,
        rancher: str = RANCHER_MIRROR,
        **more: Any,
    ) -> None:
        super().__init__(profile, downloader, **more)
        self.rancher = rancher

    def k3s_url(self, file: str) -> str:
        """As the mirror's install script has it: the "+" of the version becomes a "-"."""
        return f"{self.rancher}/k3s/{self.profile.k3s.replace('+', '-')}/{file}"
