"""report.html, self-contained: verdict, outcomes by section, timeline of phases, evidence, next command."""

from __future__ import annotations

from html import escape
from importlib import resources
from urllib.parse import quote

from harness.verdict import Component, Outcome, Phase, Run, Status, Verdict, Word

_CLASS = {
    Status.PASSED: "passed",
    Status.FAILED: "failed",
    Status.BLOCKED: "blocked",
    Status.NOT_APPLICABLE: "na",
    Status.NOT_RUN: "notrun",
}
_VERDICT_CLASS = {
    Word.CONFORMS: "passed",
    Word.DOES_NOT_CONFORM: "failed",
    Word.INCONCLUSIVE: "blocked",
}


def render_page(run: Run, verdict: Verdict) -> str:
    """The page as text. It loads nothing: style is inside, and there is no script."""
    style = resources.files("harness.report").joinpath("page.css").read_text(encoding="utf-8")
    body = "\n".join(
        part
        for part in (
            _head(run, verdict),
            _again(run),
            _outcomes(run),
            _timeline(run),
            _versions(run),
            _leftovers(run),
            _foot(run),
        )
        if part
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(str(verdict))} · {escape(run.profile)}</title>\n"
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _head(run: Run, verdict: Verdict) -> str:
    lines = [f'<header class="{_VERDICT_CLASS[verdict.word]}">', f"<h1>{escape(str(verdict))}</h1>"]
    if verdict.rehearsal:
        names = escape(", ".join(run.rehearsal))
        lines.append(f'<p class="rehearsal">Rehearsal: stand-ins took the part of {names}.</p>')
    if verdict.reason:
        lines.append(f"<p><strong>First reason.</strong> {escape(verdict.reason)}</p>")
    if verdict.hint:
        lines.append(f"<p><strong>What to do.</strong> {escape(verdict.hint)}</p>")
    counts = " ".join(
        f'<li class="{_CLASS[status]}"><b>{number}</b> {escape(str(status))}</li>'
        for status, number in verdict.counts.items()
        if number
    )
    facts = (
        ("Profile", run.profile),
        ("Cluster", run.cluster),
        ("Artifacts", run.artifacts),
        ("GitLab", run.gitlab),
    )
    lines.append(f'<ul class="counts">{counts}</ul>')
    lines.append("<dl>" + "".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in facts) + "</dl>")
    lines.append("</header>")
    return "\n".join(lines)


def _again(run: Run) -> str:
    if not run.again:
        return ""
    return f"<section><h2>Run these again</h2><pre class=command>{escape(run.again)}</pre></section>"


def _outcomes(run: Run) -> str:
    parts = ["<section><h2>Outcomes</h2>"]
    for section, members in run.sections.items():
        green = sum(o.status is Status.PASSED for o in members)
        parts.append(
            f'<h3 id="{escape(section)}">{escape(section)} <small>{green} of {len(members)}</small></h3>'
        )
        parts.append('<table class="outcomes"><tbody>')
        parts += [_outcome_row(o) for o in members]
        parts.append("</tbody></table>")
    parts.append("</section>")
    return "\n".join(parts)


def _outcome_row(outcome: Outcome) -> str:
    details = []
    said = f"blocked by {', '.join(outcome.blocked_by)}"
    if outcome.blocked_by:
        links = ", ".join(f'<a href="#{escape(by)}">{escape(by)}</a>' for by in outcome.blocked_by)
        details.append(f"<p>blocked by {links}</p>")
    if outcome.reason and outcome.reason != said:
        opened = " open" if outcome.status is Status.FAILED else ""
        first, *rest = outcome.reason.strip().splitlines()
        if rest:
            text = escape("\n".join(rest))
            details.append(f"<details{opened}><summary>{escape(first)}</summary><pre>{text}</pre></details>")
        else:
            details.append(f"<p>{escape(first)}</p>")
    if outcome.hint:
        details.append(f"<p><strong>What to do.</strong> {escape(outcome.hint)}</p>")
    if outcome.evidence:
        links = " ".join(f'<a href="{quote(path)}">{escape(path)}</a>' for path in outcome.evidence)
        details.append(f'<p class="evidence">Evidence: {links}</p>')
    blame = f' <span class="blame">{escape(str(outcome.blame))}</span>' if outcome.blame else ""
    promise = f'<p class="promise">{escape(outcome.promise)}</p>' if outcome.promise else ""
    return (
        f'<tr id="{escape(outcome.id)}" class="{_CLASS[outcome.status]}">'
        f'<td class="status"><span class="badge">{escape(str(outcome.status))}</span>{blame}</td>'
        f"<td><code>{escape(outcome.id)}</code><p>{escape(outcome.title)}</p>{promise}{''.join(details)}</td>"
        f'<td class="number">{outcome.duration_s:.1f} s</td></tr>'
    )


def _timeline(run: Run) -> str:
    if not run.phases:
        return ""
    end = max(max(p.ended_s for p in run.phases), 0.001)
    rows = [_phase_row(phase, end) for phase in sorted(run.phases, key=lambda p: p.started_s)]
    return (
        '<section><h2>Timeline</h2><p class="note">Phases of provisioning and removal; '
        f"the whole width is {end:.0f} s. Dark bars are on the critical path.</p>"
        f'<div class="timeline">{"".join(rows)}</div></section>'
    )


def _phase_row(phase: Phase, end: float) -> str:
    left = 100 * phase.started_s / end
    width = max(100 * phase.duration_s / end, 0.4)
    left = min(left, 100 - width)
    critical = " critical" if phase.critical else ""
    why = phase.reason or (f"blocked by {phase.blocked_by}" if phase.blocked_by else "")
    reason = f'<p class="why">{escape(why)}</p>' if why and phase.status is not Status.PASSED else ""
    return (
        f'<div class="phase {_CLASS[phase.status]}{critical}" id="{escape(phase.id)}">'
        f'<span class="name">{escape(phase.name)}</span>'
        f'<span class="track"><span class="bar" style="left:{left:.2f}%;width:{width:.2f}%"></span></span>'
        f'<span class="number">{phase.duration_s:.1f} s</span>{reason}</div>'
    )


def _versions(run: Run) -> str:
    if not run.components:
        return ""
    head = "<tr><th>component<th>asked for<th>found<th>where it came from</tr>"
    rows = "".join(_version_row(c) for c in run.components)
    table = f'<table class="versions"><thead>{head}</thead><tbody>{rows}</tbody></table>'
    return f"<section><h2>Versions</h2>{table}</section>"


def _version_row(component: Component) -> str:
    found = escape(component.reached) or "<em>not looked at</em>"
    css = ' class="failed"' if component.differs else ""
    kind = (
        ""
        if component.provenance == "real"
        else f'<span class="badge standin">stand-in {escape(component.expected)}</span> '
    )
    return (
        f"<tr{css}><td>{escape(component.name)}</td><td>{escape(component.requested)}</td>"
        f"<td>{found}</td><td>{kind}{escape(component.source)}</td></tr>"
    )


def _leftovers(run: Run) -> str:
    if not run.leftovers:
        return ""
    items = "".join(f"<li>{escape(item)}</li>" for item in run.leftovers)
    return f'<section class="failed"><h2>Left behind</h2><ul>{items}</ul></section>'


def _foot(run: Run) -> str:
    notes = "".join(f"<p>{escape(note)}</p>" for note in run.notes)
    return (
        f"<footer>{notes}<p>Run <code>{escape(run.run_id)}</code>, {escape(run.started)}, "
        f"{run.duration_s:.0f} s. <code>{escape(run.command)}</code></p></footer>"
    )
