"""The lab's fault catalogue: each fault in a run of its own, and the outcome that it must turn red."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from harness.profile import PROFILES_DIR
from selftests.faults import strike
from selftests.faults.blocked import blocked_by
from selftests.faults.catalogue import FAULTS, FaultTarget, inject
from selftests.faults.fault import REFUSED, Fault
from selftests.faults.run import Ended, Wanted, beside, by_way_of, run_outcomes, test_of, wrong_with
from selftests.faults.seen import Record, Seen

SHOWN_BY = {
    REFUSED: "cluster/kubernetes-version",
    "provision/cluster": "cluster/kubernetes-version",
    "provision/registry": "pipeline/dind/succeeds",
    "provision/operator": "operator/csv",
    "provision/runner-how-to": "runner/accepted",
}
"""What is run where no outcome but a phase must be red: one that stands on it."""
EXIT_ENVIRONMENT = 10


def see(bundle: Path, scratch: Path, only: str, record: Record) -> None:
    """Inject, run, compare."""
    for fault in FAULTS.values():
        matches = any(re.search(only, it) for it in (fault.name, fault.what, fault.red, fault.rule))
        if matches and record.wants("faults", fault.what, (fault.red,)):
            own = scratch / f"fault-{fault.name}"
            try:
                _see(fault, bundle, own, record)
            except Exception as error:  # the others are still to be seen
                record.complain(f"{fault.name}: {type(error).__name__}: {str(error).splitlines()[:1]}")
            finally:
                shutil.rmtree(own, ignore_errors=True)


def _see(fault: Fault, bundle: Path, scratch: Path, record: Record) -> None:
    scratch.mkdir()
    arguments, environment = [], {}
    own = bundle
    if fault.bundle:
        own = scratch / "bundle"
        inject(fault, FaultTarget(bundle=bundle, out=own))
    if fault.profile:
        profile = scratch / "seed.toml"
        inject(fault, FaultTarget(profile=PROFILES_DIR / "seed.toml", out=profile))
        arguments += ["--profile", str(profile)]
    if fault.stack:
        arguments += ["-p", strike.__name__]
        environment[strike.VARIABLE] = fault.name
    shown_by = SHOWN_BY.get(fault.red, fault.red)
    blocked = (
        () if shown_by != fault.red else blocked_by(fault.red, frozenset((fault.red.partition("/")[0],)))
    )
    ended = run_outcomes(
        *arguments,
        "--artifacts",
        str(own),
        *map(test_of, (shown_by, *by_way_of(fault.red, blocked))),
        report=scratch / "report",
        environment=environment,
    )
    if fault.red == REFUSED:
        _see_refused(fault, ended, record)
        return
    if not ended.document:
        record.complain(f"{fault.name}: pytest ended with {ended.code}:\n{ended.output[-3000:]}")
        return
    entry = ended.entry(fault.red)
    if wrong := wrong_with(entry, Wanted(fault.reason, fault.blame.value, fault.rule)):
        record.complain(f"{fault.red}: {fault.name}: {wrong}")
    else:
        record.see(Seen.of("faults", fault.what, fault.red, entry))
    wrong_beside = beside(ended, (fault.red, shown_by), (), blocked)
    record.complain(*(f"{fault.name}: {it}" for it in wrong_beside))


def _see_refused(fault: Fault, ended: Ended, record: Record) -> None:
    said = [line for line in ended.output.splitlines() if re.search(fault.reason, line)]
    if ended.document or ended.code != EXIT_ENVIRONMENT or not said:
        tail = ended.output[-1500:]
        record.complain(f"{fault.name}: not refused for its reason, exit code {ended.code}:\n{tail}")
        return
    entry = {"reason": said[0], "blame": fault.blame.value}
    record.see(Seen.of("faults", fault.what, REFUSED, entry))
