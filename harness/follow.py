"""Following a kind of objects for as long as somebody wants to know of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from harness.errors import HarnessError
from harness.kube import Kube, Object, Watch, WatchExpired

WATCH_S = 240.0
"""Shorter than the API server's own limit (30 to 60 min), long enough to be rare."""
PAUSE_S = 0.5

Changed = Callable[[Sequence[Object]], None]
"""Called with all objects when a watch begins, and then with each that was made or changed."""


class Follower(threading.Thread):
    """Lists and watches one kind until it is stopped; lists again whenever the watch ends.

    ``changed`` is called in this thread. While the API is away, or the kind is not served yet, it tries again
    after ``pause``, which returns early when the event that it is given is set.
    """

    def __init__(
        self,
        kube: Kube,
        kind: str,
        namespace: str | None,
        changed: Changed,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        pause: Callable[[threading.Event], object] = lambda ended: ended.wait(PAUSE_S),
    ) -> None:
        super().__init__(name=f"watch-{kind}", daemon=True)
        self._kube = kube
        self._kind, self._namespace = kind, namespace
        self._selectors = {"label_selector": label_selector, "field_selector": field_selector}
        self._told = changed
        self._pause = pause
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._watch: Watch | None = None

    def run(self) -> None:
        """Follow until stopped."""
        while not self._ended.is_set():
            try:
                self._follow()
            except WatchExpired:
                continue
            except HarnessError:
                self._pause(self._ended)

    def stop(self) -> None:
        """Ask it to stop, without waiting. May be called more than once."""
        self._ended.set()
        with self._lock:
            if self._watch is not None:
                self._watch.stop()

    def _follow(self) -> None:
        found, version = self._kube.list_with_version(self._kind, self._namespace, **self._selectors)
        watch = self._kube.watch(
            self._kind, self._namespace, resource_version=version, timeout_s=WATCH_S, **self._selectors
        )
        with self._lock:
            self._watch = watch
            if self._ended.is_set():
                watch.stop()
        self._told(found)  # what happened before the watch began
        for event, item in watch:
            self._told([item] if event != "DELETED" else [])
