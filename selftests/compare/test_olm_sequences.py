"""The comparer itself: silent about equal timelines, loud about each kind of difference."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from selftests.compare import olm_sequences as seq

SCENARIOS = sorted(p.stem for p in seq.RECORDINGS.glob("*.jsonl"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_recording_equals_itself(scenario: str) -> None:
    recorded = seq.load(scenario)
    assert recorded, f"{scenario}: an empty recording compares equal to nothing"
    assert seq.compare(scenario, recorded, copy.deepcopy(recorded)) == []


@pytest.mark.parametrize(
    "scenario", ["02-happy-automatic", "07-proxy-image-missing", "09-second-operatorgroup"]
)
def test_another_message_is_told(scenario: str) -> None:
    recorded = seq.load(scenario)
    seen = copy.deepcopy(recorded)
    last = [e for e in seen if e["kind"] == "ClusterServiceVersion" and (e.get("status") or {}).get("phase")][
        -1
    ]
    last["status"]["message"] += "!"
    assert any("ClusterServiceVersion/" in d for d in seq.compare(scenario, recorded, seen))


def test_missing_phase_is_told() -> None:
    recorded = seq.load("05")
    seen = [e for e in recorded if (e.get("status") or {}).get("phase") != "InstallReady"]
    assert any("InstallReady" in d for d in seq.compare("05", recorded, seen))


def test_plan_that_never_waits_for_approval_is_told() -> None:
    recorded = seq.load("05")
    seen = [e for e in recorded if (e.get("status") or {}).get("phase") != "RequiresApproval"]
    assert any(d.startswith("InstallPlan/") for d in seq.compare("05", recorded, seen))


def test_unmade_and_left_objects_are_told() -> None:
    made, removed = seq.load("05"), seq.load("04")
    assert seq.compare("05", made, [e for e in made if e["kind"] != "RoleBinding"])
    assert seq.compare("04", removed, [e for e in removed if e["kind"] != "Deployment"])


def test_order_of_clauses_does_not_matter_but_their_text_does() -> None:
    one, other = (f"constraints not satisfiable: {t}" for t in ("a exists, b and c", "c and b, a exists"))
    assert seq.mask(one) == seq.mask(other)
    recorded = seq.sequences(seq.load("failure-wrong-channel"))["Subscription/condition/ResolutionFailed"]
    assert len(recorded) == 1, "the same two clauses in either order are one state"
    assert seq.mask(one) != seq.mask(one.replace("exists", "is gone"))


def test_interleaving_of_objects_does_not_matter() -> None:
    recorded = seq.load("06")
    seen = sorted(recorded, key=lambda e: (e["kind"], e["name"]))
    assert seq.compare("06", recorded, seen) == []


def test_every_allowance_has_a_reason_and_meets_a_recording() -> None:
    """An allowance that nothing needs would only hide differences."""
    used = set()
    for scenario in SCENARIOS:
        for where, states in seq.sequences(seq.load(scenario)).items():
            for a in seq.ALLOWANCES:
                if re.match(a.where, f"{scenario}:{where}") and any(
                    re.fullmatch(f"({a.entry}).*", s) for s in states
                ):
                    used.add(a)
    nothing_recorded = ("(07|13|15).*:(Job/", "10.*:Event/")  # these allow what only the play sees
    spare = [a for a in seq.ALLOWANCES if a not in used and not a.where.startswith(nothing_recorded)]
    assert spare == []


def test_recordings_are_there() -> None:
    assert Path(seq.RECORDINGS).is_dir()
    assert len(SCENARIOS) > 25
