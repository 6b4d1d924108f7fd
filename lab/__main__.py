"""`python -m lab`: make a bundle out of package registries (`build`), or say what is missing for it (`doctor`)."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from lab.build import build, cache_home
from lab.doctor import report
from lab.errors import LabError
from lab.progress import Progress
from lab.recipe import VERSIONS


def main(argv: list[str] | None = None) -> int:
    """Run a sub-command; the exit code: 0 done, 1 a build failed or a need is missing, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build", help="make a bundle; nothing is done twice")
    builder.add_argument("--kubernetes", choices=sorted(VERSIONS), default="1.28")
    builder.add_argument("--out", type=Path, help="the bundle's directory (default: bundle-<version>)")
    builder.add_argument(
        "--partial", action="store_true", help="leave out images whose files are missing, naming them"
    )
    commands.add_parser(
        "doctor", help="say what a build needs and what is missing, with the command that mends it"
    )
    options = parser.parse_args(argv)
    progress = Progress()
    try:
        if options.command == "doctor":
            return report(progress.console, cache_home())
        begun = time.monotonic()
        out = (options.out or Path(f"bundle-{options.kubernetes}")).absolute()
        changed = build(options.kubernetes, out, progress, partial=options.partial)
        state = "made" if changed else "is up to date"
        progress.say(f"bundle {out} {state} ({time.monotonic() - begun:.1f} s)")
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next build goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
