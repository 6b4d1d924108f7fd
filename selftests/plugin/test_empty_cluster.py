"""No conformance test passes on a cluster and a GitLab that hold nothing, not even with its needs ignored."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def statuses(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> dict[str, str]:
    report = tmp_path_factory.mktemp("report")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "selftests.plugin.empty_provisioning",
        "-p",
        "no:cacheprovider",
        "--report-dir",
        str(report),
        "tests",
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    environment["PYTHONPATH"] = str(pytestconfig.rootpath)
    done = subprocess.run(
        command, cwd=pytestconfig.rootpath, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    document = json.loads((report / "conformance.json").read_text())
    return {outcome["id"]: outcome["status"] for outcome in document["outcomes"]}


def test_nothing_passes_where_nothing_is(statuses):
    assert len(statuses) >= 70
    green = [outcome for outcome, status in statuses.items() if status not in ("failed", "blocked")]
    assert green == []
