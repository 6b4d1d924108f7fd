"""git over HTTP: clone, fetch and push through git's own upload-pack and receive-pack."""

from __future__ import annotations

import asyncio
import contextlib
import os
import zlib
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from embedded_gitlab import auth
from embedded_gitlab.auth import Identity
from embedded_gitlab.context import Context, of
from embedded_gitlab.git_storage import ZERO_SHA
from embedded_gitlab.http import HttpError
from embedded_gitlab.repository import pushed
from embedded_gitlab.store import Row

_SERVICES = ("git-upload-pack", "git-receive-pack")
_NO_CACHE = {"Cache-Control": "no-cache, max-age=0, must-revalidate"}
_PIECE = 64 * 1024
_IDLE_S = 60.0
"""A client that neither sends nor reads for this long is given up."""


async def advertise(request: Request) -> Response:
    """GET <project>.git/info/refs?service=…"""
    service = request.query_params.get("service", "")
    if service not in _SERVICES:
        return Response("Not Found", 404, media_type="text/plain")
    context = of(request)
    answer = _authorize(context, request, write=service == "git-receive-pack")
    if isinstance(answer, Response):
        return answer
    project, _ = answer
    command = [service.removeprefix("git-"), "--stateless-rpc", "--http-backend-info-refs"]
    process = await _git(context, project, request, command)
    process.stdin.close()
    output = await asyncio.wait_for(process.stdout.read(), _IDLE_S)
    await process.wait()
    if "version=2" not in request.headers.get("git-protocol", "") or service == "git-receive-pack":
        line = f"# service={service}\n"
        output = f"{len(line) + 4:04x}{line}0000".encode() + output
    return Response(output, headers=_NO_CACHE, media_type=f"application/x-{service}-advertisement")


async def upload_pack(request: Request) -> Response:
    """POST <project>.git/git-upload-pack."""
    return await _serve(request, "git-upload-pack")


async def receive_pack(request: Request) -> Response:
    """POST <project>.git/git-receive-pack; each branch or tag that moved may start a pipeline."""
    return await _serve(request, "git-receive-pack")


async def _serve(request: Request, service: str) -> Response:
    context, write = of(request), service == "git-receive-pack"
    answer = _authorize(context, request, write=write)
    if isinstance(answer, Response):
        return answer
    project, identity = answer
    before = _refs(context, project) if write else {}
    process = await _git(context, project, request, [service.removeprefix("git-"), "--stateless-rpc"])

    def done() -> None:
        if write and identity is not None:
            _note_push(context, project, identity, before)

    return _Exchange(process, service, context.settings.push_limit_bytes, done)


class _Exchange(Response):
    """Feeds the request's body to git and git's output to the client, both at once."""

    def __init__(self, process: Any, service: str, limit: int, done: Callable[[], None]) -> None:
        super().__init__(headers=_NO_CACHE, media_type=f"application/x-{service}-result")
        del self.headers["content-length"]
        self._process, self._limit, self._done = process, limit, done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Nothing but this reads the body, so none of it goes to a listener for disconnects."""
        process = self._process
        reader = asyncio.ensure_future(_feed(Request(scope, receive), process, self._limit))
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            while piece := await process.stdout.read(_PIECE):
                body = {"type": "http.response.body", "body": piece, "more_body": True}
                await asyncio.wait_for(send(body), _IDLE_S)
            await process.wait()
            self._done()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            reader.cancel()
            _kill(process)
            await process.wait()


def _authorize(context: Context, request: Request, *, write: bool) -> tuple[Row, Identity | None] | Response:
    """The project and the caller; 401 first without credentials: only then does git send the URL's."""
    try:
        identity = auth.by_basic(context.store, request)
    except LookupError:
        return _unauthorized()
    project = auth.find_project(context.store, request.path_params["project"].replace("\x01", "/"))
    if project is not None and project["full_path"].isdigit():
        project = None
    if identity is None:
        if project is not None and not write and auth.may_read(None, project):
            return project, None
        return _unauthorized()
    scope = "write_repository" if write else "read_repository"
    allowed = identity.allows(scope, "write_repository") or (identity.job is not None and not write)
    if project is None or not auth.may_read(identity, project):
        text = (
            "The project you were looking for could not be found or you don't have permission to view it.\n"
        )
        return Response(text, 404, media_type="text/plain")
    if identity.job is not None and identity.job["project_id"] != project["id"]:
        allowed = allowed and project["visibility"] == "public"
    if not allowed or (write and not auth.may_write(identity, project)):
        return Response("You are not allowed to push code to this project.\n", 403, media_type="text/plain")
    return project, identity


def _unauthorized() -> Response:
    text = "HTTP Basic: Access denied. The provided password or token is incorrect.\n"
    return Response(text, 401, {"WWW-Authenticate": 'Basic realm="GitLab"'}, media_type="text/plain")


async def _git(context: Context, project: Row, request: Request, arguments: list[str]) -> Any:
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(context.settings.state_dir),
        "GIT_CONFIG_NOSYSTEM": "1",
        # The repositories are ours, whoever the process runs as.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    if protocol := request.headers.get("git-protocol", ""):
        environment["GIT_PROTOCOL"] = protocol[:64]
    return await asyncio.create_subprocess_exec(
        "git",
        *arguments,
        str(context.git.path(project["id"])),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
    )


async def _feed(request: Request, process: Any, limit: int) -> None:
    """Pass the request's body to git, unpacked if need be; more than ``limit`` bytes end git."""
    packed = request.headers.get("content-encoding") == "gzip"
    inflate, total = zlib.decompressobj(wbits=31), 0
    try:
        async for chunk in request.stream():
            while chunk:
                data = inflate.decompress(chunk, _PIECE) if packed else chunk
                chunk = inflate.unconsumed_tail if packed else b""
                total += len(data)
                if total > limit:
                    _kill(process)
                    return
                process.stdin.write(data)
                await asyncio.wait_for(process.stdin.drain(), _IDLE_S)
    except (ConnectionError, ClientDisconnect, HttpError, zlib.error, TimeoutError):
        _kill(process)
    finally:
        process.stdin.close()


def _kill(process: Any) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may just have ended by itself
        process.kill()


def _refs(context: Context, project: Row) -> dict[str, str]:
    heads, tags = (context.git.heads(project["id"], kind) for kind in ("heads", "tags"))
    return {f"refs/heads/{k}": v for k, v in heads.items()} | {f"refs/tags/{k}": v for k, v in tags.items()}


def _note_push(context: Context, project: Row, identity: Identity, before: dict[str, str]) -> None:
    after = _refs(context, project)
    if not any(ref.startswith("refs/heads/") for ref in before):
        _adopt_default_branch(context, project, after)
        project = context.store.get("projects", project["id"])
    for ref, sha in after.items():
        if before.get(ref) != sha:
            pushed(context, project, identity.user, ref, before.get(ref, ZERO_SHA))


def _adopt_default_branch(context: Context, project: Row, refs: dict[str, str]) -> None:
    """The first branch pushed to an empty project becomes its default, if the configured one isn't there."""
    names = [ref.removeprefix("refs/heads/") for ref in refs if ref.startswith("refs/heads/")]
    if names and project["default_branch"] not in names:
        context.store.update("projects", project["id"], default_branch=names[0])


ROUTES = [
    Route("/{project:path}.git/info/refs", advertise, methods=["GET"]),
    Route("/{project:path}.git/git-upload-pack", upload_pack, methods=["POST"]),
    Route("/{project:path}.git/git-receive-pack", receive_pack, methods=["POST"]),
]
