"""Other names than the how-to's, and more than one of a thing: right answers, right questions."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selftests.acceptance.accepting import accept
from selftests.acceptance.lab import PROJECT, Lab, await_ready, second_runner
from selftests.e2e.by_hand import CSV, DEPLOYMENT, SUBSTITUTE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making a node needs root")

SPACE = "gitlab-runner-system"
RUNNERS = ("tests/s05_runner",)


@pytest.fixture(scope="module")
def in_ci(lab: Lab) -> Iterator[None]:
    """A second Runner, in namespace ``ci``."""
    with second_runner(lab, "ci", "builder"):
        yield


@pytest.fixture
def by_manifest(lab: Lab) -> Iterator[None]:
    """A second operator, by a manifest with the Deployment and rights of the CSV, without its webhooks."""
    printed = lab.shell.types(f"kubectl -n operators get csv {CSV} -o json")
    install = json.loads(printed)["spec"]["install"]["spec"]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests(install)})
    lab.shell.types(f"printf %s {shlex.quote(text)} | kubectl apply -f -")
    try:
        await_ready(lab, SPACE, DEPLOYMENT)
        yield
    finally:
        lab.shell.types(f"kubectl delete clusterrole,clusterrolebinding {SPACE}")
        lab.shell.types(f"kubectl delete namespace {SPACE} --wait=true")


def manifests(install: dict[str, Any]) -> list[dict[str, Any]]:
    spec = install["deployments"][0]["spec"]
    pod = spec["template"]["spec"]
    del pod["volumes"]
    for container in pod["containers"]:
        container.pop("volumeMounts", None)
        container.pop("env", None)
        if container["name"] == "kube-rbac-proxy":
            container["image"] = SUBSTITUTE
    rules = [it for part in ("clusterPermissions", "permissions") for it in install[part][0]["rules"]]
    rbac = "rbac.authorization.k8s.io"
    role = {"apiGroup": rbac, "kind": "ClusterRole", "name": SPACE}
    account = {"kind": "ServiceAccount", "name": "default", "namespace": SPACE}
    wide, named = {"name": SPACE}, {"name": DEPLOYMENT, "namespace": SPACE}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": wide},
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": wide, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": wide,
            "roleRef": role,
            "subjects": [account],
        },
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": named, "spec": spec},
    ]


def test_a_build_on_one_of_two_runners_is_asked_back(lab: Lab, in_ci: None, tmp_path: Path) -> None:
    ended = accept(lab, tmp_path, "--with-pipeline", f"--gitlab-project={PROJECT}", tests=RUNNERS)
    assert ended.code == 4, ended.output[-5000:]
    assert "name one of them: --runner" in ended.output


def test_of_two_operators_the_one_by_manifest_is_named(lab: Lab, by_manifest: None, tmp_path: Path) -> None:
    ended = accept(lab, tmp_path, tests=("tests/s04_operator",))
    assert ended.code == 4, ended.output[-5000:]
    assert f"in namespaces {SPACE}, operators" in ended.output
    assert "--operator-namespace" in ended.output
    ended = accept(lab, tmp_path, f"--operator-namespace={SPACE}", tests=("tests/s04_operator",))
    assert f"operator 1.15.1 in namespace {SPACE}, installed by a manifest" in ended.output
    assert {"operator/controller", "operator/crd"} <= ended.with_status("passed"), ended.output[-5000:]
    assert "installed by a manifest" in ended.outcomes["operator/csv"]["reason"]
