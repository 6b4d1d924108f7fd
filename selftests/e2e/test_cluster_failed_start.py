"""A node that does not come up: why is said at once, with the last lines of its log, and nothing is left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness.cluster import ClusterOptions, K3sCluster, cgroups, links, node
from harness.errors import EnvironmentProblem
from harness.ownership import new_run_id

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making a node needs root")

PANICS = """#!/bin/sh
case "$*" in
  --version) echo "$(basename "$0") version v1.28.5+k3s1 (5b2d1271)" ;;
  "server --help") echo "   --data-dir value" ;;
  server*)
    echo 'F1125 10:00:09.118117 17 server.go:269] failed to run Kubelet: no such driver' >&2
    for number in $(seq 60); do echo "goroutine $number [running]:" >&2; done
    exit 255 ;;
esac
"""


@pytest.fixture
def wish(tmp_path: Path) -> ClusterOptions:
    program = tmp_path / "5b2d1271f00d"
    program.write_text(PANICS)
    program.chmod(0o755)
    return ClusterOptions(new_run_id(), "broken", program, tmp_path / "state", outgoing=False, keep=True)


def _nothing_is_left(wish: ClusterOptions) -> bool:
    return not (
        wish.state_dir.exists() or list(cgroups.owned(wish.run_id)) or wish.run_id in links.owned().values()
    )


def test_k3s_that_ends_is_told_with_its_own_words(wish: ClusterOptions) -> None:
    began = time.monotonic()
    with pytest.raises(EnvironmentProblem) as caught:
        K3sCluster(wish).start()
    assert "did not come up: k3s ended by itself with status 255: F1125" in caught.value.message
    assert "failed to run Kubelet: no such driver" in caught.value.message
    assert "failed to run Kubelet: no such driver" in caught.value.evidence
    assert caught.value.evidence.splitlines()[-1] == "goroutine 60 [running]:"
    assert time.monotonic() - began < 100, "it waited for the time limit"
    assert _nothing_is_left(wish)


def test_namespaces_that_cannot_be_set_up_are_told(
    wish: ClusterOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The keeper is a process of its own; it imports this before anything else.
    (tmp_path / "sitecustomize.py").write_text(
        "import harness.cluster.cgroups as it\n"
        "def hand_down():\n    raise OSError(16, 'Device or resource busy')\n"
        "it.hand_down = hand_down\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem) as caught:
        K3sCluster(wish).start()
    assert caught.value.message == (
        "the node's namespaces can't be set up: [Errno 16] Device or resource busy"
    )
    assert f"in {node.run_first_process.__name__}" in caught.value.evidence
    assert _nothing_is_left(wish)
