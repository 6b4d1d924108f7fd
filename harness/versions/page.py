"""The page docs/versions.md, made from the table by ``python -m harness.versions.page``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.versions import facts
from harness.versions.releases import KNOWN, NEWEST, NEWEST_AS_OF
from harness.versions.table import Difference

PAGE = Path(__file__).resolve().parents[2] / "docs/versions.md"

_HEAD = """# Versions

Made by `python -m harness.versions.page` from `harness/versions/`; a selftest keeps it true. Layers and tests
ask the same table. A version newer than all rows is judged by the newest row, and the report says so.
"""
_COMPONENTS = {
    "k3s": "k3s",
    "cert-manager": "cert-manager",
    "olm": "Operator Lifecycle Manager",
    "operator": "GitLab Runner Operator",
    "runner": "GitLab Runner",
    "docker": "docker's command line",
}


def render() -> str:
    """The page's text."""
    parts = [_HEAD, "## What differs\n"]
    for component, title in _COMPONENTS.items():
        rows = [line for fact in facts.FACTS if fact.component == component for line in _rows(fact)]
        parts.append(
            f"### {title}\n\n| what | from | value | source |\n|---|---|---|---|\n" + "\n".join(rows)
        )
    parts.append("### Operator and Runner\n\n" + _pairs(("operator", "ships Runner"), facts.SHIPPED_RUNNER))
    parts.append(_pairs(("operator", "its CSV replaces"), facts.PREDECESSOR))
    parts.append("## Releases that are known\n\n" + _releases())
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _rows(fact: Difference[object]) -> Iterable[str]:
    for number, row in enumerate(fact.rows):
        what = fact.what if number == 0 else ""
        yield f"| {what} | {row.since or 'the beginning'} | {_text(row.value)} | {row.source} |"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple) and all(isinstance(it, int) for it in value) and value:
        return ".".join(map(str, value))
    if isinstance(value, frozenset | tuple):
        words = sorted(value, key=str) if isinstance(value, frozenset) else value
        return ", ".join(f"`{it}`" for it in words) or "none"
    return f"`{value}`" if isinstance(value, str) else str(value)


def _pairs(titles: tuple[str, str], rows: Mapping[str, str]) -> str:
    lines = [f"| {titles[0]} | {titles[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {left} | {right} |" for left, right in rows.items())])


def _releases() -> str:
    lines = ["| component | newest | as of | source |", "|---|---|---|---|"]
    for component, newest in NEWEST.items():
        known = KNOWN.get(component)
        as_of, source = (known.as_of, known.source) if known else (NEWEST_AS_OF, "its tags")
        lines.append(f"| {component} | {newest} | {as_of} | {source} |")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(render())
