"""What a ClusterServiceVersion says of its operator: Deployments, containers, images, webhooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.diagnosis import Fact, Reason, classify
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


def why_not_succeeded(csv: Mapping[str, Any]) -> Reason | None:
    """What a rule knows of the phase, reason and message that OLM gives; None where none does."""
    metadata, status = csv["metadata"], csv.get("status", {})
    said = (status.get("phase", "without a phase"), status.get("reason"), status.get("message"))
    text = f"CSV {metadata['name']} is {': '.join(it for it in said if it)}"
    where = f"namespace {metadata.get('namespace', '')}"
    return classify([Fact("condition", where, text, subject=metadata["name"], seen=csv)])


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
