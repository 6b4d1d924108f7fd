"""The newest release of each component: asked at the release sites, or what is known, and from when."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from harness.versions.releases import NEWEST, NEWEST_AS_OF

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Newest:
    """The newest release of a component, and who says so; ``asked`` is False where nobody answered."""

    component: str
    version: str
    source: str
    asked: bool

    def __str__(self) -> str:
        return f"{self.component:<13} {self.version:<14} {self.source}"


@dataclass(frozen=True)
class _Site:
    url: str
    read: Callable[[Any], str]


def _k3s(answer: Any) -> str:
    return next(str(it["latest"]) for it in answer["data"] if it["id"] == "stable")


def _operator(answer: Any) -> str:
    return str(answer["operator"]["version"])


def _tag(answer: Any) -> str:
    return str(answer["tag_name"])


_GITHUB = "https://api.github.com/repos/{}/releases/latest"
SITES: Mapping[str, _Site] = {
    "k3s": _Site("https://update.k3s.io/v1-release/channels", _k3s),
    "cert-manager": _Site(_GITHUB.format("cert-manager/cert-manager"), _tag),
    "olm": _Site(_GITHUB.format("operator-framework/operator-lifecycle-manager"), _tag),
    "operator": _Site("https://operatorhub.io/api/operator?packageName=gitlab-runner-operator", _operator),
    "runner": _Site(
        "https://gitlab.com/api/v4/projects/gitlab-org%2Fgitlab-runner/releases/permalink/latest",
        lambda answer: _tag(answer).removeprefix("v"),
    ),
    "docker": _Site(
        _GITHUB.format("moby/moby"), lambda answer: _tag(answer).removeprefix("docker-").removeprefix("v")
    ),
}


def newest(transport: httpx.BaseTransport | None = None) -> list[Newest]:
    """The newest release of each component; never raises for a site that does not answer."""
    with (
        httpx.Client(timeout=TIMEOUT_S, follow_redirects=True, transport=transport) as client,
        ThreadPoolExecutor(len(SITES)) as pool,
    ):
        return list(pool.map(lambda component: _ask(client, component), SITES))


def _ask(client: httpx.Client, component: str) -> Newest:
    site = SITES[component]
    host = httpx.URL(site.url).host
    try:
        answer = client.get(site.url)
        answer.raise_for_status()
        version = site.read(answer.json())
    except httpx.HTTPStatusError as error:
        why = f"{host} answers {error.response.status_code}"
    except httpx.HTTPError:
        why = f"{host} can't be reached"
    except (ValueError, KeyError, TypeError, StopIteration):
        why = f"{host} answers something else than its list of releases"
    else:
        return Newest(component, version, f"newest, says {host}", asked=True)
    return Newest(component, NEWEST[component], f"known in {NEWEST_AS_OF}; {why}", asked=False)
