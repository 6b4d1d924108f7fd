"""The layers of the stack and the graph that installs them, as parallel as their needs allow."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import Cancelled, SuiteDefect
from harness.timeline import Timeline

if TYPE_CHECKING:
    from harness.artifacts import Artifacts
    from harness.cluster import Cluster
    from harness.kube import Kube
    from harness.options import ProvisionOptions
    from harness.profile import Profile

log = logging.getLogger("harness.stack")

Progress = Callable[[str, str], None]
"""(layer, what just changed); called from the layer's thread."""


def log_progress(layer: str, text: str) -> None:
    log.info("%s: %s", layer, text)


@dataclass
class StackContext:
    """What a layer may use. ``results`` holds what finished layers hand on, by layer name."""

    run_id: str
    name: str
    state_dir: Path
    options: ProvisionOptions
    profile: Profile
    artifacts: Artifacts
    cluster: Cluster
    kube: Kube
    progress: Progress = log_progress
    cancelled: threading.Event = field(default_factory=threading.Event)
    spawn: Callable[[Callable[[], Any]], Any] = lambda function: function()
    """Runs a function in a thread that lives as long as the run: a child that asks to die with its parent
    (PR_SET_PDEATHSIG) dies with the *thread* that started it."""
    results: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """A closed room: how to install it, what it needs first, and where to look when it fails.

    ``install`` returns when the layer is ready and raises HarnessError (usually WaitError) when it can't
    be; what it returns goes to ``ctx.results``. ``ready`` is one look, without waiting: None when ready,
    else what is missing, for ``status`` and ``--reuse``. ``attach`` gives the result in another process, from
    files below ``ctx.state_dir``. ``remove`` takes away what the layer made outside the cluster; ``abandon``
    does so for a run that was killed, given only its state directory. ``kinds`` and ``namespaces`` are what
    evidence is collected from.
    """

    name: str
    install: Callable[[StackContext], object]
    needs: tuple[str, ...] = ()
    ready: Callable[[StackContext], str | None] = lambda ctx: None
    attach: Callable[[StackContext], object] = lambda ctx: None
    remove: Callable[[StackContext], None] = lambda ctx: None
    abandon: Callable[[Path], None] = lambda state_dir: None
    namespaces: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


def select(layers: Mapping[str, Layer], names: Sequence[str]) -> list[Layer]:
    """The named layers and all that they need. Raises SuiteDefect for a name that nobody knows."""
    chosen: dict[str, Layer] = {}
    queue = list(names)
    while queue:
        name = queue.pop()
        if name in chosen:
            continue
        if name not in layers:
            raise SuiteDefect(f"no layer is called {name!r}; there are {', '.join(layers)}")
        chosen[name] = layers[name]
        queue.extend(layers[name].needs)
    return [layer for name, layer in layers.items() if name in chosen]


def install_layers(
    ctx: StackContext, layers: Sequence[Layer], timeline: Timeline, after: Sequence[str] = ()
) -> Timeline:
    """Install ``layers`` in threads, each as soon as its needs are met.

    ``after`` names phases of the timeline (the cluster) that every layer without needs follows; needs that
    are not among ``layers`` count as met. The first failure cancels the others and is raised once all have
    stopped, so that nothing is still being created while the caller tears down.
    """
    by_name = {layer.name: layer for layer in layers}
    graph: TopologicalSorter[str] = TopologicalSorter(
        {layer.name: [need for need in layer.needs if need in by_name] for layer in layers}
    )
    try:
        graph.prepare()
    except CycleError as error:
        raise SuiteDefect(f"layers need each other in a circle: {' → '.join(error.args[1])}") from None

    running: dict[Future[None], str] = {}
    failures: list[BaseException] = []
    with ThreadPoolExecutor(max_workers=max(1, len(layers)), thread_name_prefix="layer") as pool:
        try:
            while graph.is_active() and not failures:
                for name in graph.get_ready():
                    running[pool.submit(_install, ctx, by_name[name], timeline, tuple(after))] = name
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    name = running.pop(future)
                    failure = future.exception()
                    if failure is None:
                        graph.done(name)
                    else:
                        failures.append(failure)
        finally:
            if failures or running:
                ctx.cancelled.set()
    failures += [failure for future in running if (failure := future.exception()) is not None]
    if failures:
        raise _first_cause(failures)
    return timeline


def _install(ctx: StackContext, layer: Layer, timeline: Timeline, after: tuple[str, ...]) -> None:
    with timeline.phase(layer.name, (*layer.needs, *after)):
        if ctx.cancelled.is_set():
            raise Cancelled(f"{layer.name} was not begun: the run was interrupted")
        ctx.progress(layer.name, "installing")
        try:
            ctx.results[layer.name] = layer.install(ctx)
        except Cancelled:
            raise
        except BaseException as error:
            ctx.progress(layer.name, f"failed: {str(error).splitlines()[0] if str(error) else error!r}")
            raise
        ctx.progress(layer.name, "ready")


def _first_cause(failures: Sequence[BaseException]) -> BaseException:
    """The failure that cancelled the others, not one of the cancelled."""
    return next((error for error in failures if not isinstance(error, Cancelled)), failures[0])
