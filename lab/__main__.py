"""`python -m lab`: make a bundle out of package registries (`build`), or say what that lacks (`doctor`)."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from harness.errors import HarnessError
from lab.build import build, cache_home
from lab.doctor import report
from lab.errors import LabError
from lab.progress import Progress
from lab.recipe import VERSIONS, choose


def main(argv: list[str] | None = None) -> int:
    """Run a sub-command; the exit code: 0 done, 1 a build failed or a need is missing, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build", help="make a bundle; nothing is done twice")
    builder.add_argument(
        "--kubernetes", choices=sorted(VERSIONS), help="default: the nearest to the profile's"
    )
    builder.add_argument("--profile", help="the profile to serve (default: seed)")
    builder.add_argument("--out", type=Path, help="the bundle's directory (default: in the lab's cache)")
    builder.add_argument(
        "--partial", action="store_true", help="leave out images whose files are missing, naming them"
    )
    commands.add_parser(
        "doctor", help="say what a build needs and what is missing, with the command that mends it"
    )
    options = parser.parse_args(argv)
    progress = Progress()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if options.command == "doctor":
            return report(progress.console, cache_home())
        begun = time.monotonic()
        versions = choose(options.kubernetes, options.profile)
        out = (options.out or cache_home() / f"bundle-{versions.minor}").absolute()
        changed = build(versions, out, progress, partial=options.partial)
        state = "made" if changed else "is up to date"
        progress.say(f"bundle {state} ({time.monotonic() - begun:.1f} s)")
        print(out)  # the last line of standard output is for programs
    except (LabError, HarnessError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next build goes on from here", file=sys.stderr)
        return 130
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
