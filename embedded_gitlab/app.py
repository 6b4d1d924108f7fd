"""The application: routes, and GitLab's answer to whatever has none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from embedded_gitlab import (
    git_http,
    jobs,
    pipeline_api,
    projects,
    registry_api,
    registry_auth,
    repository,
    runner_protocol,
    runners,
    users,
    web,
)
from embedded_gitlab.context import Context
from embedded_gitlab.git_storage import GitStorage
from embedded_gitlab.http import Bodies, HttpError, PathSegments
from embedded_gitlab.queue import RunnerQueue
from embedded_gitlab.registry_keys import RegistryKeys
from embedded_gitlab.settings import Settings
from embedded_gitlab.store import Store
from embedded_gitlab.traces import Traces

CREDENTIALS_FILE = "administrator.json"
_SWEEP_EVERY_S = 5.0
_log = logging.getLogger(__name__)


def open_context(settings: Settings) -> Context:
    """Open the state directory, or make it with an administrator and a random token of theirs."""
    directory = settings.state_dir
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    context = Context(
        settings,
        Store(directory / "gitlab.sqlite3"),
        GitStorage(directory / "repositories"),
        Traces(directory / "traces"),
        RunnerQueue(),
        RegistryKeys(directory),
        Bodies(settings.bodies_limit_bytes),
    )
    file = directory / CREDENTIALS_FILE
    if context.store.one("SELECT 1 FROM users") is None:
        with context.store.transaction():
            root = users.insert_user(context, "root", "Administrator", "admin@example.com", admin=True)
            _, token = users.insert_token(context, root, "administrator", ["api", "sudo"], None)
            file.touch(mode=0o600)
            file.write_text(json.dumps({"username": "root", "token": token}))
    return context


def build(context: Context) -> Starlette:
    """The ASGI application over an open state directory."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sweeper = asyncio.ensure_future(_sweep(context))
        try:
            yield
        finally:
            sweeper.cancel()
            context.store.close()

    parts = (runner_protocol, runners, users, projects, repository, pipeline_api, registry_api)
    api: list[Route] = [route for part in parts for route in part.ROUTES]
    app = Starlette(
        routes=[
            Mount("/api/v4", routes=[*_merged(api), Route("/{rest:path}", _no_route, methods=_METHODS)]),
            *registry_auth.ROUTES,
            *git_http.ROUTES,
            *web.ROUTES,
        ],
        middleware=[Middleware(PathSegments)],
        exception_handlers={
            HttpError: _on_api_error,
            HTTPException: _on_http_exception,
            ClientDisconnect: _on_disconnect,
            Exception: _on_defect,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.context = context
    return app


_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def _merged(routes: list[Route]) -> list[Route]:
    """Routes with fewer parameters first, so that ``/runners/all`` isn't taken for a runner's id."""
    return sorted(routes, key=lambda route: route.path.count("{"))


async def _sweep(context: Context) -> None:
    while True:
        await asyncio.sleep(_SWEEP_EVERY_S)
        try:
            jobs.sweep(context)
        except Exception:
            _log.exception("sweeping lost jobs failed")


async def _no_route(_: Request) -> Response:
    return JSONResponse({"error": "404 Not Found"}, 404)


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    return error.response()


async def _on_http_exception(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if not request.scope["path"].startswith("/api/"):
        # Rails knows no 405: a path without a route for the method is not found. containerd counts on it.
        return JSONResponse({"error": "404 Not Found"}, 404)
    return JSONResponse({"error": "405 Not Allowed" if status == 405 else f"{status} Not Found"}, status)


async def _on_disconnect(_: Request, __: Exception) -> Response:
    return Response(status_code=499)


async def _on_defect(_: Request, error: Exception) -> Response:
    _log.error("unhandled error", exc_info=error)
    return JSONResponse({"message": "500 Internal Server Error"}, 500)
