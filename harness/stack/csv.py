"""What a ClusterServiceVersion says of its operator: Deployments, containers, images, webhooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.kube import Object
from harness.profile import Profile
from harness.versions import facts

RELATED_HELPER = "RELATED_IMAGE_GITLAB_RUNNER_HELPER"
PROXY = "kube-rbac-proxy"


def deployments(csv: Mapping[str, Any]) -> list[Object]:
    """The Deployments that a CSV asks for: name and spec."""
    return list(csv["spec"].get("install", {}).get("spec", {}).get("deployments", ()))


def containers(csv: Mapping[str, Any]) -> Iterator[Object]:
    """The containers of all its Deployments."""
    for deployment in deployments(csv):
        yield from deployment["spec"]["template"]["spec"]["containers"]


def webhooks(csv: Mapping[str, Any]) -> list[str]:
    """The names of its webhooks; an operator may have none."""
    return sorted(str(it["generateName"]) for it in csv["spec"].get("webhookdefinitions") or ())


def helper_image(csv: Mapping[str, Any], profile: Profile) -> str:
    """The runner's helper image: by digest where the CSV names it, else by the tag of the Runner it ships."""
    for container in containers(csv):
        for variable in container.get("env") or ():
            if variable["name"] == RELATED_HELPER and variable.get("value"):
                return str(variable["value"])
    return f"{facts.HELPER_REPOSITORY}:v{profile.runner}"


def substituted(csv: Mapping[str, Any], profile: Profile) -> dict[str, str]:
    """Of the profile's image substitutions those whose image the CSV has."""
    images = {container["image"] for container in containers(csv)}
    return {old: new for old, new in profile.image_substitutions.items() if old in images}
