"""Taking a stack down: layers, cluster, state; and those that were made beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from harness.attach import attach, cluster_of
from harness.errors import HarnessError
from harness.redact import redact
from harness.stack import StackContext
from harness.stack.catalogue import LAYERS
from harness.state import StackLock, StackState, directory_of, names


def take_down(name_or_dir: str | Path) -> list[str]:
    """Remove a stack that another process made and kept, and those made beside it; what could not be."""
    directory = directory_of(name_or_dir)
    state = StackState.load(directory)
    lock = StackLock(directory)
    lock.acquire()
    try:
        leftovers: list[str] = []
        for name in _beside(state.run_id):
            try:
                leftovers += take_down(name)
            except HarnessError as error:
                leftovers.append(f"stack {name}: {redact(str(error))}")
        if state.kubeconfig:
            leftovers += remove_layers(attach(directory))
        leftovers += attempt("cluster", cluster_of(state, directory).stop)
        if not leftovers:
            leftovers += attempt(str(directory), partial(shutil.rmtree, directory))
        if state.options.cluster == "k3s":
            leftovers += still_there(state.run_id)
        return leftovers
    finally:
        lock.release()


def _beside(run_id: str) -> list[str]:
    """Names of the stacks that were made beside the stack with this run id."""
    found = []
    for name in names():
        with suppress(HarnessError):  # nobody's, or another version's
            if StackState.load(directory_of(name)).options.beside == run_id:
                found.append(name)
    return found


def remove_layers(context: StackContext) -> list[str]:
    """What layers made outside the cluster, newest first."""
    leftovers: list[str] = []
    for layer in reversed(list(LAYERS.values())):
        leftovers += attempt(layer.name, partial(layer.remove, context))
    return leftovers


def still_there(run_id: str) -> list[str]:
    """Teardown isn't believed but looked at."""
    from harness.cluster import find_leftovers

    return [str(it) for it in find_leftovers(run_id, running=True)]


def attempt(what: str, remove: Callable[[], object]) -> list[str]:
    """Teardown goes on whatever happens; what went wrong is told at the end."""
    try:
        remove()
    except (HarnessError, OSError) as error:
        return [f"{what}: {redact(str(error))}"]
    return []
