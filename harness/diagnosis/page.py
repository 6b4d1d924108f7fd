"""docs/reasons.md and `runner-conformance explain ID`: ``python -m harness.diagnosis.page``."""

from __future__ import annotations

from pathlib import Path

from harness.diagnosis.catalogue import BY_ID, RULES
from harness.diagnosis.model import SOURCES, Rule
from harness.errors import UsageError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reasons.md"

_HEAD = """# Reasons

Made by `python -m harness.diagnosis.page` from the rules in `harness/diagnosis/`; a selftest keeps it true.
`runner-conformance explain ID` prints one of them.

A reason is what the suite makes of what it saw: *product* is at fault where what was asked for can't do what
the how-to says although its surroundings are well, *environment* where the surroundings are not (registry,
network, host, policy, rights, GitLab), *suite* where this project has a defect. Where several match, the most
telling one is shown and the others are listed below it. What no rule knows is called unknown, with the last
state.

*Ends a wait* says how long a reason must last, without a gap, until waiting is given up, and why; *never*
means that only the wait's own limit ends it. Times are in seconds.
"""


def render() -> str:
    """The page: a table for each domain, the most telling rules first."""
    lines = [_HEAD, f"{len(RULES)} reasons."]
    for domain in dict.fromkeys(rule.domain for rule in RULES):
        lines += ["", f"## {domain}", "", "| id | meaning | blame | what to do | ends a wait |"]
        lines += ["|---|---|---|---|---|"]
        members = sorted((it for it in RULES if it.domain == domain), key=lambda it: -it.rank)
        lines += [
            f"| `{it.id}` | {_cell(it.meaning)} | {it.blame} | {_cell(it.do)} | {_cell(_patience(it))} |"
            for it in members
        ]
    return "\n".join(lines) + "\n"


def explain(reason_id: str) -> str:
    """One reason for a reader on a terminal. Raises UsageError for an id that no rule has."""
    rule = BY_ID.get(reason_id)
    if rule is None:
        domain = reason_id.partition("/")[0]
        near = [it for it in BY_ID if it.startswith(f"{domain}/")] or sorted({it.domain for it in RULES})
        raise UsageError(f"no reason is called {reason_id!r}", f"there are: {', '.join(near)}")
    seen = "; ".join(SOURCES[source] for source in rule.sources)
    return "\n".join(
        (
            f"{rule.id}: {rule.meaning}",
            f"  At fault:     {rule.blame}",
            f"  What to do:   {rule.do}",
            f"  Ends a wait:  {_patience(rule)}",
            f"  Seen in:      {seen}",
            f"  Sign:         {rule.sign or 'any words'}",
        )
    )


def _patience(rule: Rule) -> str:
    if rule.final_after_s is None:
        longer = f", and makes its limit up to {rule.stretches_s:.0f} s longer" if rule.stretches_s else ""
        return f"never{longer}: {rule.why}"
    return f"{f'after {rule.final_after_s:.0f} s' if rule.final_after_s else 'at once'}: {rule.why}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
