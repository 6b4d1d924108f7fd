"""Whole stacks as a user has them: `runner-conformance up --keep`, a look with kubectl, `down`."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.artifacts.bundle import Bundle
from harness.cluster import find_leftovers
from harness.cluster.record import Record
from harness.state import StackState
from selftests.e2e.command_line import Host
from selftests.e2e.host_state import difference, processes_below, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making a stack needs root")


def test_up_gives_the_how_tos_objects_and_down_leaves_the_host_as_it_was(
    host: Host, bundle_dir: Path, tmp_path: Path
) -> None:
    before = snapshot("none yet", ignore=(tmp_path,))
    printed = host.up("tidy", bundle_dir)
    assert "Rehearsal" in printed
    assert "critical path" in printed
    _has_the_how_tos_objects(host, "tidy", bundle_dir)
    assert host.run("status", "tidy").returncode == 0

    run_id = StackState.load(host.state_dir("tidy")).run_id
    node = Record.load(host.state_dir("tidy") / "cluster").node
    namespaces = {str(Path(f"/proc/{node}/ns/pid").readlink())}
    assert processes_below(namespaces, str(host.home)), "the comparison is blind"
    assert difference(before, snapshot(run_id, ignore=(tmp_path,))), "the comparison is blind"

    host.down("tidy")
    assert processes_below(namespaces, str(host.home)) == []
    assert difference(before, snapshot(run_id, ignore=(tmp_path,))) == {}
    assert find_leftovers(run_id, running=True) == []
    assert [str(it) for it in host.home.rglob("*") if it.is_file()] == []


@pytest.mark.second_kubernetes
def test_two_stacks_of_both_kubernetes_versions_side_by_side(
    host: Host, bundle_dir: Path, new_bundle_dir: Path
) -> None:
    wanted = {"old": bundle_dir, "new": new_bundle_dir}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(host.up, wanted, wanted.values()))
    for name, bundle in wanted.items():
        _has_the_how_tos_objects(host, name, bundle)
    versions = {name: host.kubectl(name, bundle, "get", "nodes") for name, bundle in wanted.items()}
    assert "v1.28." in versions["old"]
    assert "v1.37." in versions["new"]
    host.down("old")
    assert host.run("status", "new").returncode == 0, "one stack's end disturbs the other"
    _has_the_how_tos_objects(host, "new", new_bundle_dir)
    host.down("new")


def _has_the_how_tos_objects(host: Host, name: str, bundle: Path) -> None:
    """What the article's own looks show when all went well."""
    csv = host.kubectl(name, bundle, "get", "csv", "-n", "operators", "--no-headers")
    version = Bundle.read(bundle).components["operator"].version
    assert csv.split()[0] == f"gitlab-runner-operator.v{version}"
    assert csv.split()[-1] == "Succeeded"
    controller = host.kubectl(name, bundle, "get", "pods", "-n", "operators", "--no-headers")
    assert any(
        line.startswith("gitlab-runner-") and line.split()[1:3] == ["2/2", "Running"]
        for line in controller.splitlines()
    ), controller
    packageserver = host.kubectl(name, bundle, "get", "csv", "packageserver", "-n", "olm", "--no-headers")
    assert packageserver.split()[-1] == "Succeeded"
    certificates = host.kubectl(name, bundle, "get", "pods", "-n", "cert-manager", "--no-headers")
    assert [line.split()[1] for line in certificates.splitlines()] == ["1/1"] * 3
    runners = host.kubectl(name, bundle, "get", "runners.apps.gitlab.com", "-A", "--no-headers")
    assert len(runners.splitlines()) == 1
