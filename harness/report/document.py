"""conformance.json: the run as data. Its schema is conformance.schema.json, beside this module."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from harness.verdict import Component, Outcome, Phase, Run, Status, Verdict

FORMAT = 1


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) that every conformance.json satisfies."""
    text = resources.files("harness.report").joinpath("conformance.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def conformance_document(run: Run, verdict: Verdict) -> dict[str, Any]:
    """The run and its verdict as plain data. Times in seconds, ``started`` in UTC (RFC 3339)."""
    return {
        "format": FORMAT,
        "verdict": {
            "word": str(verdict.word),
            "rehearsal": verdict.rehearsal,
            "text": str(verdict),
            "reason": verdict.reason,
            "hint": verdict.hint,
            "blame": verdict.blame,
            "exit_code": verdict.exit_code,
            "counts": {str(status): verdict.counts.get(status, 0) for status in Status},
        },
        "run": {
            "id": run.run_id,
            "started": run.started,
            "duration_s": round(run.duration_s, 3),
            "profile": run.profile,
            "cluster": run.cluster,
            "artifacts": run.artifacts,
            "gitlab": run.gitlab,
            "interrupted": bool(run.interrupted),
            "command": run.command,
            "again": run.again,
            "notes": list(run.notes),
            "host": run.host,
            "suite": run.suite,
        },
        "components": [_component(c) for c in run.components],
        "outcomes": [_outcome(o) for o in run.outcomes],
        "phases": [_phase(p) for p in run.phases],
        "leftovers": list(run.leftovers),
    }


def _component(component: Component) -> dict[str, Any]:
    return {
        "name": component.name,
        "requested": component.requested,
        "promised": component.expected,
        "reached": component.reached,
        "provenance": component.provenance,
        "source": component.source,
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "id": outcome.id,
        "section": outcome.section,
        "title": outcome.title,
        "promise": outcome.promise,
        "status": str(outcome.status),
        "needs": list(outcome.needs),
        "blocked_by": list(outcome.blocked_by),
        "reason": outcome.reason,
        "hint": outcome.hint,
        "blame": outcome.blame,
        "reason_id": outcome.reason_id,
        "duration_s": round(outcome.duration_s, 3),
        "test": outcome.nodeid,
        "evidence": list(outcome.evidence),
        "read_from": list(outcome.read_from),
    }


def _phase(phase: Phase) -> dict[str, Any]:
    return {
        "name": phase.name,
        "started_s": round(phase.started_s, 3),
        "duration_s": round(phase.duration_s, 3),
        "status": str(phase.status),
        "critical": phase.critical,
        "reason": phase.reason,
        "hint": phase.hint,
        "blame": phase.blame,
        "reason_id": phase.reason_id,
        "blocked_by": phase.blocked_by,
    }
