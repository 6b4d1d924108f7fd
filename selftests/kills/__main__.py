"""Kills runs at many points and says what they left: ``python -m selftests.kills --bundle DIR``.

Prints the seed; with it the same plan is carried out again.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.ownership import HOME_VARIABLE
from selftests.kills.case import ROOT, Result, Subject, run_case
from selftests.kills.decoys import Decoys
from selftests.kills.plan import EXISTING, PYTEST, UP, WORKERS, plan

_STACK = "theirs"


def main() -> int:
    """Carry out a plan; 1 when something was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m selftests.kills", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=os.environ.get("RUNNER_CONFORMANCE_BUNDLE"))
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--subjects", nargs="+", choices=(UP, PYTEST, WORKERS, EXISTING), default=None)
    parser.add_argument("--minutes", type=float, default=180.0, help="begin no case after that")
    parser.add_argument("--keep", type=Path, default=None, help="where the output of wrong cases stays")
    chosen = parser.parse_args()
    if chosen.bundle is None:
        parser.error("name a bundle: --bundle, or RUNNER_CONFORMANCE_BUNDLE")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # not without cleaning up
    seed = random.SystemRandom().randrange(100_000) if chosen.seed is None else chosen.seed
    subjects = chosen.subjects or (UP, PYTEST, WORKERS, EXISTING)
    print(f"seed {seed}: {chosen.count} cases of {', '.join(subjects)}", flush=True)
    results = list(carry_out(seed, chosen.count, subjects, chosen.bundle, chosen.minutes, chosen.keep))
    print(table(results))
    return int(any(it.wrong for it in results))


def carry_out(
    seed: int, count: int, subjects: tuple[str, ...], bundle: Path, minutes: float, keep: Path | None
) -> Iterator[Result]:
    """The results of a plan, each said as it comes; a kept stack and decoys stand beside."""
    end = time.monotonic() + minutes * 60
    with (
        tempfile.TemporaryDirectory(prefix="kills-") as top,
        Decoys() as decoys,
        neighbour(Path(top), bundle, EXISTING in subjects) as existing,
    ):
        for case in plan(seed, count, subjects):
            if time.monotonic() > end:
                print(f"no time left: {count - case.number + 1} cases were not carried out")
                return
            directory = Path(top, f"case-{case.number}")
            result = run_case(case, Subject(bundle, existing), directory)
            if touched := decoys.touched():
                result.wrong.append(f"decoys touched: {touched}")
            if existing and not _stands(Path(top)):
                result.wrong.append("the kept stack beside was harmed")
            print(f"{case}: {'; '.join(result.wrong) or 'as promised'} ({result.seconds:.0f} s)", flush=True)
            if result.wrong and keep is not None:
                shutil.copytree(directory, keep / directory.name, dirs_exist_ok=True, symlinks=True)
            shutil.rmtree(directory, ignore_errors=True)
            yield result


@contextmanager
def neighbour(top: Path, bundle: Path, wanted: bool) -> Iterator[tuple[str, ...]]:
    """A kept stack: to be left alone, and to be somebody's cluster and GitLab; pytest's options for that."""
    if not wanted:
        yield ()
        return
    _cli(top, "up", "--keep", "--name", _STACK, "--artifacts", str(bundle))
    try:
        state = top / "home" / "stacks" / _STACK
        os.environ[HOME_VARIABLE] = str(top / "home")
        from harness.attach import attach

        target = attach(_STACK).results["gitlab"]
        del os.environ[HOME_VARIABLE]
        token = top / "token"
        token.touch(mode=0o600)
        token.write_text(target.token.reveal())
        yield (
            "--cluster=existing",
            f"--kubeconfig={state / 'cluster/kubeconfig'}",
            "--context=default",
            f"--gitlab-url={target.url}",
            f"--gitlab-token-file={token}",
            f"--gitlab-ca-file={target.registry_ca}",
        )
    finally:
        _cli(top, "down", _STACK)


def _stands(top: Path) -> bool:
    return _cli(top, "status", _STACK, check=False) == 0


def _cli(top: Path, *words: str, check: bool = True) -> int:
    environment = {**os.environ, HOME_VARIABLE: str(top / "home")}
    command = [sys.executable, "-m", "harness.cli", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit {done.returncode}: {done.stderr[-2000:]}")
    return done.returncode


def table(results: list[Result]) -> str:
    """Figures for docs/: what kinds of kill left before reap, and what was wrong."""
    kinds = Counter((it.case.subject, it.case.signal) for it in results)
    lines = [
        "| run | signal | kills | clean at once | clean after reap | wrong |",
        "|---|---|---|---|---|---|",
    ]
    for (subject, name), number in sorted(kinds.items()):
        some = [it for it in results if (it.case.subject, it.case.signal) == (subject, name)]
        clean = sum(not it.before_reap for it in some)
        after = sum(not any("after reap" in text for text in it.wrong) for it in some)
        wrong = sum(bool(it.wrong) for it in some)
        lines.append(f"| {subject} | {name} | {number} | {clean} | {after} | {wrong} |")
    missed = sum(not it.reached for it in results)
    lines.append(f"\n{len(results)} kills; {missed} came when their phase was not reached.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
