"""Running outcomes from outside, as a user does, and comparing what turned red with what had to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fixtures.plugin.catalogue import ROOT, declared
from fixtures.plugin.outcomes import Spec
from selftests.faults.seen import NO_REASON, first_line, seconds_of

RUN_TIMEOUT_S = 900


@cache
def _outcomes() -> Mapping[str, Spec]:
    return {spec.id: spec for spec in declared()}


def test_of(outcome: str) -> str:
    """The node id of the test that verifies an outcome."""
    return _outcomes()[outcome].nodeid


def needs_of(outcome: str) -> set[str]:
    """What the outcome needs, if only by way of others."""
    direct = _outcomes()[outcome].needs
    return {*direct, *(further for it in direct for further in needs_of(it))}


def by_way_of(red: str, blocked: Collection[str]) -> list[str]:
    """``blocked``, and the outcomes by way of which they need ``red``: without these a run can't know it."""
    ahead = {*blocked, *(need for it in blocked for need in needs_of(it))}
    return sorted(it for it in ahead if red in needs_of(it))


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code, what it printed, and conformance.json where it came to one."""

    code: int
    output: str
    document: dict[str, Any] = field(default_factory=dict)

    def entry(self, name: str) -> dict[str, Any]:
        """An outcome by its id, or a phase as ``provision/NAME``; empty where there is none."""
        kind, _, phase = name.partition("/")
        if kind == "provision":
            return next((it for it in self.document.get("phases", ()) if it["name"] == phase), {})
        return next((it for it in self.document.get("outcomes", ()) if it["id"] == name), {})


def run_outcomes(
    *arguments: str, report: Path, project: Path = ROOT, environment: Mapping[str, str] | None = None
) -> Ended:
    """Run pytest on ``project``, which is this one or a changed copy of it."""
    document = report / "conformance.json"
    document.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--report-dir", str(report)]
    done = subprocess.run(
        [*command, *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    found = json.loads(document.read_text()) if document.exists() else {}
    return Ended(done.returncode, done.stdout + done.stderr, found)


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a red outcome besides its words; empty or 0: left open."""

    reason: str
    blame: str = ""
    rule: str = ""
    limit_s: float = 0.0


def wrong_with(entry: Mapping[str, Any], wanted: Wanted) -> str:
    """What is wrong with how an outcome turned red; empty where it is all as wanted."""
    said, first = str(entry.get("reason", "")), first_line(entry)
    if entry.get("status") != "failed":
        return f"is {entry.get('status', 'not run')}: {first or 'no reason given'}"
    if not re.search(wanted.reason, said):
        return f"does not say {wanted.reason!r}: {first or 'no reason given'}"
    rule, took = entry.get("reason_id", ""), seconds_of(entry)
    if wanted.blame and entry.get("blame") != wanted.blame:
        return f"blames {entry.get('blame')} instead of {wanted.blame} ({rule}): {first}"
    if wanted.rule and rule != wanted.rule:
        return f"is explained by {rule or 'no rule'} instead of {wanted.rule}: {first}"
    if wanted.limit_s and took > wanted.limit_s:
        return f"is red after {took:.0f} s, {wanted.limit_s:.0f} s at most: {first}"
    return ""


def beside(ended: Ended, red: Collection[str], green: Collection[str], blocked: Collection[str]) -> list[str]:
    """What is wrong beside the outcomes that had to turn red."""
    found = [
        f"{name} is {entry.get('status', 'not run')} and must be {status}: {first_line(entry)}"
        for names, status in ((green, "passed"), (blocked, "blocked"))
        for name in names
        if (entry := ended.entry(name)).get("status") != status
    ]
    entries = ended.document.get("outcomes", ())
    found += [
        f"{it['id']} is red too: {first_line(it)}"
        for it in entries
        if it["status"] == "failed" and it["id"] not in (*red, *green, *blocked)
    ]
    told = [it for it in (*entries, *ended.document.get("phases", ())) if it["status"] == "failed"]
    return found + [f"this is no reason: {first_line(it)}" for it in told if NO_REASON.search(first_line(it))]
