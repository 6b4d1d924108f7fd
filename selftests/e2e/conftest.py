"""Each Kubernetes of the lab, and a host whose stacks are taken down, for the tests on real nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from selftests.e2e.command_line import Host


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
