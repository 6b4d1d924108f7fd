"""Other names than the how-to's, and more than one of a thing: right answers, right questions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from selftests.acceptance import manifest
from selftests.acceptance.accepting import accept
from selftests.acceptance.lab import PROJECT, RUNNER, Lab, await_ready, second_runner

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="making a node needs root"),
    pytest.mark.acceptance,
]

SPACE = "gitlab-runner-system"
RUNNERS = ("tests/s05_runner",)


@pytest.fixture(scope="module")
def in_ci(lab: Lab) -> Iterator[None]:
    """A second Runner, in namespace ``ci``."""
    with second_runner(lab, "ci", "builder"):
        yield


@pytest.fixture
def by_manifest(lab: Lab) -> Iterator[None]:
    """A second operator, by a manifest."""
    try:
        await_ready(lab, SPACE, manifest.apply(lab, manifest.csv_spec(lab), SPACE))
        yield
    finally:
        lab.shell.types(f"kubectl delete clusterrole,clusterrolebinding {SPACE}")
        lab.shell.types(f"kubectl delete namespace {SPACE} --wait=true")


def test_two_runners_are_judged_each_for_itself(lab: Lab, in_ci: None, tmp_path: Path) -> None:
    ended = accept(lab, tmp_path, tests=RUNNERS)
    assert ended.code == 0, ended.output[-5000:]
    for outcome in ("runner/pod", "runner/online", "runner/config-map"):
        for runner in ("ci/builder", f"default/{RUNNER}"):
            assert f"{outcome}/{runner}" in ended.with_status("passed"), ended.output[-5000:]
    ended = accept(lab, tmp_path, "--runner=ci/builder", tests=RUNNERS)
    assert ended.code == 0, ended.output[-5000:]
    assert "runner/pod" in ended.with_status("passed"), ended.output[-5000:]
    assert not [it for it in ended.outcomes if it.endswith(f"default/{RUNNER}")]


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
