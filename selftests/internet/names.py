"""Who is who in the pretend internet, and the addresses that it uses (RFC 5737: documentation only)."""

from __future__ import annotations

from dataclasses import dataclass

SITES = "203.0.113.10"
"""Every web server."""
SILENT = "203.0.113.66"
"""Nobody listens there: where a blocked name leads."""
OUTSIDE = "198.51.100.1"
"""The far end of the pretend host's line; name server, and the proxy where there is one."""
HOST = "198.51.100.2"
PROXY_PORT = 3128

GITHUB_FILES = "objects.githubusercontent.com"
CHINA_GITHUB = "github.mirror.example.cn"
CHINA_OPERATORHUB = "operatorhub.mirror.example.cn"


@dataclass(frozen=True)
class Registry:
    """A registry's front: whose images it has, where tokens are given, where blobs are fetched."""

    host: str
    images: str
    realm: str = ""
    service: str = ""
    cdn: str = ""
    elsewhere: str = ""
    """It redirects all of it there, as registry.k8s.io does."""
    lacks: tuple[str, ...] = ()
    """Beginnings of repositories that a mirror does not serve."""


_DAOCLOUD = {"docker": "docker.io", "gcr": "gcr.io", "quay": "quay.io", "k8s": "registry.k8s.io"}
DOCKER_HUB = "registry-1.docker.io"
REGISTRIES = (
    Registry(
        DOCKER_HUB,
        "docker.io",
        "https://auth.docker.io/token",
        "registry.docker.io",
        "production.cloudflare.docker.com",
    ),
    Registry("quay.io", "quay.io", "https://quay.io/v2/auth", "quay.io", "cdn01.quay.io"),
    Registry("gcr.io", "gcr.io", "https://gcr.io/v2/token", "gcr.io", "storage.googleapis.com"),
    Registry("registry.k8s.io", "registry.k8s.io", elsewhere="europe-west3-docker.pkg.dev"),
    Registry("europe-west3-docker.pkg.dev", "registry.k8s.io"),
    Registry(
        "registry.gitlab.com",
        "registry.gitlab.com",
        "https://gitlab.com/jwt/auth",
        "container_registry",
        "cdn.registry.gitlab-static.net",
    ),
    *(
        Registry(
            f"{name}.m.daocloud.io",
            images,
            "https://m.daocloud.io/auth/token",
            "m.daocloud.io",
            "cdn.m.daocloud.io",
            lacks=("operatorhubio/", "kubesphere/"),
        )
        for name, images in _DAOCLOUD.items()
    ),
)

GONE = ("kubebuilder/kube-rbac-proxy",)
"""Taken from gcr.io for everybody in March 2026."""

WEB = (
    "github.com",
    GITHUB_FILES,
    "operatorhub.io",
    "rancher-mirror.rancher.cn",
    CHINA_GITHUB,
    CHINA_OPERATORHUB,
    "auth.docker.io",
    "gitlab.com",
    "m.daocloud.io",
)
ALL = tuple(dict.fromkeys((*WEB, *(it.host for it in REGISTRIES), *(it.cdn for it in REGISTRIES if it.cdn))))
BLOCKED_IN_CHINA = ("github.com", GITHUB_FILES, "operatorhub.io", DOCKER_HUB, "gcr.io", "auth.docker.io")
"""Roughly what the how-to's reader on a server in China can't reach."""
