"""Which versions go together, before anything starts: what is refused, and what is only noted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.versions import facts
from harness.versions.releases import KNOWN
from harness.versions.table import version_tuple

if TYPE_CHECKING:
    from harness.profile import Profile

MINIMUM_KUBERNETES = (1, 21, 1)
MINIMUM_CERT_MANAGER = (1, 7, 1)
"""Both are prerequisites that the how-to names in its introduction."""


def refuse_conflicts(profile: Profile) -> None:
    """Raises UsageError with the sentence that names the conflict: versions that don't exist, are older than
    the prerequisites, or exclude each other."""
    _refuse_unknown(profile)
    kubernetes = version_tuple(profile.k3s)
    if kubernetes < MINIMUM_KUBERNETES:
        raise UsageError(
            f"{profile.k3s} is too old: the operator needs Kubernetes 1.21.1 or newer (how-to, introduction)",
            "choose a newer --k3s-version",
        )
    if version_tuple(profile.cert_manager) < MINIMUM_CERT_MANAGER:
        raise UsageError(
            f"cert-manager {profile.cert_manager} is too old: the operator needs 1.7.1 "
            "(how-to, introduction)",
            "choose a newer --cert-manager-version",
        )
    wish = profile.operator
    needed = max(wish.minimum_kubernetes, facts.OPERATOR_KUBERNETES.at(wish.version), key=version_tuple)
    if kubernetes < version_tuple(needed):
        raise UsageError(
            f"operator {wish.version} needs Kubernetes {needed} (its minKubeVersion), {profile.k3s} is older",
            "choose a newer --k3s-version or an older --operator-version",
        )
    supported = facts.CERT_MANAGER_KUBERNETES.at(profile.cert_manager)
    if kubernetes[:2] < (1, supported.oldest):
        raise UsageError(
            f"cert-manager {profile.cert_manager} supports Kubernetes {supported}, {profile.k3s} is older",
            "choose a newer --k3s-version or an older --cert-manager-version",
        )
    _refuse_pair(profile)
    shipped = facts.SHIPPED_RUNNER.get(wish.version, profile.runner)
    if shipped != profile.runner:
        raise UsageError(
            f"operator {wish.version} ships Runner {shipped}, and Runner {profile.runner} is asked for",
            "leave --runner-version out, or choose the operator that ships it",
        )


def kubernetes_of(node_image: str) -> str:
    """``v1.34.0`` of kindest/node:v1.34.0@sha256:…; empty for a tag that is no version."""
    found = re.search(r":(v\d+\.\d+\.\d+[^@/]*)(@|$)", node_image)
    return found[1] if found else ""


def _refuse_pair(profile: Profile) -> None:
    """Refuse a client that is known not to speak to its service; of a tag like `latest` nothing is known."""
    client, engine = (re.search(r":(\d+\.\d+\.\d+)", it) for it in (profile.jobs.docker, profile.jobs.dind))
    if client is None or engine is None:
        return
    oldest, api = facts.OLDEST_ENGINE_API.at(client[1]), facts.ENGINE_API.row(engine[1]).value
    if api < oldest:
        raise UsageError(
            f"{profile.jobs.docker} speaks to engines from API {oldest[0]}.{oldest[1]} on, "
            f"and {profile.jobs.dind} has API {api[0]}.{api[1]}",
            "choose a client and a service of one release in the profile's [jobs]",
        )


def _refuse_unknown(profile: Profile) -> None:
    if version_tuple(profile.olm) >= (1, 0, 0):
        raise UsageError(
            f"OLM {profile.olm} is another API: the how-to's Subscription needs a release of the v0 line",
            f"the newest known is v{KNOWN['olm'].newest}",
        )
    for component, releases in KNOWN.items():
        version = profile.requested[component]
        instead = releases.why_not(version)
        minimum = {"k3s": MINIMUM_KUBERNETES, "cert-manager": MINIMUM_CERT_MANAGER}.get(component)
        if instead and not (minimum and version_tuple(version) < minimum):
            raise UsageError(
                f"{component} {version} does not exist: {instead}",
                f"choose another --{component}-version; the newest known is {releases.newest}",
            )


def notes(profile: Profile, node_image: str | None = None) -> tuple[str, ...]:
    """What is to be known of the versions though it forbids nothing, one sentence each.

    ``node_image``: kind's, which has its own Kubernetes in k3s's place; its tag is the version, if it is one.
    """
    return tuple(_notes(profile, node_image))


def _notes(profile: Profile, node_image: str | None) -> Iterator[str]:
    for component, releases in KNOWN.items():
        version = profile.requested[component]
        if component == "k3s" and node_image is not None:
            continue
        if releases.is_newer(version):
            yield (
                f"{component} {version} is newer than what the table of versions knows "
                f"({releases.newest}, {releases.as_of}): it is judged by the newest rows"
            )
    kubernetes = profile.k3s if node_image is None else kubernetes_of(node_image)
    if not kubernetes:
        return
    minor = version_tuple(kubernetes)[1]
    supported = facts.CERT_MANAGER_KUBERNETES.at(profile.cert_manager)
    if minor > supported.newest and not KNOWN["cert-manager"].is_newer(profile.cert_manager):
        yield (
            f"cert-manager {profile.cert_manager} supports Kubernetes {supported}; "
            f"{kubernetes} is newer than its maintainers tested"
        )
    built = facts.OLM_KUBERNETES.at(profile.olm)
    if minor > built + 1 and not KNOWN["olm"].is_newer(profile.olm):
        yield (
            f"OLM {profile.olm} is built for Kubernetes 1.{built}; "
            f"{kubernetes} is more than one minor release newer"
        )
