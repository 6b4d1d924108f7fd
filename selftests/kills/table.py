"""The table of docs/leftovers.md: what was killed how often, and what was left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selftests.kills.plan import SIGNALS

Line = Mapping[str, Any]


def table(results: Sequence[Line]) -> str:
    """A row for each process of each run; the last result of a case that was carried out again."""
    last = list({(it["seed"], it["number"]): it for it in results}.values())
    rows = dict.fromkeys((it["subject"], it["target"]) for it in sorted(last, key=_row))
    lines = [
        f"| run | process | {' | '.join(SIGNALS)} | nothing left at once | after `reap` | not as promised |",
        f"|---|---|{'---|' * len(SIGNALS)}---|---|---|",
    ]
    for row in rows:
        some = [it for it in last if (it["subject"], it["target"]) == row]
        numbers = [sum(it["signal"] == name for it in some) or "" for name in SIGNALS]
        clean = f"{sum(not it['left_at_once'] for it in some)} of {len(some)}"
        after = f"{sum(not it['left_after_reap'] for it in some)} of {len(some)}"
        wrong = sum(bool(it["wrong"]) for it in some)
        lines.append(f"| {' | '.join(map(str, (*row, *numbers, clean, after, wrong)))} |")
    points = {(it["subject"], it["phase"], it["delay_s"]) for it in last}
    minutes = sum(it["seconds"] for it in last) / 60
    missed = sum(not it["reached"] for it in last)
    seeds = ", ".join(map(str, sorted({it["seed"] for it in last})))
    lines.append(
        f"\n{len(last)} kills at {len(points)} points, {minutes:.0f} min, seed {seeds}; "
        f"{missed} came when the phase had not been reached."
    )
    return "\n".join(lines)


def _row(line: Line) -> tuple[str, bool, str]:
    return line["subject"], line["target"] != "main", line["target"]
