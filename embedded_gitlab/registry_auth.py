"""``/jwt/auth``: tokens for the registry. What isn't permitted is left out, and the registry denies."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedded_gitlab import auth
from embedded_gitlab.auth import Identity
from embedded_gitlab.context import Context, of
from embedded_gitlab.http import HttpError
from embedded_gitlab.registry_keys import SERVICE
from embedded_gitlab.store import Row, now

_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})+")
"""distribution's grammar of repository names; no project of ours has a single part."""
_MAX_SCOPES, _MAX_NAME_CHARS = 20, 255


async def token(request: Request) -> Response:
    """GET /jwt/auth. A POST finds no route and so gets 404, on which containerd falls back to GET."""
    context = of(request)
    if request.query_params.get("service") != SERVICE or context.settings.registry_host is None:
        raise HttpError(404, {"error": "404 Not Found"})
    try:
        identity = auth.by_basic(context.store, request)
    except LookupError:
        denied = "HTTP Basic: Access denied. The provided password or token is incorrect."
        raise HttpError(
            401,
            {"errors": [{"code": "UNAUTHORIZED", "message": denied}]},
            {"WWW-Authenticate": 'Basic realm="GitLab"'},
        ) from None
    scopes = " ".join(request.query_params.getlist("scope")).split()
    if identity is None and not scopes:
        raise HttpError(403, {"errors": [{"code": "DENIED", "message": "access forbidden"}]})
    if (
        identity is not None
        and identity.job is None
        and not identity.allows("read_registry", "write_registry")
    ):
        raise HttpError(403, {"errors": [{"code": "DENIED", "message": "access forbidden"}]})
    access = [granted for scope in scopes[:_MAX_SCOPES] if (granted := _grant(context, identity, scope))]
    user = identity.user["username"] if identity else None
    return JSONResponse({"token": context.keys.token(user, SERVICE, access)})


def _grant(context: Context, identity: Identity | None, scope: str) -> dict[str, Any] | None:
    """The part of one ``repository:<name>:<actions>`` that the caller may have."""
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    if kind != "repository" or len(name) > _MAX_NAME_CHARS or not _NAME.fullmatch(name):
        return None
    project = project_of(context, name)
    if project is None:
        return None
    allowed = [action for action in actions.split(",") if _may(identity, project, action)]
    if not allowed:
        return None
    if "push" in allowed:
        context.store.execute(
            "INSERT OR IGNORE INTO registry_repositories (project_id, path, created_at) VALUES (?, ?, ?)",
            project["id"],
            name,
            now(),
        )
    return {"type": "repository", "name": name, "actions": allowed}


def project_of(context: Context, name: str) -> Row | None:
    """The project of a repository ``owner/project[/image[/part]]``: the longest path that is a project."""
    parts = name.split("/")
    for length in range(len(parts), 1, -1):
        row = context.store.one("SELECT * FROM projects WHERE full_path = ?", "/".join(parts[:length]))
        if row is not None:
            return row
    return None


def _may(identity: Identity | None, project: Row, action: str) -> bool:
    """A job pulls from and pushes to its own project only, and pulls what is public."""
    if action == "pull":
        if identity is not None and identity.job is not None:
            return bool(identity.job["project_id"] == project["id"] or project["visibility"] == "public")
        return auth.may_read(identity, project)
    if identity is None:
        return False
    if identity.job is not None:
        return bool(action == "push" and identity.job["project_id"] == project["id"])
    writes = action in ("push", "delete", "*") and identity.allows("write_registry")
    return writes and auth.may_write(identity, project)


ROUTES = [Route("/jwt/auth", token, methods=["GET"])]
