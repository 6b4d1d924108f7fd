"""Projects and their CI/CD variables, as API v4 has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedded_gitlab import auth, present, tokens
from embedded_gitlab.ci_config import MAX_TIMEOUT_S
from embedded_gitlab.context import Context, of
from embedded_gitlab.git_storage import valid_branch
from embedded_gitlab.http import failure, flag, invalid, not_found, paginate, segment, text, whole
from embedded_gitlab.store import Row, now

_PATH = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,254}")
_NAME = re.compile(r"[\w.+\- ]{1,255}")
_KEY = re.compile(r"[a-zA-Z0-9_]{1,255}")
_MASKABLE = re.compile(r"[a-zA-Z0-9_+=/@:.~-]{8,}")
_VISIBILITIES = ("private", "internal", "public")


async def create(request: Request) -> Response:
    """POST /projects, in the caller's own namespace."""
    context = of(request)
    identity = auth.require(context.store, request)
    values = await context.parameters(request)
    name, path = _name_and_path(values)
    namespace = whole(values, "namespace_id", identity.user["id"])
    owner = identity.user
    if namespace != owner["id"]:
        found = context.store.one("SELECT * FROM users WHERE id = ?", namespace)
        if found is None or not identity.admin:
            raise failure(400, {"namespace": ["is not valid"]})
        owner = found
    visibility = text(values, "visibility", "private")
    if visibility not in _VISIBILITIES:
        raise invalid("visibility does not have a valid value")
    full_path = f"{owner['username']}/{path}"
    if context.store.one("SELECT 1 FROM projects WHERE full_path = ?", full_path):
        taken = ["has already been taken"]
        raise failure(400, {"project_namespace.name": taken, "path": taken, "name": taken})
    branch = _branch(values)
    with context.store.transaction():
        new = context.store.insert(
            "projects",
            owner_id=owner["id"],
            name=name,
            path=path,
            full_path=full_path,
            description=text(values, "description", ""),
            visibility=visibility,
            default_branch=branch,
            runners_token=tokens.registration_token(),
            build_timeout=_build_timeout(values),
            shared_runners_enabled=flag(values, "shared_runners_enabled", True),
            created_at=now(),
        )
        context.git.create(new, branch)
    if flag(values, "initialize_with_readme", False):
        readme = {"action": "create", "file_path": "README.md", "content": f"# {name}\n"}
        author = (identity.user["name"], identity.user["email"])
        context.git.commit(new, branch, "Initial commit", author, [readme])
    return JSONResponse(present.project(context, context.store.get("projects", new), secrets=True), 201)


def _name_and_path(values: Mapping[str, Any]) -> tuple[str, str]:
    if values.get("name") is None and values.get("path") is None:
        raise invalid("name, path are missing, at least one parameter must be provided")
    name = text(values, "name", str(values.get("path") or ""))
    path = text(values, "path", re.sub(r"[^a-zA-Z0-9_.-]+", "-", name).strip("-."))
    if not _NAME.fullmatch(name):
        raise failure(
            400, {"name": ["can contain only letters, digits, emoji, '_', '.', '+', dashes, or spaces."]}
        )
    if not _PATH.fullmatch(path) or path.endswith((".git", ".atom", ".")) or ".." in path:
        raise failure(
            400,
            {
                "path": [
                    "can contain only letters, digits, '_', '-' and '.'. Cannot start with '-', end in '.git'"
                ]
            },
        )
    return name, path


def _branch(values: Mapping[str, Any]) -> str:
    branch = text(values, "default_branch", "main")
    if not valid_branch(branch):
        raise failure(400, {"default_branch": ["is invalid"]})
    return branch


def _build_timeout(values: Mapping[str, Any]) -> int:
    seconds = whole(values, "build_timeout", 3600) or 0
    if not 600 <= seconds <= MAX_TIMEOUT_S:
        raise failure(400, {"build_timeout": ["needs to be between 10 minutes and 1 month"]})
    return seconds


async def list_projects(request: Request) -> Response:
    """GET /projects: what the caller may see, newest first."""
    context = of(request)
    identity = auth.require(context.store, request)
    rows = context.store.all("SELECT * FROM projects ORDER BY id DESC")
    query = request.query_params
    owned = flag(query, "owned", False) or flag(query, "membership", False)
    rows = [
        row
        for row in rows
        if (row["owner_id"] == identity.user["id"] if owned else auth.may_read(identity, row))
        and query.get("search", "").lower() in row["full_path"].lower()
    ]
    return paginate(request, context.settings.external_url, rows, lambda row: _shown(context, identity, row))


def _shown(context: Context, identity: auth.Identity, row: Row) -> dict[str, Any]:
    return present.project(context, row, secrets=auth.may_write(identity, row))


async def show(request: Request) -> Response:
    """GET /projects/:id."""
    context = of(request)
    identity = auth.require(context.store, request)
    row = auth.project_for(context.store, identity, segment(request, "id"))
    return JSONResponse(_shown(context, identity, row))


async def change(request: Request) -> Response:
    """PUT /projects/:id: description, visibility, default branch, timeout, shared runners."""
    context = of(request)
    identity = auth.require(context.store, request)
    row = auth.project_for(context.store, identity, segment(request, "id"), write=True)
    values = await context.parameters(request)
    changes: dict[str, object] = {}
    if "description" in values:
        changes["description"] = text(values, "description", "")
    if "default_branch" in values:
        changes["default_branch"] = _branch(values)
    if "visibility" in values:
        changes["visibility"] = text(values, "visibility")
        if changes["visibility"] not in _VISIBILITIES:
            raise invalid("visibility does not have a valid value")
    if "build_timeout" in values:
        changes["build_timeout"] = _build_timeout(values)
    if "shared_runners_enabled" in values:
        changes["shared_runners_enabled"] = flag(values, "shared_runners_enabled", True)
    if changes:
        context.store.update("projects", row["id"], **changes)
        context.queue.tick_all()
    return JSONResponse(_shown(context, identity, context.store.get("projects", row["id"])))


async def delete(request: Request) -> Response:
    """DELETE /projects/:id: 202, and gone with its runners that belong to no other project."""
    context = of(request)
    identity = auth.require(context.store, request)
    row = auth.project_for(context.store, identity, segment(request, "id"), write=True)
    jobs = context.store.all("SELECT id FROM jobs WHERE project_id = ?", row["id"])
    with context.store.transaction():
        context.store.execute(
            """DELETE FROM runners WHERE id IN (SELECT runner_id FROM runner_projects WHERE project_id = ?)
               AND id NOT IN (SELECT runner_id FROM runner_projects WHERE project_id != ?)""",
            row["id"],
            row["id"],
        )
        context.store.execute("DELETE FROM projects WHERE id = ?", row["id"])
    context.git.remove(row["id"])
    for job in jobs:
        context.traces.remove(job["id"])
    return JSONResponse({"message": "202 Accepted"}, 202)


async def list_variables(request: Request) -> Response:
    """GET /projects/:id/variables."""
    context = of(request)
    project = _maintained(context, request)
    rows = context.store.all(
        "SELECT * FROM project_variables WHERE project_id = ? ORDER BY key", project["id"]
    )
    return paginate(request, context.settings.external_url, rows, present.project_variable)


async def create_variable(request: Request) -> Response:
    """POST /projects/:id/variables; a value that can't be masked is refused when masking is asked for."""
    context = of(request)
    project = _maintained(context, request)
    values = await context.parameters(request)
    key, value = text(values, "key"), text(values, "value")
    if not _KEY.fullmatch(key):
        raise failure(400, {"key": ["can contain only letters, digits and '_'."]})
    if _variable(context, project, key):
        raise failure(400, {"key": [f"({key}) has already been taken"]})
    _write_variable(context, project, key, {**values, "value": value})
    return JSONResponse(present.project_variable(_variable(context, project, key) or {}), 201)


async def one_variable(request: Request) -> Response:
    """GET, PUT, DELETE /projects/:id/variables/:key."""
    context = of(request)
    project = _maintained(context, request)
    key = segment(request, "key")
    row = _variable(context, project, key)
    if row is None:
        raise not_found("Variable")
    if request.method == "DELETE":
        sql = "DELETE FROM project_variables WHERE project_id = ? AND key = ?"
        context.store.execute(sql, project["id"], key)
        return Response(status_code=204)
    if request.method == "PUT":
        _write_variable(context, project, key, {**row, **await context.parameters(request)})
    return JSONResponse(present.project_variable(_variable(context, project, key) or {}))


def _maintained(context: Context, request: Request) -> Row:
    return auth.requested_project(context.store, request, write=True)


def _variable(context: Context, project: Row, key: str) -> Row | None:
    sql = "SELECT * FROM project_variables WHERE project_id = ? AND key = ?"
    return context.store.one(sql, project["id"], key)


def _write_variable(context: Context, project: Row, key: str, values: Mapping[str, Any]) -> None:
    value, kind = text(values, "value"), text(values, "variable_type", "env_var")
    if kind not in ("env_var", "file"):
        raise invalid("variable_type does not have a valid value")
    if text(values, "environment_scope", "*") != "*":
        raise invalid("environment_scope: only '*' is supported by this GitLab")
    masked = flag(values, "masked", False)
    if masked and not _MASKABLE.fullmatch(value):
        raise failure(400, {"value": ["is invalid"]})
    protected, raw = flag(values, "protected", False), flag(values, "raw", False)
    described = text(values, "description") if values.get("description") is not None else None
    context.store.execute(
        """INSERT OR REPLACE INTO project_variables
           (project_id, key, value, variable_type, masked, protected, raw, description)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
        *(project["id"], key, value, kind, masked, protected, raw, described),
    )


ROUTES = [
    Route("/projects", list_projects, methods=["GET"]),
    Route("/projects", create, methods=["POST"]),
    Route("/projects/{id}", show, methods=["GET"]),
    Route("/projects/{id}", change, methods=["PUT"]),
    Route("/projects/{id}", delete, methods=["DELETE"]),
    Route("/projects/{id}/variables", list_variables, methods=["GET"]),
    Route("/projects/{id}/variables", create_variable, methods=["POST"]),
    Route("/projects/{id}/variables/{key}", one_variable, methods=["GET", "PUT", "DELETE"]),
]
