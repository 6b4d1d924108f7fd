"""Taking a stack down: what its journal knows, and those that were made beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness import reap
from harness.errors import HarnessError, UsageError
from harness.journal import accounts
from harness.redact import redact
from harness.stack import StackContext
from harness.stack.catalogue import LAYERS
from harness.state import StackState, directory_of


def take_down(name_or_dir: str | Path, access: reap.Access = reap.AS_THE_RUN) -> list[str]:
    """Remove a stack that another process made, and those made beside it; what could not be removed.

    It goes by the journal, so that it needs nothing of the stack to run or to be readable. Raises UsageError
    when there is no such stack, or while the process that made it still works on it.
    """
    directory = directory_of(name_or_dir)
    found = [it for it in accounts()[0] if it.state_dir.resolve() == directory.resolve()]
    if not found:
        run_id = StackState.load(directory).run_id
        raise UsageError(
            f"no journal knows the stack {directory.name!r} ({run_id}): another version made it",
            "take it down with that version; `runner-conformance reap --unknown` removes what it left",
        )
    ids = {it.run_id for it in found}
    leftovers: list[str] = []
    for account in (it for it in accounts()[0] if it.beside in ids):
        try:
            leftovers += reap.remove(account, access)
        except HarnessError as error:
            leftovers.append(f"stack {account.name}: {redact(error.message)}")
    for account in found:
        leftovers += reap.remove(account, access)
    return leftovers


def remove_layers(context: StackContext) -> list[str]:
    """What layers made outside the cluster, newest first."""
    leftovers: list[str] = []
    for layer in reversed(list(LAYERS.values())):
        leftovers += attempt(layer.name, partial(layer.remove, context))
    return leftovers


def attempt(what: str, remove: Callable[[], object]) -> list[str]:
    """Teardown goes on whatever happens; what went wrong is told at the end."""
    try:
        remove()
    except (HarnessError, OSError) as error:
        return [f"{what}: {redact(str(error))}"]
    return []
