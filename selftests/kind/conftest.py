"""A host with a docker engine of its own, and the lab's bundle with kind in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from selftests.conftest import ROOT

Step = dict[str, Any]
Walk = Callable[[Sequence[Step]], list[Step]]
LIMIT_S = 1800


@pytest.fixture(scope="session")
def kind_bundle() -> Path:
    """The bundle of RUNNER_CONFORMANCE_BUNDLE_KIND, or built now."""
    if named := os.environ.get("RUNNER_CONFORMANCE_BUNDLE_KIND"):
        return Path(named)
    argv = [sys.executable, "-m", "lab", "build", "--kind"]
    built = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.strip().splitlines()[-1])


@pytest.fixture
def walk(tmp_path: Path, kind_bundle: Path) -> Walk:
    """Run commands on such a host, and tell how each ended and what it left there."""

    def steps(wanted: Sequence[Step]) -> list[Step]:
        plan = tmp_path / "plan"
        plan.write_text(json.dumps(list(wanted)))
        argv = [sys.executable, "-m", "selftests.kind.host", str(kind_bundle), str(tmp_path), "--"]
        argv += [sys.executable, "-m", "selftests.kind.walk", str(plan)]
        environment = {**os.environ, "RUNNER_CONFORMANCE_HOME": str(tmp_path / "home")}
        with subprocess.Popen(argv, cwd=ROOT, env=environment) as host:
            try:
                code = host.wait(LIMIT_S)
            finally:
                host.terminate()  # interrupted: it takes its cgroups away itself
        assert code == 0, f"the host ended with {code}"
        found: list[Step] = json.loads(plan.with_name("plan.seen").read_text())
        assert len(found) == len(wanted)
        return found

    return steps
