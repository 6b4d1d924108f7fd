"""summary.md: what a CI page shows under the job, short enough to be read there."""

from __future__ import annotations

from harness.verdict import Outcome, Run, Status, Verdict

_MARK = {
    Status.PASSED: "✅",
    Status.FAILED: "❌",
    Status.BLOCKED: "⛔",
    Status.NOT_APPLICABLE: "⚪",
    Status.NOT_RUN: "▫️",
}
_MAX_REASON_CHARS = 400


def render_summary(run: Run, verdict: Verdict) -> str:
    """The verdict, versions, a line for each section, and every outcome that is not green with its reason."""
    parts = [f"# {verdict}", ""]
    if verdict.rehearsal:
        parts += [f"Rehearsal: stand-ins took the part of {', '.join(run.rehearsal)}.", ""]
    if verdict.reason:
        parts += [f"**First reason:** {_cell(verdict.reason)}", ""]
    if verdict.hint:
        parts += [f"**What to do:** {_cell(verdict.hint)}", ""]
    parts += [line for note in run.notes for line in (f"**Note:** {_cell(note)}", "")]
    parts += [_facts(run), "", _versions(run), "", _sections(run), ""]
    troubles = [o for o in run.outcomes if o.status not in (Status.PASSED, Status.NOT_APPLICABLE)]
    if troubles:
        parts += ["## What is not green", "", "| outcome | | reason |", "|---|---|---|"]
        parts += [f"| `{o.id}` | {_MARK[o.status]} {o.status} | {_why(o)} |" for o in troubles]
        parts.append("")
    if run.leftovers:
        parts += ["## Left behind", ""] + [f"- {_cell(item)}" for item in run.leftovers] + [""]
    if run.again:
        parts += ["Run these again:", "", "```", run.again, "```", ""]
    return "\n".join(parts)


def _facts(run: Run) -> str:
    return (
        f"Profile `{run.profile}` · cluster {run.cluster} · artifacts {run.artifacts} · "
        f"GitLab {run.gitlab} · run `{run.run_id}` · {run.started} · {run.duration_s:.0f} s"
    )


def _versions(run: Run) -> str:
    rows = ["| component | asked for | found | |", "|---|---|---|---|"]
    for c in run.components:
        mark = "differs" if c.differs else ("not looked at" if not c.reached else "")
        asked = c.requested if c.provenance == "real" else f"{c.requested} (stand-in {c.expected})"
        rows.append(f"| {c.name} | {asked} | {c.reached or '-'} | {mark} |")
    return "\n".join(rows)


def _sections(run: Run) -> str:
    rows = ["| section | passed | failed | blocked | not applicable | s |", "|---|---|---|---|---|---|"]
    for section, members in run.sections.items():
        counts = [sum(o.status is status for o in members) for status in list(Status)[:4]]
        spent = sum(o.duration_s for o in members)
        rows.append(f"| {section} | " + " | ".join(str(n) for n in counts) + f" | {spent:.1f} |")
    return "\n".join(rows)


def _why(outcome: Outcome) -> str:
    if outcome.blocked_by:
        return "blocked by " + ", ".join(f"`{by}`" for by in outcome.blocked_by)
    return _cell(outcome.reason)


def _cell(text: str) -> str:
    """One table cell: first paragraph, no pipes or line breaks that would end it."""
    flat = " ".join(text.strip().split("\n\n")[0].split())
    if len(flat) > _MAX_REASON_CHARS:
        flat = flat[: _MAX_REASON_CHARS - 1] + "…"
    return flat.replace("|", "\\|").replace("<", "&lt;")
