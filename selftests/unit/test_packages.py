"""What is read of a package and of a CSV, in the forms of several versions of OLM and of the operator."""

from __future__ import annotations

from typing import Any

import pytest

from harness.profile import load_profile
from harness.stack import csv
from harness.stack.packages import may_offer, why_not_offered

NAME = "gitlab-runner-operator"
WISH = load_profile("seed").operator


def package(head: str, entries: list[str] | None, channel: str = "stable") -> dict[str, Any]:
    """A PackageManifest; OLM before v0.23.0 lists no entries."""
    made: dict[str, Any] = {"name": channel, "currentCSV": f"{NAME}.v{head}"}
    if entries is not None:
        made["entries"] = [{"name": f"{NAME}.v{it}", "version": it} for it in entries]
    return {"metadata": {"name": NAME}, "status": {"channels": [made]}}


@pytest.mark.parametrize(
    ("offered", "why"),
    [
        (package("1.20.0", ["1.20.0", "1.15.1", "1.15.0"]), ""),
        (package("1.20.0", None), ""),
        (package("1.15.1", None), ""),
        (
            package("1.14.0", None),
            f"channel stable of catalog operatorhubio-catalog has only got as far as {NAME}.v1.14.0",
        ),
        (
            package("1.53.0", ["1.53.0", "1.9.0", "1.48.4"]),
            f"channel stable of catalog operatorhubio-catalog does not offer {NAME}.v1.15.1: "
            f"it has 3 versions, from {NAME}.v1.9.0 to {NAME}.v1.53.0",
        ),
        (
            package("1.53.0", ["1.53.0", "1.25.0"]),
            f"channel stable of catalog operatorhubio-catalog no longer offers {NAME}.v1.15.1: "
            f"it has 2 versions, from {NAME}.v1.25.0 to {NAME}.v1.53.0",
        ),
        (package("1.15.1", []), "channel stable of catalog operatorhubio-catalog is empty"),
        (package("1.15.1", None, "beta"), f"package {NAME} has channels ['beta'], not stable"),
    ],
)
def test_what_a_catalog_offers(offered: dict[str, Any], why: str) -> None:
    assert why_not_offered(offered, WISH) == why


def test_whether_a_predecessor_is_on_offer() -> None:
    name = f"{NAME}.v1.15.0"
    assert may_offer(package("1.20.0", ["1.20.0", "1.15.0"]), "stable", name)
    assert may_offer(package("1.20.0", None), "stable", name), "OLM before v0.23 does not say"
    assert not may_offer(package("1.20.0", ["1.20.0"]), "stable", name)
    assert not may_offer(package("1.20.0", None), "beta", name)


def manifest(image: str, variables: dict[str, str], hooks: list[str]) -> dict[str, Any]:
    manager = {
        "name": "manager",
        "image": "m",
        "env": [{"name": k, "value": v} for k, v in variables.items()],
    }
    proxy = {"name": "kube-rbac-proxy", "image": image}
    template = {"spec": {"containers": [proxy, manager]}}
    deployment = {"name": "controller", "spec": {"template": template}}
    spec: dict[str, Any] = {"install": {"spec": {"deployments": [deployment]}}}
    if hooks:
        spec["webhookdefinitions"] = [{"generateName": name} for name in hooks]
    return {"spec": spec}


def test_an_operator_of_the_how_to_s_time() -> None:
    seed = load_profile("seed")
    old = manifest("gcr.io/kubebuilder/kube-rbac-proxy:v0.8.0", {"OPERATOR_NAMESPACE": ""}, ["vrunner.kb.io"])
    assert csv.helper_image(old, seed).endswith("/gitlab-runner-helper-ocp:v16.0.1")
    assert csv.substituted(old, seed) == dict(seed.image_substitutions)
    assert csv.webhooks(old) == ["vrunner.kb.io"]


def test_an_operator_of_today() -> None:
    helper = f"registry.example.com/gitlab-runner-helper-ocp@sha256:{'c' * 64}"
    new = manifest("registry.gitlab.com/ose-kube-rbac-proxy@sha256:e6", {csv.RELATED_HELPER: helper}, [])
    latest = load_profile("latest")
    assert csv.helper_image(new, latest) == helper
    assert csv.substituted(new, load_profile("seed")) == {}
    assert csv.webhooks(new) == []
