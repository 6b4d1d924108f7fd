"""What killed runs left behind: found, named, removed."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from harness.errors import UsageError
from harness.stack.catalogue import LAYERS
from harness.state import StackLock, StackState, cluster_dir, directory_of, names
from harness.teardown import attempt


def stale() -> list[str]:
    """What killed runs left: things that carry a run id, and stacks that nobody holds and that have ended."""
    from harness.cluster import find_leftovers

    return [str(it) for it in find_leftovers()] + [f"stack {path}" for path in _ended_stacks()]


def reap_all() -> list[str]:
    """Remove what ``stale`` names; a sentence for each thing that resisted."""
    from harness.cluster import find_leftovers, reap

    ended = _ended_stacks()
    resisted = []
    for directory in ended:
        for layer in LAYERS.values():
            resisted += attempt(layer.name, partial(layer.abandon, directory))
    resisted += list(reap(find_leftovers()))
    for directory in ended:
        resisted += attempt(str(directory), partial(shutil.rmtree, directory))
    return resisted


def _ended_stacks() -> list[Path]:
    """Stack directories that no process holds and whose cluster, if it was ours, doesn't run."""
    from harness.cluster import find_leftovers

    dead = {Path(it.name) for it in find_leftovers() if it.kind == "directory"}
    found = []
    for name in names():
        directory = directory_of(name)
        lock = StackLock(directory)
        try:
            lock.acquire()
        except UsageError:
            continue
        kept = StackState.load(directory).options
        cluster = cluster_dir(directory)
        elsewhere = kept.keep and kept.cluster != "k3s"
        if not elsewhere and (cluster in dead or not (cluster / "cluster.json").exists()):
            found.append(directory)
        lock.release()
    return found
