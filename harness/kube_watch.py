"""One watch request to the API server, which another thread can end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from harness.kube_errors import ApiUnreachable, WatchExpired, api_errors

Object = dict[str, Any]
"""A Kubernetes object as the API gives it."""


class Watch:
    """One watch request; an iterator of (event type, object)."""

    def __init__(self, response: Any, path: str) -> None:
        self._response = response
        self._path = path
        self._stopped = False

    def __iter__(self) -> Iterator[tuple[str, Object]]:
        try:
            with api_errors(f"watch {self._path}"):
                for line in self._lines():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise WatchExpired(event["object"].get("message", "watch ended"))
                    if event["type"] != "BOOKMARK":
                        yield event["type"], event["object"]
        except (ApiUnreachable, ValueError):  # a connection cut by stop() may leave half a line
            if not self._stopped:
                raise
        finally:
            self._response.close()

    def _lines(self) -> Iterator[bytes]:
        pending = b""
        for chunk in self._response.stream(None, decode_content=True):
            pending += chunk
            *whole, pending = pending.split(b"\n")
            yield from (line for line in whole if line)

    def stop(self) -> None:
        """End the iteration, also while another thread is blocked in it."""
        self._stopped = True
        with suppress(ValueError, RuntimeError, OSError):  # it has ended by itself meanwhile
            self._response.shutdown()
