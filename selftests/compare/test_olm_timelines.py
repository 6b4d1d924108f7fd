"""The recorded steps that need no long timeouts, played on a node: the same sequences as OLM v0.26.0.

All steps are played by `python -m selftests.compare.olm_play BUNDLE`. Needs root and a bundle
(RUNNER_CONFORMANCE_BUNDLE); whatever OLM it holds is compared.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.artifacts.bundle import Bundle
from selftests.compare import olm_play
from selftests.compare.olm_sequences import RECORDINGS

BUNDLE = Path(os.environ.get("RUNNER_CONFORMANCE_BUNDLE", "/nonexistent"))
#: Installing and upgrading in each way, one way to mend an image, and what is refused at once.
STEPS = ("install_olm", "automatic", "webhooks", "manual", "upgrade", "patch_both", "refusals")


@pytest.fixture(scope="module")
def parted() -> dict[str, list[str]]:
    """Scenario (or a step that stopped) → where it parts from the recording."""
    found: dict[str, list[str]] = {}
    bundle = Bundle.open(BUNDLE)
    with olm_play.node(bundle) as cluster:
        olm_play.play(cluster, bundle, STEPS, found.__setitem__, None)
    return found


@pytest.mark.skipif(
    os.geteuid() != 0 or not (BUNDLE / "bundle.toml").exists(),
    reason="needs root and a bundle (RUNNER_CONFORMANCE_BUNDLE)",
)
@pytest.mark.parametrize(("step", "scenario"), [(step, it) for step in STEPS for it in olm_play.FIRST[step]])
def test_the_timeline_is_the_recorded_one(parted: dict[str, list[str]], step: str, scenario: str) -> None:
    assert parted.get(scenario, parted.get(step, ["not played"])) == []


def test_every_recording_is_played_by_a_step() -> None:
    played = [it for steps in (olm_play.FIRST, olm_play.SECOND) for group in steps.values() for it in group]
    for recording in RECORDINGS.glob("*.jsonl"):
        assert [it for it in played if recording.name.startswith(it)], recording.name
