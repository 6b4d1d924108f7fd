"""The runner protocol: register, verify, unregister, request a job, update it, send its log.

After GitLab's lib/api/ci/runner.rb and what gitlab-runner 16.0.1 was seen to send and to understand.
"""

from __future__ import annotations

import json
import re
import tempfile
from typing import IO, Any, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedded_gitlab import jobs, payload, runners, tokens
from embedded_gitlab.context import Context, of
from embedded_gitlab.http import failure, forbidden, invalid, number, text, whole
from embedded_gitlab.settings import MEBIBYTE
from embedded_gitlab.store import Row, now

_TRACE_INTERVAL_S = 3
"""GitLab's interval for a job that somebody watches; the suite watches every job."""
_REQUEST_BODY_BYTES = 32 * 1024
"""Workhorse's limit for the body of a job request."""
_SPOOL_BYTES = MEBIBYTE
_CONTACT_EVERY_S = 1.0
"""How often a contact is written down; GitLab writes every 40 minutes or so and keeps the rest in a cache."""


async def register(request: Request) -> Response:
    """POST /runners with a legacy registration token."""
    context = of(request)
    values = await context.parameters(request, _REQUEST_BODY_BYTES)
    project = context.store.one("SELECT * FROM projects WHERE runners_token = ?", text(values, "token"))
    if project is None:
        raise forbidden()
    token = tokens.registered_runner_token()
    runner = runners.insert(context, token, "registration_token", project["id"], **runners.attributes(values))
    _contact(context, request, runner, values)
    return JSONResponse({"id": runner["id"], "token": token, "token_expires_at": None}, 201)


async def verify(request: Request) -> Response:
    """POST /runners/verify: JSON and an id other than 0, or ``gitlab-runner register`` panics."""
    context = of(request)
    values = await context.parameters(request, _REQUEST_BODY_BYTES)
    runner = _runner(context, request, values)
    return JSONResponse({"id": runner["id"], "token": values["token"], "token_expires_at": None})


async def unregister(request: Request) -> Response:
    """DELETE /runners with the runner's token."""
    context = of(request)
    values = await context.parameters(request, _REQUEST_BODY_BYTES)
    runner = _find(context, values)
    runners.remove(context, runner)
    return Response(status_code=204)


async def unregister_manager(request: Request) -> Response:
    """DELETE /runners/managers: only the manager with this system_id goes, the runner stays."""
    context = of(request)
    values = await context.parameters(request, _REQUEST_BODY_BYTES)
    runner, system_id = _find(context, values), text(values, "system_id")
    gone = context.store.execute(
        "DELETE FROM runner_managers WHERE runner_id = ? AND system_id = ?", runner["id"], system_id
    )
    if not gone:
        raise failure(404, "404 Runner manager Not Found")
    return Response(status_code=204)


async def reset_token(request: Request) -> Response:
    """POST /runners/reset_authentication_token."""
    context = of(request)
    values = await context.parameters(request, _REQUEST_BODY_BYTES)
    token = runners.reset_token(context, _runner(context, request, values))
    return JSONResponse({"token": token, "token_expires_at": None}, 201)


async def request_job(request: Request) -> Response:
    """POST /jobs/request: 201 with a job, 204 without.

    With an up-to-date ``last_update`` the request is held until a job may be there. Workhorse then answers
    204 and the runner asks again after its check interval; here the job goes out in the held request, which
    saves up to 30 s with the operator's runner and looks to a runner like a GitLab that took its time.
    """
    context = of(request)
    values = await context.parameters(request, _REQUEST_BODY_BYTES)
    runner = _runner(context, request, values)
    last = text(values, "last_update", "")
    headers = {"Gitlab-Ci-Builds-Polling": "yes"}
    if runner["paused"]:
        return Response(status_code=204, headers=headers | _last_update(context, runner))
    if last and last == context.queue.value(runner["id"]):
        changed = await context.queue.wait(
            runner["id"], last, context.settings.long_poll_s, lambda: _disconnected(request)
        )
        if not changed or await request.is_disconnected():
            return Response(status_code=204, headers=headers | {"X-GitLab-Last-Update": last})
        runner = _find(context, values)
        if runner["paused"]:
            return Response(status_code=204, headers=headers | _last_update(context, runner))
    headers |= _last_update(context, runner)
    manager = _contact(context, request, runner, values)
    job = jobs.take(context, runner, manager)
    if job is None:
        return Response(status_code=204, headers=headers)
    return JSONResponse(payload.build(context, job, runner), 201)


async def update_job(request: Request) -> Response:
    """PUT /jobs/:id: 200, or 403 with ``Job-Status`` once the job is no longer running."""
    context = of(request)
    values = await context.parameters(request, _REQUEST_BODY_BYTES)
    text(values, "token")
    job = _running_job(context, request, values)
    state = text(values, "state", "")
    if state == "success":
        jobs.finish(context, job, "success")
    elif state == "failed":
        reason = values.get("failure_reason")
        jobs.finish(context, job, "failed", str(reason or "unknown_failure"), whole(values, "exit_code"))
    elif state != "running":
        raise invalid("state does not have a valid value")
    status = context.store.get("jobs", job["id"])["status"]
    headers = {"Job-Status": status, "X-GitLab-Trace-Update-Interval": str(_TRACE_INTERVAL_S)}
    return Response("200", headers=headers, media_type="application/json")


async def append_trace(request: Request) -> Response:
    """PATCH /jobs/:id/trace: appended only where the log ends, else 416 with ``Range: 0-<size>``.

    A patch that repeats bytes already there and ends where the log ends is accepted without effect.
    """
    context = of(request)
    job = _running_job(context, request, {"token": request.query_params.get("token")})
    span = re.match(r"(\d{1,15})-", request.headers.get("content-range", ""))
    if "content-range" not in request.headers:
        raise failure(400, "400 Missing header Content-Range")
    if span is None:
        raise failure(400, "400 Bad Request")
    start, limit = int(span[1]), context.settings.trace_limit_mib * MEBIBYTE
    declared = request.headers.get("content-length", "0")
    length = int(declared[:18]) if declared.isdecimal() else 0
    with cast(IO[bytes], tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)) as spool:
        if start + length < limit:
            length = await _spool(request, spool, limit - start)
        if start + length >= limit:
            return _trace_too_big(context, job)
        job = _running_job(context, request, {"token": request.query_params.get("token")})
        spool.seek(0)
        size = context.traces.append(job["id"], start, spool, job["token"])
    context.store.update("jobs", job["id"], touched_at=now())
    headers = {"Range": f"0-{size}", "Job-Status": job["status"]}
    if size != start + length:
        raise failure(416, "416 Range Not Satisfiable", headers)
    headers["X-GitLab-Trace-Update-Interval"] = str(_TRACE_INTERVAL_S)
    return Response(f"0-{size}", 202, headers, media_type="text/plain")


async def artifacts(request: Request) -> Response:
    """Artifacts are switched off, as an administrator can do in GitLab: 405 to uploads, 404 to downloads."""
    context = of(request)
    job_id = number(request, "id")
    job = context.store.one("SELECT * FROM jobs WHERE id = ?", job_id)
    if job is None or request.headers.get("job-token", request.query_params.get("token")) != job["token"]:
        raise forbidden()
    raise failure(404, "404 Not Found") if request.method == "GET" else failure(405, "405 Method Not Allowed")


def _find(context: Context, values: dict[str, Any]) -> Row:
    runner = context.store.one("SELECT * FROM runners WHERE digest = ?", tokens.digest(text(values, "token")))
    if runner is None:
        raise forbidden()
    return runner


def _runner(context: Context, request: Request, values: dict[str, Any]) -> Row:
    runner = _find(context, values)
    _contact(context, request, runner, values)
    return runner


def _contact(context: Context, request: Request, runner: Row, values: dict[str, Any]) -> Row | None:
    """Note that a runner was heard of, and which manager of it, with the versions it reports."""
    at, address = now(), request.client.host if request.client else None
    if at - (runner["contacted_at"] or 0) > _CONTACT_EVERY_S:
        context.store.update("runners", runner["id"], contacted_at=at)
    system_id = values.get("system_id")
    if not isinstance(system_id, str) or not 0 < len(system_id) <= 64:
        return None
    raw = values.get("info")
    info: dict[str, Any] = raw if isinstance(raw, dict) else {}
    reported = {
        key: str(info[key])[:255]
        for key in ("version", "revision", "platform", "architecture", "executor")
        if info.get(key)
    }
    if isinstance(info.get("features"), dict):
        reported["features"] = json.dumps(info["features"])
    find = "SELECT * FROM runner_managers WHERE runner_id = ? AND system_id = ?"
    manager = context.store.one(find, runner["id"], system_id)
    if manager is None:
        context.store.insert(
            "runner_managers",
            runner_id=runner["id"],
            system_id=system_id,
            created_at=at,
            contacted_at=at,
            ip_address=address,
            **reported,
        )
    elif at - (manager["contacted_at"] or 0) > _CONTACT_EVERY_S or any(
        manager[key] != value for key, value in reported.items()
    ):
        context.store.update(
            "runner_managers", manager["id"], contacted_at=at, ip_address=address, **reported
        )
    return context.store.one(find, runner["id"], system_id)


def _running_job(context: Context, request: Request, values: dict[str, Any]) -> Row:
    """The job of the URL with its token, while it runs; 403 otherwise (404 would not end the job)."""
    job = context.store.one("SELECT * FROM jobs WHERE id = ?", number(request, "id"))
    token = values.get("token") or request.headers.get("job-token")
    if job is None or token != job["token"]:
        raise forbidden()
    if job["status"] not in ("running", "canceling"):
        raise forbidden("Job is not running", {"Job-Status": job["status"]})
    at = now()
    context.store.update("jobs", job["id"], touched_at=at)
    if job["runner_id"]:
        context.store.update("runners", job["runner_id"], contacted_at=at)
    return job


def _trace_too_big(context: Context, job: Row) -> Response:
    jobs.finish(context, job, "failed", "trace_size_exceeded")
    return forbidden(headers={"Job-Status": "failed"}).response()


async def _spool(request: Request, spool: IO[bytes], limit: int) -> int:
    """Read the body into ``spool``, which goes to disk when it grows; at most ``limit`` bytes."""
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length >= limit:
            break
        spool.write(chunk)
    return length


async def _disconnected(request: Request) -> None:
    """Returns when the client hangs up. The body was read already, so nothing else can arrive."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _last_update(context: Context, runner: Row) -> dict[str, str]:
    return {"X-GitLab-Last-Update": context.queue.value(runner["id"])}


ROUTES = [
    Route("/runners", register, methods=["POST"]),
    Route("/runners", unregister, methods=["DELETE"]),
    Route("/runners/verify", verify, methods=["POST"]),
    Route("/runners/managers", unregister_manager, methods=["DELETE"]),
    Route("/runners/reset_authentication_token", reset_token, methods=["POST"]),
    Route("/jobs/request", request_job, methods=["POST"]),
    Route("/jobs/{id}", update_job, methods=["PUT"]),
    Route("/jobs/{id}/trace", append_trace, methods=["PATCH"]),
    Route("/jobs/{id}/artifacts", artifacts, methods=["GET", "POST"]),
    Route("/jobs/{id}/artifacts/authorize", artifacts, methods=["POST"]),
]
