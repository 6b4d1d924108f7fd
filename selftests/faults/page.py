"""docs/faults.md, from what was seen on real nodes: ``python -m selftests.faults.page``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from selftests.faults.breakages import BREAKAGES
from selftests.faults.catalogue import FAULTS
from selftests.faults.seen import Seen, read_seen
from selftests.faults.slips import RUNS
from selftests.faults.surroundings import SURROUNDINGS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
BY_HAND_S: Mapping[str, int] = {
    "cluster": 30,
    "cert-manager": 300,
    "olm": 300,
    "operator": 300,
    "runner": 300,
    "registry": 300,
    "runner-how-to": 300,
    "pipeline": 3600,
    "docker-sock": 3600,
    "daemonless": 3600,
    "offline": 300,
    "kube-rbac-proxy": 300,
}
"""kubectl wait's default; rollout status --timeout as in install.sh; OLM's own; GitLab's job timeout."""

_PARTS = {
    "kept": "On a running stack",
    "faults": "While a stack is made, or in what it is made from",
    "slips": "In a file of the how-to",
}
_HEAD = """# Faults and how soon they are named

Made by `python -m selftests.faults.page` from what `python -m selftests.faults BUNDLE --record` saw on real
nodes of the lab (a rehearsal: k3s, OLM, operator and Runner are stand-ins); a selftest keeps it true. Each
fault is broken on purpose; the outcome named must turn red, with the blame and by the rule named
([reasons.md](reasons.md)), what stands on it must be blocked, and nothing else may be red. Times are in
seconds: of the wait that told it, or of the whole test; *with it*: as soon as the job had ended. *By hand* is
how long the commands of the how-to wait without looking at a reason: kubectl's own 30 s, 300 s of
`rollout status` in install.sh and of OLM, GitLab's hour of a job.
"""


def render(seen: Sequence[Seen] | None = None) -> str:
    """The page."""
    rows = read_seen() if seen is None else seen
    lines = [_HEAD, summary([it for it in rows if it.red and it.red != "refused"])]
    for part, title in _PARTS.items():
        of_part = [it for it in rows if it.part == part]
        lines += ["", f"## {title}", "", *table(of_part)]
        if missing := sorted(catalogue(part) - {it.fault for it in of_part}):
            lines += ["", f"Not seen since reasons come from rules: {'; '.join(missing)}."]
    return "\n".join(lines) + "\n"


def summary(rows: Sequence[Seen]) -> str:
    if not [it for it in rows if it.seconds is not None]:
        return "None was seen yet."
    times = [it.seconds for it in rows if it.seconds is not None]
    return (
        f"{len(rows)} outcomes turned red, {len(times)} of them with a time: "
        f"median {statistics.median(times):.1f} s, slowest {max(times):.1f} s, "
        f"{sum(it > 45 for it in times)} over 45 s."
    )


def table(rows: Sequence[Seen]) -> list[str]:
    head = ["| fault | turns red | because | named after | by hand |", "|---|---|---|---|---|"]
    return [*head, *(_row(it) for it in rows)]


def _row(seen: Seen) -> str:
    because = f"{seen.blame}, `{seen.rule}`" if seen.rule else seen.blame
    red = f"`{seen.red}`" if seen.red else "nothing"
    by_hand = BY_HAND_S.get(seen.red.removeprefix("provision/").partition("/")[0], 0)
    named = "with it" if seen.seconds is None else f"{seen.seconds:.1f}"
    times = f"{named} | {by_hand}" if by_hand else "- | -"
    return f"| {_cell(seen.fault)} | {red} | {because or '-'} | {times} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def catalogue(part: str) -> set[str]:
    """Every fault of a part."""
    if part == "kept":
        return {it.what for it in (*SURROUNDINGS, *BREAKAGES)}
    if part == "slips":
        return {slip.what for run in RUNS for slip in run.slips}
    return {it.what for it in FAULTS.values()}


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
