"""Every outcome has a breakage that turns it red on a real node, which anybody can repeat."""

from __future__ import annotations

from fixtures.plugin.catalogue import declared
from selftests.faults.breakages import BREAKAGES
from selftests.faults.catalogue import FAULTS
from selftests.faults.slips import RUNS, copy_project
from selftests.faults.whole_runs import SHOWN_BY


def test_every_outcome_has_a_breakage_of_its_own():
    broken = {outcome for breakage in BREAKAGES for outcome in breakage.red}
    broken |= {outcome for run in RUNS for slip in run.slips for outcome in slip.red}
    broken |= {fault.red for fault in FAULTS.values()} - set(SHOWN_BY)
    assert {spec.id for spec in declared()} == broken


def test_a_phase_that_a_fault_breaks_has_an_outcome_that_stands_on_it():
    ids = {spec.id for spec in declared()}
    assert {fault.red for fault in FAULTS.values()} - ids <= set(SHOWN_BY)
    assert set(SHOWN_BY.values()) <= ids


def test_every_slip_finds_the_text_that_it_changes(tmp_path):
    copy_project(tmp_path)
    for run in RUNS:
        for slip in run.slips:
            assert slip.old in (tmp_path / slip.file).read_text() if slip.file else run.bundle or run.strike
