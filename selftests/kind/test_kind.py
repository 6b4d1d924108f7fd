"""`--cluster kind` with a real kind, docker engine and kubeadm cluster, all of the lab's packages."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from selftests.kind.conftest import Step, Walk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a host with a docker engine needs root")
NOT_APPLICABLE = {"cluster/k3s-version"}


def suite(bundle: Path, report: Path, *words: str) -> Step:
    """The main job, or a part of it."""
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--cluster", "kind"]
    argv += [*(words or ("tests",)), f"--artifacts={bundle}", f"--report-dir={report}"]
    return {"argv": argv}


def outcomes(report: Path) -> dict[str, Any]:
    document = json.loads((report / "conformance.json").read_text())
    return {it["id"]: it for it in document["outcomes"]}


def test_cluster_cert_manager_and_olm(walk: Walk, kind_bundle: Path, tmp_path: Path) -> None:
    """The short form: what every other outcome stands on."""
    parts = ["tests/s01_cluster", "tests/s02_cert_manager", "tests/s03_olm"]
    (seen,) = walk([suite(kind_bundle, tmp_path / "report", *parts)])
    assert seen["code"] == 0, seen["output"][-3000:]
    assert "CONFORMS (rehearsal)" in seen["output"]
    assert seen["left"] == {}
    found = outcomes(tmp_path / "report")
    passed = {name for name, it in found.items() if it["status"] == "passed"}
    assert set(found) - passed == NOT_APPLICABLE


def test_what_is_wrong_is_said_and_nothing_is_left(walk: Walk, kind_bundle: Path, tmp_path: Path) -> None:
    """An image that is none, an engine that is not there: a sentence, and the environment's exit code."""
    report = tmp_path / "report"
    absent = suite(kind_bundle, report, "tests/s01_cluster", "--kind-image", "kindest/node:v9.9.9")
    gone = suite(kind_bundle, report, "tests/s01_cluster")
    gone["argv"] = ["env", "DOCKER_HOST=unix:///nowhere.sock", *gone["argv"]]
    for seen, words in zip(
        walk([absent, gone]),
        ("the node image kindest/node:v9.9.9 can't be pulled", "does not answer"),
        strict=True,
    ):
        assert (seen["code"], seen["left"]) == (10, {}), seen["output"][-3000:]
        assert words in seen["output"]
        assert "Traceback" not in seen["output"]


@pytest.mark.kind
def test_the_whole_main_job(walk: Walk, kind_bundle: Path, tmp_path: Path) -> None:
    (seen,) = walk([suite(kind_bundle, tmp_path / "report")])
    assert seen["code"] == 0, seen["output"][-5000:]
    assert "CONFORMS (rehearsal)" in seen["output"]
    found = outcomes(tmp_path / "report")
    other = {name: it["reason"] for name, it in found.items() if it["status"] != "passed"}
    assert {it["status"] for it in found.values()} <= {"passed", "not applicable"}
    assert set(other) == NOT_APPLICABLE, other
    assert seen["left"] == {}


@pytest.mark.kind
def test_a_second_one_beside_it_and_down(walk: Walk, kind_bundle: Path, tmp_path: Path) -> None:
    """A kept one, another beside it, `down`; then one that is killed with -9, and `reap`."""
    part = "tests/s01_cluster"
    kept = suite(kind_bundle, tmp_path / "one", part, "--keep", "--name", "kept")
    other = suite(kind_bundle, tmp_path / "two", part)
    again = {"argv": [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", part, "--reuse", "kept",
                      f"--report-dir={tmp_path / 'three'}"]}  # fmt: skip
    command = [sys.executable, "-m", "harness.cli"]
    killed = {**suite(kind_bundle, tmp_path / "four", part), "kill_at": "cluster: ready"}
    first, second, third, down, fourth, reap = walk(
        [kept, other, again, {"argv": [*command, "down", "kept"]}, killed, {"argv": [*command, "reap"]}]
    )
    assert [it["code"] for it in (first, second, third, down)] == [0, 0, 0, 0]
    assert second["left"] == third["left"] == {}, "a neighbour was touched, or something left"
    for kind, items in first["left"].items():
        assert items == down["left"][kind], f"{kind} of the kept one is not gone, or more than that"
    assert fourth["left"], "it was killed too late to leave anything"
    assert reap["code"] == 0, reap["output"]
    for kind, items in fourth["left"].items():
        assert items == reap["left"][kind], f"{kind} of the killed one is not gone, or more than that"
