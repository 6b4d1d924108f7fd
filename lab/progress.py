"""One line a step, with its time: a spinner where there is a terminal, plain lines where there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn


class Progress:
    """Reports the steps of a build on the standard error output."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._one_bar = threading.Lock()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """While the step runs: its name and the time it has taken; afterwards one line that stays."""
        begun = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        shown = self.console.is_terminal and self._one_bar.acquire(blocking=False)
        if not shown:  # of steps side by side one has the moving line
            self.say(f"  …          {name}")
        try:
            with Bar(*columns, console=self.console, transient=True, disable=not shown) as bar:
                bar.add_task(name)
                yield
        except BaseException:
            self._done("✗", name, begun)
            raise
        finally:
            if shown:
                self._one_bar.release()
        self._done("✓", name, begun)

    def say(self, text: str) -> None:
        """A line of its own."""
        self.console.print(text, markup=False, soft_wrap=True)

    def _done(self, mark: str, name: str, begun: float) -> None:
        self.say(f"  {mark} {time.monotonic() - begun:6.1f} s {name}")
