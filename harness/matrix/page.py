"""matrix.html and matrix.md: every combination's last verdict, what is red since when, how durations went."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from harness.history.questions import (
    Change,
    Since,
    by_series,
    differences,
    finished,
    flaky,
    red_since,
    slower,
)
from harness.history.store import PastRun
from harness.redact import redact

_PLOT_RUNS, _PLOT_WIDTH, _PLOT_HEIGHT = 30, 120, 24
_CSS = {"CONFORMS": "passed", "DOES NOT CONFORM": "failed", "INCONCLUSIVE": "blocked"}
_MARK = {"passed": "✓", "failed": "✗", "blocked": "?", "na": "-"}
"""So that the page is read without colours too."""


@dataclass(frozen=True)
class Count:
    """How many outcomes of a section passed."""

    passed: int
    total: int
    css: str

    @property
    def mark(self) -> str:
        return _MARK[self.css]


@dataclass(frozen=True)
class CellView:
    """A series as the page shows it: its last run, compared with those before."""

    title: str
    last: PastRun
    sections: Mapping[str, Count]
    since: Sequence[Since]
    changes: Sequence[Change]
    flaky: Mapping[str, int]
    slower: Mapping[str, tuple[float, float]]
    changed: bool
    plot: Markup

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9.]+", "-", self.title.lower())

    @property
    def css(self) -> str:
        return _CSS.get(self.last.word, "blocked")

    @property
    def mark(self) -> str:
        return _MARK[self.css]

    @property
    def red(self) -> bool:
        return self.last.word != "CONFORMS"

    @property
    def verdict(self) -> str:
        return self.last.verdict

    def __getattr__(self, name: str) -> object:
        return getattr(self.last, name)


def views(runs: Sequence[PastRun]) -> list[CellView]:
    """A view of each series, in the order of their first run. ``runs``: the oldest first."""
    found = []
    for title, members in by_series(runs).items():
        complete = finished(members) or members
        last, before = complete[-1], complete[-2] if len(complete) > 1 else None
        changes = differences(before, last) if before else ()
        found.append(
            CellView(
                title,
                last,
                _sections(last),
                sorted(red_since(members).values(), key=lambda it: it.outcome),
                changes,
                flaky(members),
                slower(members),
                bool(before and (before.word != last.word or _reds(before) != _reds(last) or changes)),
                _plot(complete[-_PLOT_RUNS:]),
            )
        )
    return found


def render_matrix(runs: Sequence[PastRun], history: Path, since: str = "", made: str = "") -> str:
    """The page as text; it loads nothing and has no script."""
    cells = views(runs)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    sections = dict.fromkeys(section for cell in cells for section in cell.sections)
    text = environment.from_string(_text("matrix.html.j2")).render(
        headline=headline(cells),
        cells=cells,
        runs=len(runs),
        sections=list(sections),
        rehearsal=any(cell.last.rehearsal for cell in cells),
        since=since,
        style=Markup(_text("matrix.css")),
        made=made or datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        history=history.name,
    )
    return redact(text)


def render_markdown(runs: Sequence[PastRun]) -> str:
    """The same for the summary of a CI page."""
    cells = views(runs)
    lines = [f"# {headline(cells)}", "", "| combination | verdict | first reason |", "|---|---|---|"]
    lines += [f"| {_cell(c.title)} | {c.mark} {c.verdict} | {_cell(c.last.reason)} |" for c in cells]
    reds = [(cell, item) for cell in cells for item in cell.since]
    if reds:
        lines += ["", "| red | since |", "|---|---|"]
        lines += [f"| `{item.outcome}` ({_cell(cell.title)}) | {_cell(str(item))} |" for cell, item in reds]
    return redact("\n".join(lines) + "\n")


def headline(cells: Sequence[CellView]) -> str:
    """``3 of 4 combinations conform (rehearsal)``"""
    green = sum(not cell.red for cell in cells)
    rehearsal = " (rehearsal)" if any(cell.last.rehearsal for cell in cells) else ""
    return f"{green} of {len(cells)} combinations conform{rehearsal}"


def _sections(run: PastRun) -> dict[str, Count]:
    found: dict[str, list[str]] = {}
    for outcome_id, result in run.outcomes.items():
        found.setdefault(outcome_id.split("/", 1)[0], []).append(result.status)
    return {section: _count(statuses) for section, statuses in found.items()}


def _count(statuses: Sequence[str]) -> Count:
    passed = sum(status == "passed" for status in statuses)
    applicable = [status for status in statuses if status != "not applicable"]
    css = (
        "failed"
        if "failed" in statuses
        else "na"
        if not applicable
        else "passed"
        if passed == len(applicable)
        else "blocked"
    )
    return Count(passed, len(applicable), css)


def _reds(run: PastRun) -> set[str]:
    return {outcome_id for outcome_id, result in run.outcomes.items() if result.red}


def _plot(runs: Sequence[PastRun]) -> Markup:
    """Durations as a line, the oldest left, a dot for each run in the colour of its verdict."""
    top = max((run.duration_s for run in runs), default=0) or 1.0
    step = _PLOT_WIDTH / max(1, len(runs) - 1)
    points = [
        (4 + i * step, 4 + _PLOT_HEIGHT * (1 - run.duration_s / top), run) for i, run in enumerate(runs)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    dots = Markup("").join(
        Markup('<circle class="{}" cx="{}" cy="{}" r="2"><title>{}: {}, {} s</title></circle>').format(
            "green" if run.word == "CONFORMS" else "red",
            f"{x:.1f}",
            f"{y:.1f}",
            run.started,
            run.word,
            f"{run.duration_s:.0f}",
        )
        for x, y, run in points
    )
    return Markup(
        '<svg width="{}" height="{}" role="img" aria-label="durations of the last {} runs, up to {} s">'
        '<polyline class="line" points="{}"/>{}</svg>'
    ).format(_PLOT_WIDTH + 8, _PLOT_HEIGHT + 8, len(runs), f"{top:.0f}", line, dots)


def _text(name: str) -> str:
    return resources.files("harness.matrix").joinpath(name).read_text(encoding="utf-8")


def _cell(text: str) -> str:
    return (text.strip().splitlines() or [""])[0].replace("|", "\\|").replace("<", "&lt;")
