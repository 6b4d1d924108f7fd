"""Runners as API v4 shows and changes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedded_gitlab import auth, present, tokens
from embedded_gitlab.auth import Identity
from embedded_gitlab.context import Context, of
from embedded_gitlab.http import (
    failure,
    flag,
    forbidden,
    invalid,
    names,
    not_found,
    number,
    paginate,
    segment,
    text,
    whole,
)
from embedded_gitlab.store import Row, now

_MINIMUM_TIMEOUT_S = 600
"""GitLab takes no smaller maximum_timeout."""


def insert(context: Context, token: str, registration: str, project_id: int | None, **columns: object) -> Row:
    """A new runner of a project, or of the instance where ``project_id`` is None."""
    with context.store.transaction():
        new = context.store.insert(
            "runners",
            digest=tokens.digest(token),
            short_sha=tokens.short_sha(token),
            registration=registration,
            runner_type="instance_type" if project_id is None else "project_type",
            created_at=now(),
            **columns,
        )
        if project_id is not None:
            context.store.insert("runner_projects", runner_id=new, project_id=project_id)
    return context.store.get("runners", new)


def remove(context: Context, runner: Row) -> None:
    """Delete a runner with its managers; requests it has open see the change."""
    context.store.execute("DELETE FROM runners WHERE id = ?", runner["id"])
    context.queue.forget(runner["id"])


def reset_token(context: Context, runner: Row) -> str:
    """A new token; the old one is worthless from now on."""
    token = tokens.runner_token() if runner["registration"] == "authenticated_user" else ""
    token = token or tokens.registered_runner_token()
    context.store.update(
        "runners", runner["id"], digest=tokens.digest(token), short_sha=tokens.short_sha(token)
    )
    return token


def attributes(values: Mapping[str, Any]) -> dict[str, object]:
    """Columns of a new runner, as both ways to make one take them. 400 where they contradict each other."""
    tags, untagged = names(values, "tag_list"), flag(values, "run_untagged", True)
    check_tags(tags, untagged)
    _refuse_protected(values)
    return {
        "description": text(values, "description", ""),
        "maintenance_note": text(values, "maintenance_note", ""),
        "paused": flag(values, "paused", not flag(values, "active", True)),
        "locked": flag(values, "locked", False),
        "run_untagged": untagged,
        "tag_list": json.dumps(tags),
        "maximum_timeout": maximum_timeout(values),
    }


def check_tags(tags: list[str], run_untagged: bool) -> None:
    """A runner without tags must run untagged jobs."""
    if not tags and not run_untagged:
        raise failure(
            400, {"tags_list": ["can not be empty when runner is not allowed to pick untagged jobs"]}
        )


def _refuse_protected(values: Mapping[str, Any]) -> None:
    if values.get("access_level", "not_protected") != "not_protected":
        raise invalid("access_level: only not_protected is supported by this GitLab")


def maximum_timeout(values: Mapping[str, Any]) -> int | None:
    """Seconds, at least 600, or None."""
    seconds = whole(values, "maximum_timeout")
    if seconds is not None and seconds < _MINIMUM_TIMEOUT_S:
        raise failure(400, {"maximum_timeout": ["needs to be at least 10 minutes"]})
    return seconds


async def create(request: Request) -> Response:
    """POST /user/runners: a runner with a ``glrt-`` token, shown this once."""
    context = of(request)
    identity = auth.require(context.store, request, "api", "create_runner")
    values = await context.parameters(request)
    kind = text(values, "runner_type")
    project_id = None
    if kind == "project_type":
        wanted = whole(values, "project_id")
        if wanted is None:
            raise invalid("project_id is missing")
        project = auth.project_for(context.store, identity, str(wanted), write=True)
        project_id = project["id"]
    elif kind == "instance_type":
        if not identity.admin:
            raise forbidden()
    elif kind == "group_type":
        raise not_found("Group")
    else:
        raise invalid("runner_type does not have a valid value")
    token = tokens.runner_token()
    creator = identity.user["id"]
    runner = insert(
        context, token, "authenticated_user", project_id, creator_id=creator, **attributes(values)
    )
    return JSONResponse({"id": runner["id"], "token": token, "token_expires_at": None}, 201)


async def list_owned(request: Request) -> Response:
    """GET /runners: those of the caller's projects."""
    context = of(request)
    identity = auth.require(context.store, request)
    rows = context.store.all(
        """SELECT DISTINCT r.* FROM runners r JOIN runner_projects rp ON rp.runner_id = r.id
           JOIN projects p ON p.id = rp.project_id WHERE p.owner_id = ? ORDER BY r.id DESC""",
        identity.user["id"],
    )
    return _listed(request, context, rows)


async def list_all(request: Request) -> Response:
    """GET /runners/all, for administrators."""
    context = of(request)
    if not auth.require(context.store, request).admin:
        raise forbidden()
    return _listed(request, context, context.store.all("SELECT * FROM runners ORDER BY id DESC"))


async def list_of_project(request: Request) -> Response:
    """GET /projects/:id/runners: the project's and the instance's."""
    context = of(request)
    identity = auth.require(context.store, request)
    project = auth.project_for(context.store, identity, segment(request, "id"), write=True)
    rows = context.store.all(
        """SELECT * FROM runners WHERE runner_type = 'instance_type' OR id IN
           (SELECT runner_id FROM runner_projects WHERE project_id = ?) ORDER BY id DESC""",
        project["id"],
    )
    return _listed(request, context, rows)


def _listed(request: Request, context: Context, rows: list[Row]) -> Response:
    query = request.query_params
    statuses = ("online", "offline", "stale", "never_contacted", "active", "paused")
    if (wanted := query.get("status")) is not None:
        if wanted not in statuses:
            raise invalid("status does not have a valid value")
        if wanted in ("active", "paused"):
            rows = [row for row in rows if bool(row["paused"]) == (wanted == "paused")]
        else:
            rows = [row for row in rows if present.runner_status(context.settings, row) == wanted]
    if (kind := query.get("type")) is not None:
        if kind not in ("instance_type", "group_type", "project_type"):
            raise invalid("type does not have a valid value")
        rows = [row for row in rows if row["runner_type"] == kind]
    if "paused" in query:
        rows = [row for row in rows if bool(row["paused"]) == flag(query, "paused", False)]
    if tags := names(query, "tag_list"):
        rows = [row for row in rows if set(tags) <= set(json.loads(row["tag_list"]))]
    return paginate(request, context.settings.external_url, rows, lambda row: present.runner(context, row))


def _runner_for(context: Context, identity: Identity, request: Request, name: str = "id") -> Row:
    row = context.store.one("SELECT * FROM runners WHERE id = ?", number(request, name))
    if row is None:
        raise not_found("Runner")
    readable = row["runner_type"] == "instance_type" and request.method == "GET"
    if not (readable or _holds(context, identity, row)):
        raise forbidden("No access granted")
    return row


def _projects_of(context: Context, runner: Row) -> list[Row]:
    return context.store.all(
        """SELECT p.* FROM projects p JOIN runner_projects rp ON rp.project_id = p.id
           WHERE rp.runner_id = ?""",
        runner["id"],
    )


def _holds(context: Context, identity: Identity, runner: Row) -> bool:
    """Administrators hold every runner, others those of a project of theirs (Ci::RunnerPolicy)."""
    owners = [project["owner_id"] for project in _projects_of(context, runner)]
    return identity.admin or identity.user["id"] in owners


async def show(request: Request) -> Response:
    """GET /runners/:id."""
    context = of(request)
    identity = auth.require(context.store, request, "api", "read_api", "manage_runner")
    return JSONResponse(present.runner_details(context, _runner_for(context, identity, request)))


async def managers(request: Request) -> Response:
    """GET /runners/:id/managers."""
    context = of(request)
    identity = auth.require(context.store, request, "api", "read_api", "manage_runner")
    runner = _runner_for(context, identity, request)
    rows = context.store.all(
        "SELECT * FROM runner_managers WHERE runner_id = ? ORDER BY id DESC", runner["id"]
    )
    return paginate(
        request, context.settings.external_url, rows, lambda row: present.manager(context.settings, row)
    )


async def change(request: Request) -> Response:
    """PUT /runners/:id."""
    context = of(request)
    identity = auth.require(context.store, request, "api", "manage_runner")
    runner = _runner_for(context, identity, request)
    values = await context.parameters(request)
    changes: dict[str, object] = {}
    if "active" in values:
        values["paused"] = not flag(values, "active", True)
    for key in ("paused", "locked", "run_untagged"):
        if key in values:
            changes[key] = flag(values, key, False)
    for key in ("description", "maintenance_note"):
        if key in values:
            changes[key] = text(values, key, "")
    if "tag_list" in values:
        changes["tag_list"] = json.dumps(names(values, "tag_list"))
    _refuse_protected(values)
    if "maximum_timeout" in values:
        changes["maximum_timeout"] = maximum_timeout(values)
    if not changes:
        raise invalid(
            "description, active, paused, tag_list, run_untagged, locked, access_level, maximum_timeout, "
            "maintenance_note are missing, at least one parameter must be provided"
        )
    after = {**runner, **changes}
    check_tags(json.loads(str(after["tag_list"])), bool(after["run_untagged"]))
    context.store.update("runners", runner["id"], **changes)
    context.queue.tick([runner["id"]])
    return JSONResponse(present.runner_details(context, context.store.get("runners", runner["id"])))


async def delete(request: Request) -> Response:
    """DELETE /runners/:id."""
    context = of(request)
    identity = auth.require(context.store, request, "api", "manage_runner")
    runner = _runner_for(context, identity, request)
    if not identity.admin and len(_projects_of(context, runner)) > 1:
        raise forbidden("Runner associated with more than one project")
    remove(context, runner)
    return Response(status_code=204)


async def assign(request: Request) -> Response:
    """POST /projects/:id/runners."""
    context = of(request)
    identity = auth.require(context.store, request)
    project = auth.project_for(context.store, identity, segment(request, "id"), write=True)
    values = await context.parameters(request)
    runner = context.store.one("SELECT * FROM runners WHERE id = ?", whole(values, "runner_id"))
    if runner is None:
        raise not_found("Runner")
    if runner["locked"] and not identity.admin:
        raise forbidden("Runner is locked")
    if not _holds(context, identity, runner):
        raise forbidden("No access granted")
    if runner["runner_type"] != "project_type":
        raise failure(400, "400 Bad request - runner is not a project runner")
    context.store.execute("INSERT OR IGNORE INTO runner_projects VALUES (?, ?)", runner["id"], project["id"])
    context.queue.tick([runner["id"]])
    return JSONResponse(present.runner(context, runner), 201)


ROUTES = [
    Route("/user/runners", create, methods=["POST"]),
    Route("/runners", list_owned, methods=["GET"]),
    Route("/runners/all", list_all, methods=["GET"]),
    Route("/runners/{id}", show, methods=["GET"]),
    Route("/runners/{id}", change, methods=["PUT"]),
    Route("/runners/{id}", delete, methods=["DELETE"]),
    Route("/runners/{id}/managers", managers, methods=["GET"]),
    Route("/projects/{id}/runners", list_of_project, methods=["GET"]),
    Route("/projects/{id}/runners", assign, methods=["POST"]),
]
