"""Running outcomes from outside, as a user does, and comparing what turned red with what had to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fixtures.plugin.catalogue import ROOT, declared

RUN_TIMEOUT_S = 900
ROW_CHARS = 220


@cache
def test_of(outcome: str) -> str:
    """The node id of the test that verifies an outcome."""
    return {spec.id: spec.nodeid for spec in declared()}[outcome]


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

    blame: str = ""
    rule: str = ""
    limit_s: float = 0.0


NO_REASON = re.compile(r"^[A-Za-z_.]*(Error|Exception|_Again)\b|\bnot so after\b|…$")
"""How no reason may begin or end: with an exception's class, or in the middle of its cause."""


def compare(
    red: str, what: str, entry: Mapping[str, Any], reason: str, wanted: Wanted = Wanted()
) -> list[str]:
    """Print a row for selftests/README.md when ``red`` failed for its reason; else a complaint."""
    said = entry.get("reason", "").strip()
    first = said.splitlines()[0] if said else ""
    if entry.get("status") != "failed" or not re.search(reason, said):
        return [f"{red}: {what}: {entry.get('status', 'not run')}: {first or 'no reason given'}"]
    took, rule = float(entry.get("duration_s", 0.0)), entry.get("reason_id", "")
    if NO_REASON.search(first):
        return [f"{red}: {what}: this is no reason: {first}"]
    if wanted.blame and entry.get("blame") != wanted.blame:
        return [f"{red}: {what}: blames {entry.get('blame')} instead of {wanted.blame} ({rule}): {first}"]
    if wanted.rule and rule != wanted.rule:
        return [f"{red}: {what}: explained by {rule or 'no rule'} instead of {wanted.rule}: {first}"]
    if wanted.limit_s and took > wanted.limit_s:
        return [f"{red}: {what}: red after {took:.0f} s, {wanted.limit_s:.0f} s at most: {first}"]
    who = f"{entry.get('blame')}{f', `{rule}`' if rule else ''}, {took:.0f} s"
    print(f"| `{red}` | {what} | {who} | {in_short(first)} |", flush=True)
    return []


def still_green(what: str, green: Sequence[str], ended: Ended) -> list[str]:
    """Complaints about outcomes that a fault may not turn red."""
    return [
        f"{outcome}: {what}: is {entry.get('status')} and must pass: {entry.get('reason', '')[:300]}"
        for outcome in green
        if (entry := ended.entry(outcome)).get("status") != "passed"
    ]


def in_short(line: str) -> str:
    """A line as a cell of a table, without directories of this machine."""
    flat = re.sub(r"\s+", " ", line).replace("|", "\\|")
    flat = re.sub(r"(?<![\w.:/])(/[\w.+-]+){2,}/(?=[\w.+-]+)", "…/", flat)
    return flat if len(flat) <= ROW_CHARS else f"{flat[: ROW_CHARS - 1]}…"


def told(complaints: list[str]) -> list[str]:
    """The complaints, which are told at once: a whole run takes half an hour."""
    for line in complaints:
        print(line, file=sys.stderr, flush=True)
    return complaints
