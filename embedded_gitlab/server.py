"""The HTTP server: uvicorn, with limits on how long and how many clients may keep it waiting.

What nginx and Workhorse do before a GitLab: a connection without a whole head, a body that stops and a reader
that doesn't read are given up, and nobody else notices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from embedded_gitlab.http import HttpError

_MAX_CONNECTIONS = 500
"""Half of the usual limit of 1024 open files."""


class Server(uvicorn.Server):
    """Lets requests that are being held go as soon as a signal comes, so that the stop is quick."""

    def __init__(
        self, app: ASGIApp, client_timeout_s: float, *, access_log: bool, on_stop: Callable[[], None]
    ):
        protocol = type("Protocol", (_Protocol,), {"head_timeout_s": client_timeout_s})
        super().__init__(
            uvicorn.Config(
                _Patience(app, client_timeout_s),
                http=protocol,
                ws="none",
                log_config=None,
                access_log=access_log,
                timeout_graceful_shutdown=2,
                timeout_keep_alive=75,
                server_header=False,
                backlog=512,
            )
        )
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: object) -> None:
        """Called in the signal handler."""
        self._on_stop()
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


class _Protocol(H11Protocol):
    """One connection. The time for a head begins with its first byte, or with the connection."""

    head_timeout_s = 60.0
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called for a new connection; closed at once where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > _MAX_CONNECTIONS:
            transport.abort()
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Called with each piece that arrives."""
        super().data_received(data)
        self._wait()

    def on_response_complete(self) -> None:
        """Called after an answer; the next request may have begun already."""
        super().on_response_complete()
        if self.conn.trailing_data[0]:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called at its end."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._stop_waiting()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.head_timeout_s, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class _Patience:
    """Bounds the time between two pieces of a body, the request's or the answer's."""

    def __init__(self, app: ASGIApp, timeout_s: float) -> None:
        self._app, self._timeout_s = app, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with watches on ``receive`` and ``send``."""
        arriving = scope["type"] == "http"

        async def watched_receive() -> Message:
            nonlocal arriving
            try:
                message = await asyncio.wait_for(receive(), self._timeout_s if arriving else None)
            except TimeoutError:
                arriving = False
                raise HttpError(408, {"error": "408 Request Timeout"}, {"Connection": "close"}) from None
            arriving = arriving and message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def watched_send(message: Message) -> None:
            await asyncio.wait_for(send(message), self._timeout_s)

        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, watched_receive, watched_send)
        except TimeoutError:
            return  # a reader that stopped; uvicorn closes the connection
