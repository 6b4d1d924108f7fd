"""report.html, self-contained: verdict, outcomes by section, timeline of steps, evidence, next command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources

import jinja2
from markupsafe import Markup

from harness.verdict import Outcome, Phase, Run, Status, Verdict, Word

_CLASS = {
    Status.PASSED: "passed",
    Status.FAILED: "failed",
    Status.BLOCKED: "blocked",
    Status.NOT_APPLICABLE: "na",
    Status.NOT_RUN: "notrun",
    Word.CONFORMS: "passed",
    Word.DOES_NOT_CONFORM: "failed",
    Word.INCONCLUSIVE: "blocked",
}
_NARROWEST_PERCENT = 0.4
"""A bar that can still be seen."""


def render_page(run: Run, verdict: Verdict) -> str:
    """The page as text. It loads nothing: style is inside, and there is no script."""
    width_s = max([phase.ended_s for phase in run.phases] + [0.001])
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_text("page.html.j2")).render(
        run=run,
        verdict=verdict,
        style=Markup(_text("page.css")),
        css=_CLASS,
        reason_parts=_reason_parts,
        width_s=width_s,
        bars=list(_bars(run.phases, width_s)),
    )


def _text(name: str) -> str:
    return resources.files("harness.report").joinpath(name).read_text(encoding="utf-8")


def _reason_parts(outcome: Outcome) -> tuple[str, str]:
    """The reason's first line and the rest; nothing where *blocked by …* says it already."""
    if outcome.reason == f"blocked by {', '.join(outcome.blocked_by)}":
        return "", ""
    first, _, rest = outcome.reason.strip().partition("\n")
    return first, rest


def _bars(phases: Sequence[Phase], width_s: float) -> Iterator[tuple[Phase, float, float]]:
    """Each phase with the left edge and the width of its bar, in percent."""
    for phase in sorted(phases, key=lambda p: p.started_s):
        width = max(100 * phase.duration_s / width_s, _NARROWEST_PERCENT)
        yield phase, min(100 * phase.started_s / width_s, 100 - width), width
