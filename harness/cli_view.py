"""What `runner-conformance` shows: plan, one line a transition, timeline, status."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from harness.errors import HarnessError
from harness.graph import StepState, StepStatus, critical_path
from harness.journal import Life, accounts
from harness.plan import Plan
from harness.redact import redact
from harness.stack import StackContext
from harness.state import StackState, directory_of

BAR_CHARS = 40


class LiveProgress:
    """A line a transition, with the time since the start; safe to call from any thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, layer: str, text: str) -> None:
        with self._lock:
            passed = time.monotonic() - self._start
            self._console.print(f"{passed:6.1f} s  {layer:<16} {redact(text)}", markup=False)


class Transfers:
    """A progress bar for each file that is being downloaded; callable from a Downloader."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Transfers:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, name: str, done: int, total: int | None) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name)
        self._bars.update(self._tasks[name], completed=done, total=total)


def print_plan(console: Console, plan: Plan) -> None:
    """The plan; its first line says whether this is a rehearsal."""
    console.print()
    for line in plan.lines():
        console.print(line, markup=False)
    console.print()


def print_timeline(console: Console, states: Sequence[StepState]) -> None:
    """A bar a step that was begun; the critical path is marked."""
    ended = [state for state in states if state.status in (StepStatus.DONE, StepStatus.FAILED)]
    if not ended:
        return
    zero, end = min(state.started_s for state in ended), max(state.ended_s for state in ended)
    total = end - zero or 1.0
    path = critical_path(ended)
    table = Table(box=None, pad_edge=False, show_header=False)
    for state in ended:
        begin = round((state.started_s - zero) / total * BAR_CHARS)
        length = max(1, round(state.duration_s / total * BAR_CHARS))
        mark = "*" if state in path else " "
        bar = " " * begin + ("█" if state.ok else "▒") * length
        note = redact(state.error.message.splitlines()[0]) if state.error and state.error.message else ""
        table.add_row(f"{mark} {state.name}", f"{state.duration_s:6.1f} s", bar.ljust(BAR_CHARS + 1), note)
    console.print()
    console.print(table, markup=False)
    names, critical_s = " → ".join(state.name for state in path), sum(state.duration_s for state in path)
    console.print(f"  {total:.1f} s in all; * critical path {critical_s:.1f} s: {names}", markup=False)


def print_status(console: Console, name: str) -> bool:
    """A stack and its layers as they are now; whether all are ready."""
    from harness.attach import attach

    state = StackState.load(directory_of(name))
    held = _held(state)
    console.print(f"{state.name}  {state.run_id}  since {state.created}  {held}", markup=False)
    if not state.kubeconfig:
        console.print("  its cluster was not started")
        return False
    context = attach(name, progress=lambda layer, text: None)
    broken = not_ready(context)
    for layer in installed(context):
        console.print(f"  {layer:<16} {broken.get(layer, 'ready')}", markup=False)
    return not broken


def _held(state: StackState) -> str:
    """Who has a stack: the process that works on it, nobody any more, or whoever kept it."""
    lives = [it.life for it in accounts()[0] if it.run_id == state.run_id]
    if Life.KEPT in lives:
        return "kept"
    return f"process {state.pid}" if Life.LIVING in lives else f"process {state.pid} (gone)"


def installed(context: StackContext) -> list[str]:
    """Layers whose installation was begun, in the order in which they ended."""
    from harness.stack.catalogue import LAYERS

    return [name for name in StackState.load(context.state_dir).layers if name in LAYERS]


def not_ready(context: StackContext) -> dict[str, str]:
    """Layer → what is missing now, in one look."""
    from harness.stack.catalogue import LAYERS

    done = StackState.load(context.state_dir).layers
    broken = {}
    for layer in installed(context):
        try:
            missing = LAYERS[layer].ready(context) or ("" if done[layer] else "its installation failed")
        except HarnessError as error:
            missing = error.message
        if missing:
            broken[layer] = redact(missing)
    return broken
