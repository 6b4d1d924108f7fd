"""What a layer of the stack is, and what it may use."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.acceptance.found import Found
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
    will_make: Callable[[str, str, str], None] = lambda kind, name, where: None
    """Writes (kind, name, where) into the run's journal; called before a thing is made."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    spawn: Callable[[Callable[[], Any]], Any] = lambda function: function()
    """Runs a function in a thread that lives as long as the run: a child that asks to die with its parent
    (PR_SET_PDEATHSIG) dies with the *thread* that started it."""
    results: dict[str, Any] = field(default_factory=dict)
    found: Found | None = None
    """What somebody had installed, where that is judged; None where the suite installed."""


@dataclass(frozen=True)
class Layer:
    """How to install it, what it needs first, and where to look when it fails.

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
