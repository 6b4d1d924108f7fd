"""The queue value of each runner, by which GitLab answers an idle runner without looking for a job.

Each runner has a value, sent as ``X-GitLab-Last-Update`` and echoed as ``last_update``. It changes whenever a
job that the runner may take becomes pending. While it is unchanged the answer is 204, after a wait: GitLab's
Workhorse holds such a request (``apiCiLongPollingDuration``, 50 s by default in its packages).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable


class RunnerQueue:
    """Queue values and those who wait for a change. Lost at a restart: every runner then looks again."""

    def __init__(self) -> None:
        self._values: dict[int, str] = {}
        self._changed: dict[int, asyncio.Event] = {}
        self._closing = False

    def value(self, runner_id: int) -> str:
        """The runner's current value."""
        return self._values.setdefault(runner_id, secrets.token_hex(16))

    def tick(self, runner_ids: Iterable[int]) -> None:
        """New values, and whoever waits is woken."""
        for runner_id in runner_ids:
            self._values[runner_id] = secrets.token_hex(16)
            if event := self._changed.pop(runner_id, None):
                event.set()

    def tick_all(self) -> None:
        """New values for every runner: something changed about who may take which job."""
        self.tick(list(self._values))

    def forget(self, runner_id: int) -> None:
        """A runner is gone; its waiting request is woken, to see so."""
        self.tick([runner_id])
        del self._values[runner_id]

    def close(self) -> None:
        """Let every waiting request go, at shutdown."""
        self._closing = True
        for event in self._changed.values():
            event.set()

    async def wait(
        self, runner_id: int, last_update: str, timeout_s: float, gone: Callable[[], Awaitable[None]]
    ) -> bool:
        """Wait until the value differs from ``last_update``; False after ``timeout_s`` or a hang-up."""
        if self.value(runner_id) != last_update:
            return True
        if timeout_s <= 0 or self._closing:
            return False
        event = self._changed.setdefault(runner_id, asyncio.Event())
        waiters = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(gone())}
        try:
            await asyncio.wait(waiters, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
        return not self._closing and self.value(runner_id) != last_update
