"""Operator 1.53.0 on the newer Kubernetes is judged as what it is: by OLM, and by a manifest without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from selftests.acceptance import lab as labs
from selftests.acceptance import manifest
from selftests.acceptance.accepting import accept
from selftests.acceptance.lab import RUNNER, Lab, await_ready

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="making a node needs root"),
    pytest.mark.second_kubernetes,
    pytest.mark.acceptance,
]

SPACE = "gitlab-runner-system"
OPERATOR = ("tests/s04_operator",)


@pytest.fixture(scope="module")
def newer(new_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A stack of today's versions that was installed with the how-to's commands."""
    with labs.installed(tmp_path_factory.mktemp("newer"), new_bundle_dir) as lab:
        yield lab


@pytest.fixture
def without_olm(newer: Lab) -> str:
    """OLM is removed with all that is its own; the operator comes back by a manifest. Its namespace."""
    install = manifest.csv_spec(newer)
    shell = newer.shell
    shell.types("kubectl delete subscriptions,csv --all -n operators")
    shell.until("kubectl -n operators get pods", lambda out: not out.strip())
    shell.types("kubectl delete apiservice v1.packages.operators.coreos.com --ignore-not-found")
    shell.types("kubectl delete -f olm.yaml --ignore-not-found", timeout_s=170)
    shell.types("kubectl delete -f crds.yaml", timeout_s=170)
    await_ready(newer, SPACE, manifest.apply(newer, install, SPACE))
    await_ready(newer, "default", f"{RUNNER}-runner")
    return SPACE


def test_what_is_there_is_accepted_in_its_own_version(newer: Lab, tmp_path: Path) -> None:
    ended = accept(newer, tmp_path)
    assert ended.code == 0, ended.output[-5000:]
    assert ended.document["verdict"]["text"] == "CONFORMS (rehearsal)"
    assert "operator 1.53.0 in namespace operators" in ended.output
    assert {"operator/csv", "operator/controller", "runner/online"} <= ended.with_status("passed")


def test_a_version_is_held_to_what_was_asked_for(newer: Lab, tmp_path: Path) -> None:
    ended = accept(newer, tmp_path, "--operator-version=1.15.1", tests=OPERATOR)
    assert ended.code == 1, ended.output[-5000:]
    assert "1.53.0" in ended.outcomes["operator/csv"]["reason"], ended.outcomes["operator/csv"]


def test_by_a_manifest_and_without_olm(newer: Lab, without_olm: str, tmp_path: Path) -> None:
    ended = accept(newer, tmp_path)
    assert ended.code == 0, ended.output[-5000:]
    found = f"in namespace {without_olm}, installed by a manifest; judged as the newest that is known"
    assert found in ended.output  # its image is named by digest
    assert {"operator/controller", "operator/crd", "runner/online"} <= ended.with_status("passed")
    of_olm = {name for name in ended.outcomes if name.startswith("olm/")}
    assert of_olm <= ended.with_status("not applicable"), ended.output[-5000:]
