"""See outcomes red on a real node: provision once, break one thing after the other, verify what it hits.

    python -m selftests.seen_red BUNDLE [--only TEXT]     prints rows for selftests/README.md

Exit code 1 when a breakage turned something else, or nothing, red. Root; takes about five minutes.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from fixtures.catalogue import ROOT, declared
from harness.session import take_down
from lab.fault_steps import copy_bundle
from selftests.breakages import BREAKAGES, Breakage, World, open_world

NAME = "seen-red"


def _pytest(*arguments: str, report: Path) -> dict[str, dict[str, str]]:
    """Run outcomes; id → its entry in conformance.json."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--report-dir", str(report)]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=900)
    found = report / "conformance.json"
    if not found.exists():
        raise SystemExit(f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    entries = {entry["id"]: entry for entry in json.loads(found.read_text())["outcomes"]}
    found.unlink()
    return entries


def _see(breakage: Breakage, world: World, nodes: dict[str, str], report: Path) -> list[str]:
    """Break, verify, undo; complaints about what was not red, or not for its reason."""
    with breakage.break_it(world):
        found = _pytest("--reuse", NAME, *(nodes[outcome] for outcome in breakage.red), report=report)
    wrong = []
    for outcome, reason in breakage.red.items():
        entry = found[outcome]
        said = entry["reason"].strip().splitlines() or [""]
        if entry["status"] != "failed" or not re.search(reason, entry["reason"]):
            wrong.append(f"{outcome}: {entry['status']}: {said[0]}")
            continue
        line = re.sub(r"\s+", " ", said[0]).replace("|", "\\|")
        print(f"| `{outcome}` | {breakage.what} | {line[:160]} |", flush=True)
    return wrong


def main() -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m selftests.seen_red", description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--only", default="", help="breakages and outcomes whose words contain this")
    words = parser.parse_args()
    nodes = {spec.id: spec.nodeid for spec in declared()}
    chosen = [b for b in BREAKAGES if any(words.only in it for it in (b.what, *b.red))]
    complaints: list[str] = []
    with tempfile.TemporaryDirectory(prefix="seen-red-") as scratch:
        bundle, report = Path(scratch) / "bundle", Path(scratch) / "report"
        copy_bundle(words.bundle, bundle)
        listing = (bundle / "bundle.toml").read_bytes()
        (bundle / "bundle.toml").unlink()  # it is a link to the original's
        (bundle / "bundle.toml").write_bytes(listing)
        try:
            whole = _pytest("tests", "--artifacts", str(bundle), "--keep", "--name", NAME, report=report)
            red = [outcome for outcome, entry in whole.items() if entry["status"] != "passed"]
            if red:
                raise SystemExit(f"before anything was broken, these were not green: {red}")
            world = open_world(NAME)
            for breakage in chosen:
                try:
                    complaints += _see(breakage, world, nodes, report)
                except Exception as error:  # the others are still to be seen
                    complaints.append(f"{breakage.what}: {type(error).__name__}: {error}")
        finally:
            complaints += take_down(NAME)
    for line in complaints:
        print(line, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
