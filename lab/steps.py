"""The step runner: each step's result is kept under the key of its inputs' content, so nothing is made twice.

A step writes into an empty directory; when it ends well the directory is renamed to its place in the cache.
An interrupted build leaves only temporary directories; the next one removes them and goes on from there.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.errors import MORE_SPACE, NO_SPACE, CommandFailed, LabError
from lab.progress import Progress

SIDE_BY_SIDE = 2  # steps at once: as many compilers as fit into a usual machine's memory
ENDING_POLL_S = 0.1  # a step that is ended may start another program in between
KEPT_RESULTS = 2  # results kept per step: enough to go back and forth between two branches


@dataclass(frozen=True, eq=False)
class BuildStep:
    """Something to make, and all that decides how it comes out.

    `build` writes into `work.out`. `params` (JSON values), the content of `sources` (files or directories),
    the results of `needs` and the module that `build` is written in make up the key. `after` are steps
    that it takes nothing from, but whose compiled packages it finds in Go's cache.
    """

    name: str
    build: Callable[[Work], None]
    params: Mapping[str, Any] = field(default_factory=dict)
    sources: Sequence[Path] = ()
    needs: Sequence[BuildStep] = ()
    after: Sequence[BuildStep] = ()


@dataclass(frozen=True)
class Built:
    """A finished step: where its files are, and the digest of their content."""

    path: Path
    digest: str
    seconds: float
    cached: bool


class Work:
    """What a step's `build` gets: a place to write to, results of what it needs, a way to run programs."""

    def __init__(
        self,
        step: BuildStep,
        out: Path,
        results: Mapping[BuildStep, Built],
        log: Path,
        cache: Path,
        running: set[subprocess.Popen[bytes]],
    ) -> None:
        self.step, self.out, self.log, self.cache = step, out, log, cache
        self._results, self._running = results, running

    def path(self, step: BuildStep) -> Path:
        """The result directory of a step that is among `needs`."""
        return self._results[step].path

    def digest(self, step: BuildStep) -> str:
        """The content digest of a step that is among `needs`."""
        return self._results[step].digest

    def scratch(self, name: str) -> Path:
        """An empty directory that outlives this call, but not the step."""
        folder = self.out.with_name(self.out.name + f".{name}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def run(self, argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] = {}) -> str:
        """Run a program, its output to the log; returns its stdout. Raises CommandFailed naming the log."""
        with self.log.open("ab") as log:
            log.write(f"$ {' '.join(map(str, argv))}\n".encode())
            log.flush()
            start = log.tell()
            with subprocess.Popen(
                [str(a) for a in argv],
                cwd=cwd,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            ) as process:
                assert process.stdout is not None
                self._running.add(process)
                try:
                    out = process.stdout.read()
                except BaseException:
                    process.terminate()  # an interrupted build leaves no compiler running
                    raise
                finally:
                    self._running.discard(process)
            log.write(out)
        if process.returncode:
            said = self.log.read_bytes()[start:].decode(errors="replace")
            raise CommandFailed(self.step.name, str(argv[0]), process.returncode, said, self.log)
        return out.decode(errors="replace")


class StepRunner:
    """Runs steps in the order of their needs, out of the cache where it can."""

    def __init__(self, cache: Path, progress: Progress) -> None:
        self.cache = cache
        self._progress = progress
        self._results: dict[BuildStep, Built] = {}
        self._source_digests: dict[Path, str] = {}
        self._locks: dict[BuildStep, threading.Lock] = {}
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, step: BuildStep) -> Built:
        """The step's result, made now if it is not there yet."""
        for earlier in (*step.needs, *step.after):
            self.run(earlier)
        with self._locks.setdefault(step, threading.Lock()):
            if step not in self._results:
                self._results[step] = self._from_cache(step) or self._make(step)
        return self._results[step]

    def run_all(self, steps: Sequence[BuildStep]) -> None:
        """Run steps side by side: one compiles where another waits for the network or for its linker.

        Raises what the first failure raised; the others are ended, their programs too.
        """
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            pending = [pool.submit(self.run, step) for step in steps]
            try:
                for done in as_completed(pending):
                    done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                begun = [it for it in pending if not it.cancelled()]  # these wait() never takes for done
                while wait(begun, timeout=ENDING_POLL_S).not_done:
                    for process in list(self._running):
                        process.terminate()
                raise

    def path(self, step: BuildStep) -> Path:
        """Where a step that was run put its files."""
        return self._results[step].path

    def digest(self, step: BuildStep) -> str:
        """The content digest of a step that was run."""
        return self._results[step].digest

    def key(self, step: BuildStep) -> str:
        """The hash of everything that decides the step's result; its needs must have been run."""
        parts = {
            "params": step.params,
            "needs": [[need.name, self._results[need].digest] for need in step.needs],
            "sources": [[source.name, self._source(source)] for source in step.sources],
            "code": self._source(Path(inspect.getsourcefile(inspect.unwrap(step.build)) or "")),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def _place(self, step: BuildStep) -> Path:
        return self.cache / "steps" / step.name.replace(" ", "-").replace("/", "_") / self.key(step)

    def _from_cache(self, step: BuildStep) -> Built | None:
        place = self._place(step)
        try:
            record = json.loads((place / "step.json").read_text())
        except (OSError, ValueError):
            return None
        os.utime(place)  # "newest" in _prune means last used
        return Built(place / "out", record["digest"], record["seconds"], cached=True)

    def _make(self, step: BuildStep) -> Built:
        place = self._place(step)
        temporary = place.with_name(f".{place.name}.making")
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / "out").mkdir(parents=True)
        log = self.cache / "logs" / f"{place.parent.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        begun = time.monotonic()
        try:
            with self._progress.step(step.name):
                work = Work(step, temporary / "out", self._results, log, self.cache, self._running)
                step.build(work)
                digest = tree_digest(temporary / "out")
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise LabError(f"{step.name}: {NO_SPACE}", MORE_SPACE) from None
            raise
        seconds = time.monotonic() - begun
        (temporary / "step.json").write_text(json.dumps({"digest": digest, "seconds": round(seconds, 2)}))
        for leftover in temporary.glob("out.*"):
            shutil.rmtree(leftover)
        shutil.rmtree(place, ignore_errors=True)
        temporary.rename(place)
        self._prune(place.parent)
        return Built(place / "out", digest, seconds, cached=False)

    def _source(self, path: Path) -> str:
        if path not in self._source_digests:
            self._source_digests[path] = tree_digest(path)
        return self._source_digests[path]

    @staticmethod
    def _prune(folder: Path) -> None:
        results = sorted(
            (p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.stat().st_mtime
        )
        for old in results[:-KEPT_RESULTS]:
            shutil.rmtree(old, ignore_errors=True)


def remove_unfinished(cache: Path) -> None:
    """Remove what an interrupted build left; to be called by the holder of the build lock only."""
    for folder in (cache / "steps").glob("*/.*.making"):
        shutil.rmtree(folder, ignore_errors=True)


def tree_digest(path: Path) -> str:
    """A hash over names below `path`, kinds, executable bits and content; Python's caches do not count."""
    total = hashlib.sha256()
    for entry in [path] if path.is_file() else walk(path):
        kind = "link" if entry.is_symlink() else "dir" if entry.is_dir() else "file"
        content = str(entry.readlink()) if kind == "link" else _file_digest(entry) if kind == "file" else ""
        mode = entry.lstat().st_mode & 0o111 if kind == "file" else 0
        total.update(
            f"{entry.relative_to(path)}\0{kind}\0{mode}\0{content}\n".encode(errors="surrogateescape")
        )
    return total.hexdigest()


def walk(root: Path) -> list[Path]:
    """Everything below a directory but Python's caches, sorted by path."""
    found: list[Path] = []
    for folder, names, files in os.walk(root):
        names[:] = [n for n in names if n != "__pycache__"]
        found += [Path(folder) / n for n in [*names, *files]]
    return sorted(found)


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
