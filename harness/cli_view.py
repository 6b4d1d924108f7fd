"""What `runner-conformance` shows: plan, one line a transition, timeline, status."""

from __future__ import annotations

import threading
import time

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from harness.errors import HarnessError
from harness.plan import Plan
from harness.redact import redact
from harness.stack import StackContext
from harness.state import StackState, directory_of
from harness.timeline import Timeline

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


def print_timeline(console: Console, timeline: Timeline) -> None:
    """A bar a phase; the critical path is marked."""
    total = timeline.wall_s
    if not total:
        return
    critical = {phase.name for phase in timeline.critical_path()}
    zero = min(phase.start_s for phase in timeline.phases)
    table = Table(box=None, pad_edge=False, show_header=False)
    for phase in timeline.phases:
        begin = round((phase.start_s - zero) / total * BAR_CHARS)
        length = max(1, round(phase.duration_s / total * BAR_CHARS))
        mark = "*" if phase.name in critical else " "
        bar = " " * begin + ("█" if phase.ok else "▒") * length
        note = "" if phase.ok else redact(phase.note)
        table.add_row(f"{mark} {phase.name}", f"{phase.duration_s:6.1f} s", bar.ljust(BAR_CHARS + 1), note)
    console.print()
    console.print(table, markup=False)
    path = " → ".join(phase.name for phase in timeline.critical_path())
    console.print(
        f"  {total:.1f} s in all; * critical path {timeline.critical_s:.1f} s: {path}", markup=False
    )


def print_status(console: Console, name: str) -> bool:
    """A stack and its layers as they are now; whether all are ready."""
    from harness.session import attach

    state = StackState.load(directory_of(name))
    held = "kept" if state.options.keep else f"process {state.pid}{'' if state.alive else ' (gone)'}"
    console.print(f"{state.name}  {state.run_id}  since {state.created}  {held}", markup=False)
    if not state.kubeconfig:
        console.print("  its cluster was not started")
        return False
    context = attach(name, progress=lambda layer, text: None)
    broken = not_ready(context)
    for layer in installed(context):
        console.print(f"  {layer:<16} {broken.get(layer, 'ready')}", markup=False)
    return not broken


def installed(context: StackContext) -> list[str]:
    """Layers whose installation was begun, in the order in which they ended."""
    from harness.session import LAYERS

    return [name for name in StackState.load(context.state_dir).layers if name in LAYERS]


def not_ready(context: StackContext) -> dict[str, str]:
    """Layer → what is missing now, in one look."""
    from harness.session import LAYERS

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
