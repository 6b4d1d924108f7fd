"""The conformance tests as the acceptance of a stack that a small API server shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.ownership import HOME_VARIABLE
from selftests.unit import their_stack as their
from selftests.unit.fake_cluster import FakeCluster

ROOT = Path(__file__).parents[2]
STACK = tuple(
    f"tests/{it}" for it in ("s01_cluster", "s02_cert_manager", "s03_olm", "s04_operator", "s05_runner")
)


@dataclass
class Ended:
    """How a run ended."""

    code: int
    output: str
    document: dict[str, Any]

    def status(self, outcome: str) -> tuple[str, str]:
        entry = next(it for it in self.document["outcomes"] if it["id"] == outcome)
        return entry["status"], entry["reason"]

    def with_status(self, status: str) -> set[str]:
        return {it["id"] for it in self.document["outcomes"] if it["status"] == status}


Accept = Callable[..., tuple[FakeCluster, Ended]]
Change = Callable[[list[Any]], None]


@pytest.fixture
def accept(tmp_path: Path) -> Iterator[Accept]:
    clusters = []

    def run(
        objects: list[Any],
        *words: str,
        prepare: Callable[[FakeCluster], None] = lambda it: None,
        depth: tuple[str, ...] = ("--no-exec",),
    ) -> Any:
        cluster = FakeCluster(*objects)
        cluster.refuse_dry_run = nameless
        clusters.append(cluster)
        prepare(cluster)
        where = ["--cluster", "existing", "--kubeconfig", str(cluster.kubeconfig(tmp_path))]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *where, "--context", "theirs"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        done = subprocess.run(
            [*command, "--report-dir", str(tmp_path / "report"), *depth, *words],
            cwd=ROOT,
            env={**environment, HOME_VARIABLE: str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=300,
        )
        report = tmp_path / "report/conformance.json"
        document = json.loads(report.read_text()) if report.exists() else {}
        return cluster, Ended(done.returncode, done.stdout + done.stderr, document)

    yield run
    for cluster in clusters:
        cluster.close()


def nameless(manifest: dict[str, Any]) -> str:
    """cert-manager's webhook, as far as the tests ask it."""
    if manifest["metadata"]["name"] == "nameless":
        return 'admission webhook "webhook.cert-manager.io" denied the request: spec.dnsNames'
    return ""


def changing(cluster: FakeCluster) -> list[str]:
    return [it for it in cluster.asked if not it.startswith("GET ")]


def test_the_how_tos_stack_is_judged_and_nothing_is_sent_but_dry_runs(accept: Accept, tmp_path: Path) -> None:
    cluster, ended = accept(their.how_to_stack(), "tests")
    assert ended.code == 0, ended.output[-5000:]
    assert ended.document["verdict"]["text"] == "CONFORMS"
    assert len(ended.with_status("passed")) == 24
    assert len(changing(cluster)) == 3
    assert all("dryRun=All" in it for it in changing(cluster))
    assert ended.status("pipeline/dind/succeeds")[1].startswith("a build would be a change")
    assert "an acceptance only reads" in ended.status("cluster/pod-runs")[1]
    entry = next(it for it in ended.document["outcomes"] if it["id"] == "runner/config-map")
    assert "configmaps default/gitlab-runner-runner-config" in entry["read_from"]
    first = next(line for line in ended.output.splitlines() if "asked of the cluster" in line)
    assert ended.output.index(first) < ended.output.index("verifies profile found")
    assert not any(it.is_file() for it in (tmp_path / "home").rglob("*"))


def test_without_dry_runs_only_reads_are_sent(accept: Accept) -> None:
    cluster, ended = accept(
        their.how_to_stack(), "--no-dry-run", "tests/s02_cert_manager", "tests/s05_runner"
    )
    assert ended.code == 0, ended.output[-5000:]
    assert changing(cluster) == []
    status, reason = ended.status("cert-manager/webhook-answers")
    assert (status, "--no-dry-run was given" in reason) == ("not applicable", True)
    assert ended.status("runner/accepted")[0] == "passed"


def test_two_runners_are_judged_each_for_itself(accept: Accept) -> None:
    stack = [
        their.node(),
        *their.cert_manager(),
        *their.operator_by_manifest(),
        *their.runner("ci", "one"),
        *their.runner("ci", "two"),
    ]
    config_map = next(it for it in stack if it["metadata"]["name"] == "two-runner-config")
    config_map["data"]["config-toml"] = config_map["data"].pop("config.toml")
    _, ended = accept(stack, *STACK)
    assert ended.code == 1, ended.output[-5000:]
    assert ended.with_status("failed") == {"runner/config-map/ci/two"}
    assert "'config-toml'" in ended.status("runner/config-map/ci/two")[1]
    assert ended.status("runner/config-map/ci/one")[0] == "passed"
    assert ended.status("operator/controller")[0] == "passed"
    assert "installed by a manifest" in ended.status("operator/csv")[1]
    assert "installed by a manifest" in ended.status("olm/crds")[1]
    _, ended = accept(stack, "--runner", "ci/one", "tests/s05_runner")
    assert ended.code == 0, ended.output[-5000:]
    assert ended.status("runner/config-map")[0] == "passed"


def test_a_newer_operator_reads_the_older_key_as_well(accept: Accept) -> None:
    stack = [their.node(), *their.operator_by_manifest(version="1.53.0"), *their.runner(version="19.4.0")]
    _, ended = accept(stack, "-k", "runner/secret", "tests/s05_runner")
    assert ended.status("runner/secret")[0] == "passed", ended.output[-5000:]


def test_xdist_workers_judge_the_same_runners(accept: Accept) -> None:
    stack = [
        their.node(),
        *their.operator_by_manifest(),
        *their.runner("ci", "one"),
        *their.runner("ci", "two"),
    ]
    _, ended = accept(stack, "-n", "2", "tests/s05_runner")
    assert {"runner/pod/ci/one", "runner/pod/ci/two"} <= ended.with_status("passed"), ended.output[-5000:]


def test_a_missing_right_leaves_its_outcomes_unjudged_and_no_verdict(accept: Accept) -> None:
    def narrow(cluster: FakeCluster) -> None:
        cluster.forbidden |= {("list", "pods")}

    _, ended = accept(their.how_to_stack(), *STACK, prepare=narrow)
    assert ended.code == 10, ended.output[-5000:]
    verdict = ended.document["verdict"]
    assert (verdict["word"], verdict["hint"]) == ("INCONCLUSIVE", "grant what `pytest --show-rbac` prints")
    assert ended.with_status("failed") == set()
    status, reason = ended.status("runner/pod")
    assert (status, reason) == (
        "not applicable",
        "the kubeconfig's user may not list pods in namespace default",
    )
    assert ended.status("runner/config-map")[0] == "passed"


def test_a_version_is_held_to_what_was_asked_for_alone(accept: Accept) -> None:
    _, ended = accept(their.how_to_stack(), "--cert-manager-version", "v1.11.5", "tests/s02_cert_manager")
    assert ended.code == 1
    assert ended.with_status("failed") == {"cert-manager/version"}
    assert "asked for v1.11.5, found v1.7.1" in ended.status("cert-manager/version")[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--with-pipeline", "--gitlab-project", "g/p"], "2 Runners are there: ci/one, ci/two"),
        (["--with-pipeline"], "--with-pipeline without --gitlab-project"),
        (["--with-pipeline", "--gitlab-project", "g/p", "--no-exec"], "--with-pipeline with --no-exec"),
        (["--runner", "ci/three"], "there is no such Runner on this cluster"),
        (["--accept", "--make-runners"], "--accept with --make-runners"),
        (["--keep"], "--keep with an acceptance"),
    ],
)
def test_what_is_not_clear_is_asked_back(accept: Accept, tmp_path: Path, words: list[str], told: str) -> None:
    token = tmp_path / "token"
    token.write_text("glpat-somebody-s-own-token")
    gitlab = ["--gitlab-url", "http://127.0.0.1:9", "--gitlab-token-file", str(token)]
    stack = [*their.runner("ci", "one"), *their.runner("ci", "two")]
    _, ended = accept(stack, *words, *gitlab, "tests/s05_runner", depth=())
    assert ended.code == 4, ended.output[-3000:]
    assert told in ended.output
    assert "Traceback" not in ended.output


def test_the_role_is_printed_without_a_cluster() -> None:
    command = [sys.executable, "-m", "pytest", "--show-rbac", "--no-exec"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\n")
    assert "pods/exec" not in done.stdout


def _status(kind: str, name: str, **status: Any) -> Change:
    def change(stack: list[Any]) -> None:
        for it in stack:
            if (it["kind"], it["metadata"]["name"]) == (kind, name):
                it["status"].update(status)

    return change


def _scaled_to_zero(stack: list[Any]) -> None:
    for it in stack:
        if (it["kind"], it["metadata"]["name"]) == ("Deployment", "gitlab-runner-runner"):
            it["spec"]["replicas"] = 0


def _half_a_controller(stack: list[Any]) -> None:
    for it in stack:
        if it["kind"] == "Pod" and it["metadata"]["name"].startswith("gitlab-runner-controller-manager"):
            it["status"]["containerStatuses"][0]["ready"] = False


def _without(*words: str) -> Change:
    def change(stack: list[Any]) -> None:
        stack[:] = [it for it in stack if not any(word in it["metadata"]["name"] for word in words)]

    return change


NOT_READY = {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]}


@pytest.mark.parametrize(
    ("change", "folder", "outcome", "words", "green"),
    [
        (_scaled_to_zero, "s05_runner", "runner/pod", "it asks for 0 replicas", "runner/config-map"),
        (
            _status("ClusterServiceVersion", "gitlab-runner-operator.v1.15.1", phase="Failed"),
            "s04_operator",
            "operator/csv-succeeded",
            "CSV gitlab-runner-operator.v1.15.1 is Failed",
            "operator/controller",
        ),
        (_half_a_controller, "s04_operator", "operator/controller", "is 1/2", "operator/crd"),
        (
            _status("Node", "vm-0-12-ubuntu", **NOT_READY),
            "s01_cluster",
            "cluster/node-ready",
            "the node is not ready",
            "cluster/kubernetes-version",
        ),
        (_without("cert-manager"), "s02_cert_manager", "cert-manager/crds", "is not there", ""),
        (_without("gitlab-runner-secret"), "s05_runner", "runner/secret", "is not there", ""),
    ],
    ids=lambda it: it if isinstance(it, str) and "/" in it else "",
)
def test_what_is_broken_is_red_for_its_reason(
    accept: Accept, change: Change, folder: str, outcome: str, words: str, green: str
) -> None:
    stack = their.how_to_stack()
    change(stack)
    blame = "environment" if outcome == "cluster/node-ready" else "product"
    _, ended = accept(stack, f"tests/{folder}")
    assert ended.code == (1 if blame == "product" else 10), ended.output[-5000:]
    assert ended.with_status("failed") == {outcome}, ended.output[-5000:]
    entry = next(it for it in ended.document["outcomes"] if it["id"] == outcome)
    assert (words in entry["reason"], entry["blame"]) == (True, blame), entry
    assert not green or ended.status(green)[0] == "passed"
