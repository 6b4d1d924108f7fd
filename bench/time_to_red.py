"""How long it takes until a fault is named, beside what waiting by hand would have cost.

    python -m bench time_to_red BUNDLE [--only PATTERN]

A row for each fault of a kept stack: seconds until it was named, and its rule. By hand means `kubectl wait`
and `rollout status` with the limits of the how-to's commands, OLM's own 300 s, GitLab's hour of a job.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """The command line. Returns 1 when a fault was not named as the catalogue says."""
    from selftests.faults import kept, page
    from selftests.faults.seen import Record

    parser = argparse.ArgumentParser(prog="python -m bench time_to_red", description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--only", default="^(admission|schedule|api|pull|container)/")
    words = parser.parse_args(arguments)
    record = Record()
    with tempfile.TemporaryDirectory(prefix="time-to-red-", dir=words.bundle.resolve().parent) as scratch:
        kept.see(words.bundle.resolve(), Path(scratch), words.only, record)
    print("\n".join(["", *page.table(record.seen), "", page.summary(record.seen)]))
    print("\n".join(record.complaints), file=sys.stderr)
    return 1 if record.complaints else 0
