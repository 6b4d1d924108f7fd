"""Bundles for the tests on real nodes: those that RUNNER_CONFORMANCE_BUNDLE(_1_37) name, or built now."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from selftests.e2e.command_line import Host

ROOT = Path(__file__).parents[2]


def _bundle(kubernetes: str, variable: str) -> Path:
    if named := os.environ.get(variable):
        return Path(named)
    argv = [sys.executable, "-m", "lab", "build", "--kubernetes", kubernetes]
    built = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def bundle_dir() -> Path:
    """The bundle with Kubernetes 1.28."""
    return _bundle("1.28", "RUNNER_CONFORMANCE_BUNDLE")


@pytest.fixture(scope="session")
def new_bundle_dir() -> Path:
    """The bundle with Kubernetes 1.37."""
    return _bundle("1.37", "RUNNER_CONFORMANCE_BUNDLE_1_37")


@pytest.fixture(scope="module", params=["1.28", pytest.param("1.37", marks=pytest.mark.second_kubernetes)])
def kubernetes(request: pytest.FixtureRequest) -> str:
    """Each Kubernetes of the lab in turn; the newer one only where the second_kubernetes tests run."""
    return str(request.param)


@pytest.fixture(scope="module")
def each_bundle_dir(kubernetes: str, request: pytest.FixtureRequest) -> Path:
    """The bundle of that Kubernetes."""
    directory: Path = request.getfixturevalue("bundle_dir" if kubernetes == "1.28" else "new_bundle_dir")
    return directory


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Stacks that a failing test leaves are taken down."""
    one = Host(tmp_path / "home")
    yield one
    for left in sorted((one.home / "stacks").glob("*")) if one.home.exists() else []:
        one.run("down", left.name)
