"""Informers (a kind's objects by list and watch) and work queues."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from olmlab.kube import ApiError, Kind, Kube, Obj, key_of

METADATA_ONLY = "application/json;as=PartialObjectMetadata{};v=v1;g=meta.k8s.io"
# A connection may die without a word (a node's NAT rules change while it starts). A living watch says
# something at least every 75 s: the API server's bookmarks.
LIST_TIMEOUT = aiohttp.ClientTimeout(total=30)
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=100)

log = logging.getLogger("olm")


class Informer:
    """The objects of one kind, kept up to date by list and watch; calls `on_change(type, old, new)`."""

    def __init__(
        self,
        kube: Kube,
        kind: Kind,
        on_change: Callable[[str, Obj | None, Obj], None] | None = None,
        *,
        selector: str = "",
        metadata_only: bool = False,
    ) -> None:
        self.kube, self.kind, self.on_change, self.selector = kube, kind, on_change, selector
        self.metadata_only = metadata_only
        self.objects: dict[tuple[str, str], Obj] = {}
        self.synced = asyncio.Event()

    def get(self, namespace: str, name: str) -> Obj | None:
        return self.objects.get((namespace, name))

    def list(self, namespace: str | None = None) -> list[Obj]:
        return [o for (ns, _), o in sorted(self.objects.items()) if namespace is None or ns == namespace]

    def _set(self, type_: str, obj: Obj) -> None:
        obj = obj | {"apiVersion": self.kind[0], "kind": self.kind[1]}
        obj["metadata"].pop("managedFields", None)
        old = self.objects.get(key_of(obj))
        if type_ == "DELETED":
            self.objects.pop(key_of(obj), None)
        else:
            self.objects[key_of(obj)] = obj
        if old and type_ != "DELETED":
            if old["metadata"]["resourceVersion"] == obj["metadata"]["resourceVersion"]:
                return
            type_ = "MODIFIED"
        if self.on_change:
            self.on_change(type_, old, obj)

    async def run(self) -> None:
        """List and watch for ever; a lost connection is taken up again after a second."""
        while True:
            try:
                await self._list_and_watch()
            except (TimeoutError, aiohttp.ClientError, ApiError, ValueError) as error:
                log.info("watch of %s: %s", self.kind[1], error)
            await asyncio.sleep(1)

    def _accept(self, what: str) -> dict[str, str]:
        return {"Accept": METADATA_ONLY.format(what)} if self.metadata_only else {}

    async def _list_and_watch(self) -> None:
        url = self.kube.server + await self.kube.path(self.kind)
        params = {"labelSelector": self.selector} if self.selector else {}
        headers = self.kube.headers()
        async with self.kube.session.get(
            url, params=params, headers=headers | self._accept("List"), timeout=LIST_TIMEOUT
        ) as answer:
            answer.raise_for_status()
            found = await answer.json()
        present = {key_of(item) for item in found["items"]}
        for item in found["items"]:
            self._set("ADDED", item)
        for gone in [o for key, o in self.objects.items() if key not in present]:
            self._set("DELETED", gone)
        self.synced.set()
        params |= {"watch": "true", "resourceVersion": found["metadata"]["resourceVersion"]}
        params |= {"allowWatchBookmarks": "true", "timeoutSeconds": "3000"}
        while True:
            async with self.kube.session.get(
                url,
                params=params,
                headers=self.kube.headers() | self._accept(""),
                read_bufsize=2**24,
                timeout=WATCH_TIMEOUT,
            ) as answer:
                answer.raise_for_status()
                async for line in answer.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        return  # the resource version is too old: list again
                    params["resourceVersion"] = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._set(event["type"], event["object"])


Key = Any


class Queue:
    """Runs `sync(key)` once for many `add(key)`; never twice at a time for a key; failures are retried."""

    def __init__(
        self, sync: Callable[[Key], Awaitable[None]], *, retry_s: float = 0.1, retry_max_s: float = 30
    ) -> None:
        self._sync, self._retry_s, self._retry_max_s = sync, retry_s, retry_max_s
        self._timers: dict[Key, tuple[float, asyncio.TimerHandle]] = {}
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, key: Key, after_s: float = 0) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + after_s
        if key in self._timers:
            if self._timers[key][0] <= due:
                return
            self._timers[key][1].cancel()
        self._timers[key] = (due, loop.call_at(due, self._start, key))

    def _start(self, key: Key) -> None:
        self._timers.pop(key, None)
        if key in self._running:
            self._again.add(key)
            return
        self._running.add(key)
        task = asyncio.ensure_future(self._run(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, key: Key) -> None:
        try:
            await self._sync(key)
            self._failures.pop(key, None)
        except Exception as error:
            conflict = isinstance(error, ApiError) and error.code in (404, 409)
            log.log(logging.INFO if conflict else logging.ERROR, "%s: %s", key, error, exc_info=not conflict)
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            self.add(key, min(self._retry_s * 2 ** (failures - 1), self._retry_max_s))
        finally:
            self._running.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)
