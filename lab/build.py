"""One build: needs, lock, steps, assembly; and knowing when there is nothing to do."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from lab.assemble import assemble, check_place
from lab.doctor import require
from lab.progress import Progress
from lab.recipe import Versions, make_recipe
from lab.steps import BuildStep, StepRunner, remove_unfinished, tree_digest


def cache_home() -> Path:
    """Where results are kept: `$XDG_CACHE_HOME/runner-conformance/lab`, or below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "runner-conformance" / "lab"


def build(versions: Versions, out: Path, progress: Progress, *, partial: bool = False) -> bool:
    """Bring the bundle at `out` up to date; whether anything had to be done.

    Raises LabError; `out` is then as it was.
    """
    cache = cache_home()
    check_place(out)
    require(cache, out)
    cache.mkdir(parents=True, exist_ok=True)
    with _only_build(cache, progress):
        remove_unfinished(cache)
        runner = StepRunner(cache, progress)
        recipe = make_recipe(versions, runner, partial=partial)
        for left_out in recipe.left_out:
            progress.say(f"left out: {left_out}")
        runner.run_all(recipe.all_steps())
        mark = _mark(cache, out)
        wanted = {"inputs": _inputs(runner, recipe.all_steps()), "versions": asdict(versions)}
        if _read(mark) == {**wanted, "state": _state(out)}:
            return False
        with progress.step("bundle"):
            assemble(recipe, runner, out)
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(json.dumps({**wanted, "state": _state(out)}))
        return True


@contextmanager
def _only_build(cache: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of the cache; while another build holds it, say so and wait."""
    with (cache / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            progress.say(f"another build (process {lock.read().strip() or '?'}) is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _inputs(runner: StepRunner, steps: Sequence[BuildStep]) -> str:
    results = [[step.name, runner.digest(step)] for step in steps]
    own = [tree_digest(Path(__file__).with_name(name)) for name in ("assemble.py", "recipe.py")]
    definitions = [tree_digest(p) for p in sorted(Path(__file__).parent.glob("*/*/image.toml"))]
    return hashlib.sha256(json.dumps([results, own, definitions]).encode()).hexdigest()


def _mark(cache: Path, out: Path) -> Path:
    return cache / "marks" / (hashlib.sha256(os.fsencode(out)).hexdigest()[:32] + ".json")


def _state(out: Path) -> list[list[object]]:
    """Name, size and times of every file: whether somebody changed the bundle since it was made."""
    if not out.is_dir():
        return []
    return [
        [str(p.relative_to(out)), p.stat().st_size, p.stat().st_mtime_ns]
        for p in sorted(out.rglob("*"))
        if p.is_file()
    ]


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
