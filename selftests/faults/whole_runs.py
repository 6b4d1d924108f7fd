"""The lab's fault catalogue: each fault in a run of its own, and the outcome that it must turn red."""

from __future__ import annotations

import re
from pathlib import Path

from harness.profile import PROFILES_DIR
from selftests.faults import strike
from selftests.faults.catalogue import FAULTS, REFUSED, Fault, FaultTarget, inject
from selftests.faults.run import Wanted, compare, in_short, run_outcomes, test_of, told

SHOWN_BY = {
    REFUSED: "cluster/kubernetes-version",
    "provision/cluster": "cluster/kubernetes-version",
    "provision/registry": "pipeline/dind/succeeds",
    "provision/operator": "operator/csv",
    "provision/runner-how-to": "runner/accepted",
}
"""What is run where no outcome but a phase must be red: one that stands on it."""
EXIT_ENVIRONMENT = 10


def see(bundle: Path, scratch: Path, only: str) -> list[str]:
    """Inject, run, compare; complaints about what was not red, not for its reason, or not blamed right."""
    complaints: list[str] = []
    for fault in FAULTS.values():
        if any(only in it for it in (fault.name, fault.what, fault.red)):
            complaints += told(_see(fault, bundle, scratch / f"fault-{fault.name}"))
    return complaints


def _see(fault: Fault, bundle: Path, scratch: Path) -> list[str]:
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
    ended = run_outcomes(
        *arguments,
        "--artifacts",
        str(own),
        test_of(SHOWN_BY.get(fault.red, fault.red)),
        report=scratch / "report",
        environment=environment,
    )
    what = f"fault `{fault.name}`"
    if fault.red != REFUSED:
        if not ended.document:
            return [f"{fault.name}: pytest ended with {ended.code}:\n{ended.output[-3000:]}"]
        return compare(
            fault.red, what, ended.entry(fault.red), fault.reason, Wanted(fault.blame.value, fault.rule)
        )
    if ended.document or ended.code != EXIT_ENVIRONMENT or not re.search(fault.reason, ended.output):
        return [f"{fault.name}: not refused for its reason, exit code {ended.code}:\n{ended.output[-1500:]}"]
    (line, *_) = [line for line in ended.output.splitlines() if re.search(fault.reason, line)]
    print(f"| {REFUSED} | {what} | {in_short(line)} |", flush=True)
    return []
