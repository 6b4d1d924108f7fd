"""`python -m lab`: make a bundle from package registries, put real programs in, say what is missing."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from harness.artifacts.bundle import Bundle
from harness.errors import HarnessError
from lab.build import build, cache_home
from lab.doctor import report
from lab.errors import LabError
from lab.exchange import exchange, of_arguments, read_exchanges
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
    builder.add_argument(
        "--olm", default="", metavar="VERSION", help="stand in for this OLM, such as v0.22.0"
    )
    builder.add_argument("--kind", action="store_true", help="with kind, and an image for its nodes")
    builder.add_argument("--out", type=Path, help="the bundle's directory (default: in the lab's cache)")
    builder.add_argument(
        "--partial", action="store_true", help="leave out images whose files are missing, naming them"
    )
    exchanger = commands.add_parser("exchange", help="a copy of a bundle with real programs in it")
    exchanger.add_argument("bundle", type=Path, help="the bundle to begin with; it stays as it is")
    exchanger.add_argument("--out", type=Path, required=True, help="the new bundle's directory")
    exchanger.add_argument(
        "--from", type=Path, dest="listing", help="a TOML file that names several exchanges"
    )
    exchanger.add_argument("--file", action="append", default=[], metavar="files/NAME=SOURCE")
    exchanger.add_argument("--image", action="append", default=[], metavar="REF=SOURCE[:/PLACE]")
    exchanger.add_argument("--version", default="", help="what the sources of --file and --image are")
    commands.add_parser(
        "doctor", help="say what a build needs and what is missing, with the command that mends it"
    )
    options = parser.parse_args(argv)
    progress = Progress()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if options.command == "doctor":
            return report(progress.console, cache_home())
        if options.command == "exchange":
            return _exchange(options)
        begun = time.monotonic()
        versions = choose(options.kubernetes, options.profile, options.olm, kind=options.kind)
        out = (
            options.out or cache_home() / f"bundle-{versions.minor}{'-kind' if options.kind else ''}"
        ).absolute()
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


def _exchange(options: argparse.Namespace) -> int:
    wanted = read_exchanges(options.listing) if options.listing else []
    wanted += of_arguments(options.file, options.image, options.version)
    if not wanted:
        raise LabError("nothing to exchange is named", "give --file, --image or --from")
    made, notes = exchange(Bundle.open(options.bundle), wanted, options.out.absolute())
    for note in notes:
        print(note, file=sys.stderr)
    real = sorted(c.name for c in made.components.values() if c.source.startswith("exchanged"))
    print(f"real now: {', '.join(real)}; stand-ins: {', '.join(made.stand_ins) or 'none'}", file=sys.stderr)
    print(made.path)  # the last line of standard output is for programs
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
