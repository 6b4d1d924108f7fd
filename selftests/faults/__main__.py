"""See outcomes red on a real node, and print rows for selftests/README.md.

    python -m selftests.faults BUNDLE [--part kept|slips|faults] [--only TEXT]

Exit code 1 when something else, or nothing, turned red, or for another reason. Root.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from selftests.faults import kept, slips, whole_runs

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
    parser.add_argument("--only", default="", help="breakages and outcomes whose words contain this")
    words = parser.parse_args()
    complaints: list[str] = []
    # Beside the bundle: copies of it are hard links.
    with tempfile.TemporaryDirectory(prefix="seen-red-", dir=words.bundle.resolve().parent) as scratch:
        for name in words.part or PARTS:
            complaints += PARTS[name].see(words.bundle.resolve(), Path(scratch), words.only)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
