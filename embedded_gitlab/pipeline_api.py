"""Pipelines and jobs, as API v4 has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from embedded_gitlab import auth, jobs, pipelines, present
from embedded_gitlab.context import Context, of
from embedded_gitlab.http import failure, forbidden, invalid, not_found, paginate, text
from embedded_gitlab.store import Row
from embedded_gitlab.variables import variable

_SEND_BYTES = 64 * 1024
_STATUSES = frozenset(
    [
        "created",
        "waiting_for_resource",
        "preparing",
        "pending",
        "running",
        "success",
        "failed",
        "canceling",
        "canceled",
        "skipped",
        "manual",
        "scheduled",
    ]
)


async def create(request: Request) -> Response:
    """POST /projects/:id/pipeline."""
    context = of(request)
    identity = auth.require(context.store, request)
    project = _project(context, request, write=True)
    values = await context.parameters(request)
    if values.get("inputs"):
        raise invalid("inputs is a parameter that this GitLab does not support")
    given = _given_variables(values.get("variables"))
    try:
        row = pipelines.create(context, project, identity.user, text(values, "ref"), "api", given)
    except pipelines.PipelineRefused as error:
        raise failure(400, {"base": error.errors}) from None
    return JSONResponse(present.pipeline(context, row, full=True), 201)


def _given_variables(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, dict):
        given = [{"key": key, "value": value} for key, value in given.items()]
    if not isinstance(given, list | None) or not all(isinstance(v, dict) for v in given or []):
        raise invalid("variables is invalid")
    return [
        variable(text(v, "key"), text(v, "value"), public=False, file=text(v, "variable_type", "") == "file")
        for v in given or []
    ]


async def list_pipelines(request: Request) -> Response:
    """GET /projects/:id/pipelines, filtered by ref, sha, status, source."""
    context = of(request)
    project = _project(context, request)
    order = "ASC" if request.query_params.get("sort") == "asc" else "DESC"
    rows = context.store.all(
        f"SELECT * FROM pipelines WHERE project_id = ? ORDER BY id {order}", project["id"]
    )
    for key in ("ref", "sha", "status", "source"):
        if (wanted := request.query_params.get(key)) is not None:
            rows = [row for row in rows if row[key] == wanted]
    return paginate(request, context.settings.external_url, rows, lambda row: present.pipeline(context, row))


async def show(request: Request) -> Response:
    """GET /projects/:id/pipelines/:pipeline_id."""
    context = of(request)
    return JSONResponse(present.pipeline(context, _pipeline(context, request), full=True))


async def delete(request: Request) -> Response:
    """DELETE /projects/:id/pipelines/:pipeline_id with its jobs and their logs."""
    context = of(request)
    row = _pipeline(context, request, write=True)
    for job in context.store.all("SELECT id FROM jobs WHERE pipeline_id = ?", row["id"]):
        context.traces.remove(job["id"])
    context.store.execute("DELETE FROM pipelines WHERE id = ?", row["id"])
    context.git.set_ref(row["project_id"], f"refs/pipelines/{row['id']}", None)
    return Response(status_code=204)


async def cancel(request: Request) -> Response:
    """POST /projects/:id/pipelines/:pipeline_id/cancel."""
    context = of(request)
    row = _pipeline(context, request, write=True)
    found = context.store.all("SELECT * FROM jobs WHERE pipeline_id = ? AND NOT retried", row["id"])
    jobs.cancel(context, row["id"], found)
    return JSONResponse(present.pipeline(context, context.store.get("pipelines", row["id"]), full=True))


async def retry(request: Request) -> Response:
    """POST /projects/:id/pipelines/:pipeline_id/retry: what failed or was canceled."""
    context = of(request)
    identity = auth.require(context.store, request)
    row = _pipeline(context, request, write=True)
    jobs.retry_all(context, row["id"], identity.user)
    return JSONResponse(present.pipeline(context, context.store.get("pipelines", row["id"]), full=True), 201)


async def list_jobs(request: Request) -> Response:
    """GET /projects/:id/jobs and /projects/:id/pipelines/:pipeline_id/jobs, by scope."""
    context = of(request)
    project = _project(context, request)
    sql, key = "SELECT * FROM jobs WHERE project_id = ?", project["id"]
    if "pipeline_id" in request.path_params:
        sql, key = "SELECT * FROM jobs WHERE pipeline_id = ?", _pipeline(context, request)["id"]
        if request.query_params.get("include_retried") not in ("true", "1", "True"):
            sql += " AND NOT retried"
    query = request.query_params
    scopes = [*query.getlist("scope[]"), *query.getlist("scope")]
    if any(scope not in _STATUSES for scope in scopes):
        raise invalid("scope does not have a valid value")
    rows = context.store.all(f"{sql} ORDER BY id DESC", key)
    rows = [row for row in rows if not scopes or row["status"] in scopes]
    return paginate(request, context.settings.external_url, rows, lambda row: present.job(context, row))


async def show_job(request: Request) -> Response:
    """GET /projects/:id/jobs/:job_id."""
    context = of(request)
    return JSONResponse(present.job(context, _job(context, request)))


async def own_job(request: Request) -> Response:
    """GET /job: the job that a job token belongs to."""
    context = of(request)
    identity = auth.identify(context.store, request)
    if identity.job is None:
        raise not_found("Job")
    return JSONResponse(present.job(context, identity.job))


async def trace(request: Request) -> Response:
    """GET /projects/:id/jobs/:job_id/trace: the log so far, sent in pieces."""
    context = of(request)
    return send_trace(context, _job(context, request))


def send_trace(context: Context, job: Row) -> Response:
    """A job's log as plain text; what is added meanwhile is left for the next request."""
    size = context.traces.size(job["id"])
    if not size:
        return Response(b"", media_type="text/plain")
    log = context.traces.file(job["id"]).open("rb")
    return StreamingResponse(
        _pieces(log, size), media_type="text/plain", headers={"Content-Length": str(size)}
    )


def _pieces(log: IO[bytes], size: int) -> Iterator[bytes]:
    with log:
        while size > 0 and (piece := log.read(min(size, _SEND_BYTES))):
            size -= len(piece)
            yield piece


async def act_on_job(request: Request) -> Response:
    """POST /projects/:id/jobs/:job_id/cancel, /retry, /play."""
    context = of(request)
    identity = auth.require(context.store, request)
    row = _job(context, request, write=True)
    action = request.url.path.rsplit("/", 1)[-1]
    if action == "cancel":
        if row["status"] not in pipelines.CANCELABLE:
            raise forbidden("Job is not cancelable")
        jobs.cancel(context, row["pipeline_id"], [row])
        row = context.store.get("jobs", row["id"])
    elif action == "retry":
        if row["status"] not in ("success", "failed", "canceled") or row["retried"]:
            raise forbidden("Job is not retryable")
        row = jobs.retry(context, row, identity.user)
    else:
        if row["status"] != "manual":
            raise failure(400, "400 Bad request - Unplayable Job")
        return JSONResponse(present.job(context, jobs.play(context, row)))
    return JSONResponse(present.job(context, row), 201)


def _project(context: Context, request: Request, *, write: bool = False) -> Row:
    return auth.requested_project(context.store, request, write=write)


def _pipeline(context: Context, request: Request, *, write: bool = False) -> Row:
    return auth.requested_child(context.store, request, "pipelines", "pipeline_id", "Pipeline", write=write)


def _job(context: Context, request: Request, *, write: bool = False) -> Row:
    return auth.requested_child(context.store, request, "jobs", "job_id", write=write)


_PIPELINE, _JOB = "/projects/{id}/pipelines/{pipeline_id}", "/projects/{id}/jobs/{job_id}"
ROUTES = [
    Route("/projects/{id}/pipeline", create, methods=["POST"]),
    Route("/projects/{id}/pipelines", list_pipelines, methods=["GET"]),
    Route(_PIPELINE, show, methods=["GET"]),
    Route(_PIPELINE, delete, methods=["DELETE"]),
    Route(f"{_PIPELINE}/cancel", cancel, methods=["POST"]),
    Route(f"{_PIPELINE}/retry", retry, methods=["POST"]),
    Route(f"{_PIPELINE}/jobs", list_jobs, methods=["GET"]),
    Route("/projects/{id}/jobs", list_jobs, methods=["GET"]),
    Route(_JOB, show_job, methods=["GET"]),
    Route(f"{_JOB}/trace", trace, methods=["GET"]),
    *(Route(f"{_JOB}/{name}", act_on_job, methods=["POST"]) for name in ("cancel", "retry", "play")),
    Route("/job", own_job, methods=["GET"]),
]
