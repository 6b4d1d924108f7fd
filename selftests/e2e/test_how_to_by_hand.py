"""The how-to's commands at the shell of a node of the bundle, in its order; compared with its listings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.artifacts.bundle import Bundle
from harness.cluster import K3sCluster
from selftests.e2e import by_hand
from selftests.e2e.by_hand import CSV_TABLE, NODE, Shell, pods
from selftests.e2e.nodes import options

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making a node needs root")


@pytest.fixture
def shell(bundle_dir: Path, tmp_path: Path) -> Iterator[Shell]:
    """A node from which gcr.io can't be reached, as from the article's."""
    cluster = K3sCluster(options(bundle_dir, tmp_path / "state", NODE, unreachable_registries=("gcr.io",)))
    cluster.start()
    yield Shell(cluster, Bundle.read(bundle_dir).path / "files")
    cluster.stop()


def test_the_how_tos_commands_give_the_how_tos_outputs(shell: Shell) -> None:
    by_hand.k3s(shell)
    by_hand.cert_manager(shell)
    by_hand.operator_lifecycle_manager(shell)
    by_hand.operator(shell)
    by_hand.trouble_with_gcr_io(shell)
    assert shell.types("kubectl get csv -n operators") == CSV_TABLE
    assert pods(shell.types("kubectl -n operators get pods")) == [("2/2", "Running", "0")]
