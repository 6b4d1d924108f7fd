"""Acceptance of a stack that was there before: its outcomes are verified, and nothing of it changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.attach import attach
from harness.cluster import K3sCluster
from harness.gitlab.client import GitLabTarget, connect
from harness.kube import KindUnknown, Kube
from harness.ownership import HOME_VARIABLE
from selftests.e2e.command_line import ROOT, Host
from selftests.e2e.nodes import options

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making a cluster needs root")

STORIES = ("kube-rbac-proxy", "offline")
"""Sections that break things; they are told on a second cluster, which is not made beside somebody's."""
KINDS = (
    "v1/Namespace",
    "v1/Pod",
    "v1/Secret",
    "v1/ConfigMap",
    "v1/Service",
    "v1/ServiceAccount",
    "v1/ResourceQuota",
    "apps/v1/Deployment",
    "rbac.authorization.k8s.io/v1/Role",
    "rbac.authorization.k8s.io/v1/RoleBinding",
    "rbac.authorization.k8s.io/v1/ClusterRole",
    "rbac.authorization.k8s.io/v1/ClusterRoleBinding",
    "apiextensions.k8s.io/v1/CustomResourceDefinition",
    "apiregistration.k8s.io/v1/APIService",
    "admissionregistration.k8s.io/v1/MutatingWebhookConfiguration",
    "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration",
    "cert-manager.io/v1/Certificate",
    "cert-manager.io/v1/Issuer",
    "operators.coreos.com/v1/OperatorGroup",
    "operators.coreos.com/v1alpha1/CatalogSource",
    "operators.coreos.com/v1alpha1/ClusterServiceVersion",
    "operators.coreos.com/v1alpha1/InstallPlan",
    "operators.coreos.com/v1alpha1/Subscription",
    "apps.gitlab.com/v1beta2/Runner",
)


def inventory(kube: Kube) -> set[str]:
    """Every object by kind, name, uid and generation: what is changed, replaced, new or gone differs."""
    found = set()
    for kind in KINDS:
        try:
            items = kube.list(kind)
        except KindUnknown:
            continue
        for item in items:
            data = item["metadata"]
            where = f"{data.get('namespace', '')}/{data['name']}"
            found.add(f"{kind} {where} {data['uid']} {data.get('generation', '')}")
    return found


@dataclass(frozen=True)
class Acceptance:
    """pytest on somebody's cluster, as they would type it."""

    kubeconfig: Path
    bundle: Path
    scratch: Path

    def run(self, *words: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        """How it ended, and conformance.json."""
        report = self.scratch / "report"
        where = ["--cluster", "existing", "--make-runners"]
        where += ["--kubeconfig", str(self.kubeconfig), "--context", "default"]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--report-dir", str(report)]
        done = subprocess.run(
            [*command, *where, "--artifacts", str(self.bundle), *words],
            cwd=ROOT,
            env={**os.environ, HOME_VARIABLE: str(self.scratch / "state")},
            capture_output=True,
            text=True,
            timeout=600,
        )
        return done, json.loads((report / "conformance.json").read_text())


def statuses(document: dict[str, Any]) -> dict[str, str]:
    return {entry["id"]: entry["status"] for entry in document["outcomes"]}


def test_a_stack_that_was_there_is_verified_and_stays_as_it_was(
    host: Host, bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its GitLab is named as a user's own: by URL, token and CA, with a registry that the CA signed."""
    host.up("theirs", bundle_dir)
    monkeypatch.setenv(HOME_VARIABLE, str(host.home))
    theirs = attach("theirs")
    target: GitLabTarget = theirs.results["gitlab"]
    assert target.registry_ca is not None
    token = tmp_path / "token"
    token.write_text(target.token.reveal())
    gl = connect(target)
    before, projects = inventory(theirs.kube), sorted(it.id for it in gl.projects.list(get_all=True))
    runners = sorted(it.id for it in gl.runners_all.list(get_all=True))

    acceptance = Acceptance(theirs.cluster.kubeconfig, bundle_dir, tmp_path)
    done, document = acceptance.run(
        *("--gitlab-url", target.url, "--gitlab-token-file", str(token)),
        *("--gitlab-ca-file", str(target.registry_ca), "tests"),
    )

    assert done.returncode == 0, done.stdout[-6000:]
    assert document["verdict"]["text"] == "CONFORMS (rehearsal)"
    found = statuses(document)
    not_applicable = {outcome for outcome, status in found.items() if status == "not applicable"}
    assert not_applicable == {
        "cluster/k3s-version",
        "cluster/node-version",
        "docker-sock/node-without-docker",
        *(outcome for outcome in found if outcome.startswith(STORIES)),
    }
    assert inventory(theirs.kube) ^ before == set()
    assert sorted(it.id for it in gl.projects.list(get_all=True)) == projects
    assert sorted(it.id for it in gl.runners_all.list(get_all=True)) == runners
    assert not list((tmp_path / "state").rglob("*.json"))


@pytest.fixture
def bare(bundle_dir: Path, tmp_path: Path) -> Iterator[K3sCluster]:
    """A cluster on which nothing is installed."""
    cluster = K3sCluster(options(bundle_dir, tmp_path / "cluster", "bare"))
    cluster.start()
    yield cluster
    cluster.stop()


def test_nothing_is_installed_on_a_cluster_that_was_there(
    bare: K3sCluster, bundle_dir: Path, tmp_path: Path
) -> None:
    kube = Kube(bare.kubeconfig)
    before = {it["metadata"]["name"] for it in kube.list("v1/Namespace")}
    done, document = Acceptance(bare.kubeconfig, bundle_dir, tmp_path).run("tests")
    assert done.returncode == 1, done.stdout[-6000:]
    assert "passed" in statuses(document)["cluster/pod-runs"]
    reasons = {entry["id"]: entry["reason"] for entry in document["outcomes"]}
    assert "cert-manager is not ready on this cluster" in reasons["cert-manager/crds"]
    assert {it["name"]: it["reason"] for it in document["phases"]}["gitlab"].startswith(
        "the pods of this cluster can't reach a GitLab that is embedded here"
    )
    told = {status for outcome, status in statuses(document).items() if outcome.startswith(STORIES)}
    assert told <= {"not applicable", "blocked"}
    assert {it["metadata"]["name"] for it in kube.list("v1/Namespace")} == before
    assert kube.list("apiextensions.k8s.io/v1/CustomResourceDefinition") == []
