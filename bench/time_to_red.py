"""How long it takes until a fault is named, beside what waiting by hand would have cost.

    python -m bench time_to_red BUNDLE [--only PATTERN]

A row for each fault of a kept stack: seconds from the first look at the outcome until it was red, and its
rule. By hand means `kubectl wait` and `rollout status` with the limits of the how-to's commands (300 s for
a rollout, 30 times 10 s for install.sh's packageserver, 300 s for OLM's install): none looks at a reason.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROW = re.compile(
    r"^\| `(?P<red>[^`]+)` \| (?P<what>.*?) \| (?P<blame>\w+)(, `(?P<rule>[^`]+)`)?, (?P<s>\d+) s \|"
)
BY_HAND_S = {"cluster": 30, "cert-manager": 300, "olm": 300, "operator": 300, "runner": 300, "pipeline": 3600}
"""kubectl wait's default; rollout status --timeout as in install.sh; OLM's own; GitLab's job timeout."""


def main(arguments: Sequence[str]) -> int:
    """The command line. Returns 1 when a fault was not named as the catalogue says."""
    from selftests.faults import kept

    parser = argparse.ArgumentParser(prog="python -m bench time_to_red", description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--only", default="^(admission|schedule|api|pull|container)/")
    words = parser.parse_args(arguments)
    said = io.StringIO()
    with (
        tempfile.TemporaryDirectory(prefix="time-to-red-", dir=words.bundle.resolve().parent) as scratch,
        contextlib.redirect_stdout(said),
    ):
        complaints = kept.see(words.bundle.resolve(), Path(scratch), words.only)
    rows = [found for line in said.getvalue().splitlines() if (found := ROW.match(line))]
    print("| outcome | fault | named after | by hand |\n|---|---|---|---|")
    for row in rows:
        by_hand = BY_HAND_S[row["red"].split("/")[0]]
        print(
            f"| `{row['red']}` | {row['what']} | {row['s']} s: {row['rule'] or row['blame']} | {by_hand} s |"
        )
    times = [int(row["s"]) for row in rows]
    if times:
        print(f"\n{len(times)} faults: median {statistics.median(times):.0f} s, slowest {max(times)} s")
    print("\n".join(complaints), file=sys.stderr)
    return 1 if complaints else 0
