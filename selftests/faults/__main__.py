"""See outcomes red on a real node, and record what was seen.

    python -m selftests.faults BUNDLE [--part kept|slips|faults] [--only PATTERN] [--record]
    python -m selftests.faults BUNDLE --sample 8 [--seed N]

Exit code 1 when something else, or nothing, turned red, or for another reason. Root.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import date
from pathlib import Path

from selftests.faults import kept, page, slips, whole_runs
from selftests.faults.seen import SEEN, Record

PARTS = {"kept": kept, "slips": slips, "faults": whole_runs}


def main() -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m selftests.faults", description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--part",
        action="append",
        choices=PARTS,
        help="a kept stack broken and mended; runs of wrong files; the lab's catalogue. All by default",
    )
    parser.add_argument("--only", default="", help="faults whose words, outcomes or rule match this")
    parser.add_argument("--sample", type=int, default=0, help="only so many, others each day")
    parser.add_argument("--seed", type=int, default=date.today().toordinal(), help="of the sample; printed")
    parser.add_argument("--record", action="store_true", help=f"keep it in {SEEN.name}, and make the page")
    parser.add_argument(
        "--unseen", action="store_true", help="with --record: only what is not kept there yet"
    )
    words = parser.parse_args()
    record = Record(SEEN if words.record else None, unseen=words.unseen)
    # Beside the bundle: copies of it are hard links.
    with tempfile.TemporaryDirectory(prefix="seen-red-", dir=words.bundle.resolve().parent) as scratch:
        if words.sample:
            print(f"a sample of {words.sample} faults, --seed {words.seed}", flush=True)
            kept.see_sample(words.bundle.resolve(), Path(scratch), words.sample, words.seed, record)
        for name in () if words.sample else words.part or PARTS:
            PARTS[name].see(words.bundle.resolve(), Path(scratch), words.only, record)
    if words.record:
        page.PAGE.write_text(page.render(), encoding="utf-8")
    print(f"{len(record.seen)} seen as they should be, {len(record.complaints)} complaints")
    return 1 if record.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
