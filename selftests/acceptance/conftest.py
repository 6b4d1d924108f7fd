"""The lab: one stack by hand for all tests; RUNNER_CONFORMANCE_LAB is the directory of one that is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.acceptance.rights import Depth, cluster_role
from selftests.acceptance import lab as labs
from selftests.acceptance.lab import Lab

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def bundle_dir() -> Path:
    """The bundle with Kubernetes 1.28."""
    if named := os.environ.get("RUNNER_CONFORMANCE_BUNDLE"):
        return Path(named)
    argv = [sys.executable, "-m", "lab", "build", "--kubernetes", "1.28"]
    built = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def lab(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A stack that the how-to's commands made, and a person with the role that --show-rbac prints."""
    if kept := os.environ.get("RUNNER_CONFORMANCE_LAB"):
        yield Lab.at(Path(kept), bundle_dir)
        return
    directory = tmp_path_factory.mktemp("lab")
    try:
        made = labs.install(directory, bundle_dir)
        labs.make_person(made, cluster_role(Depth()))
        yield made
    finally:
        labs.remove(directory)
