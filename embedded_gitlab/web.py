"""A small read-only page, at GitLab's addresses: projects, runners, pipelines, job logs.

Signed in with HTTP Basic: the user name and a personal access token. Nothing can be changed from here.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from embedded_gitlab import auth, present
from embedded_gitlab.context import Context, of
from embedded_gitlab.http import number
from embedded_gitlab.pipeline_api import send_trace
from embedded_gitlab.store import Row, iso

_SHOWN_LOG_BYTES = 512 * 1024
_ANSI = re.compile(
    r"\x1b\[[0-9;]*[A-Za-z]|section_(?:start|end):\d+:[^\r\n]*\r|^\S{20,40}Z \d\d[OE][ +]", re.MULTILINE
)
"""Colours, sections, and the stamps that runner 18.7 and later put before each line."""
_STYLE = (
    "body{font:15px system-ui;margin:2rem auto;max-width:70rem}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd}"
    "pre{background:#111;color:#eee;padding:1rem;overflow:auto}"
    ".success,.online{color:#108548}.failed,.offline{color:#dd2b0e}.running{color:#1f75cb}"
)


async def home(request: Request) -> Response:
    """All projects that the reader may see."""
    context = of(request)
    identity = _reader(context, request)
    if identity is None:
        return _sign_in()
    rows = [row for row in context.store.all("SELECT * FROM projects") if auth.may_read(identity, row)]
    table = _table(
        ("Project", "Visibility"), [(_link(r["full_path"], r["full_path"]), r["visibility"]) for r in rows]
    )
    return _page("Projects", table)


async def project(request: Request) -> Response:
    """Runners and pipelines of one project."""
    context, row = _project(request)
    if row is None:
        return _sign_in()
    base = row["full_path"]
    runners = context.store.all(
        "SELECT r.* FROM runners r JOIN runner_projects p ON p.runner_id = r.id WHERE p.project_id = ?",
        row["id"],
    )
    pipelines = context.store.all(
        "SELECT * FROM pipelines WHERE project_id = ? ORDER BY id DESC LIMIT 50", row["id"]
    )
    shown = [
        (
            f"#{runner['id']} ({html.escape(runner['short_sha'])})",
            _status(present.runner_status(context.settings, runner)),
            html.escape(", ".join(json.loads(runner["tag_list"]))),
            html.escape(runner["description"] or ""),
        )
        for runner in runners
    ]
    listed = [
        (
            _status(p["status"]),
            _link(f"{base}/-/pipelines/{p['id']}", f"#{p['id']}"),
            html.escape(p["ref"]),
            p["sha"][:8],
        )
        for p in pipelines
    ]
    body = "<h2>Runners</h2>" + _table(("Runner", "Status", "Tags", "Description"), shown)
    return _page(base, body + "<h2>Pipelines</h2>" + _table(("Status", "Pipeline", "Ref", "Commit"), listed))


async def pipeline(request: Request) -> Response:
    """Jobs of one pipeline."""
    context, row = _project(request)
    if row is None:
        return _sign_in()
    found = _child(context, "pipelines", row, request)
    if found is None:
        return _missing()
    jobs = context.store.all("SELECT * FROM jobs WHERE pipeline_id = ? ORDER BY stage_index, id", found["id"])
    listed = [
        (
            _status(job["status"]),
            _link(f"{row['full_path']}/-/jobs/{job['id']}", f"#{job['id']}: {job['name']}"),
            html.escape(job["stage"]),
            html.escape(job["failure_reason"] or ""),
            iso(job["finished_at"]) or "",
        )
        for job in jobs
    ]
    errors = f"<pre>{html.escape(found['yaml_errors'])}</pre>" if found["yaml_errors"] else ""
    table = _table(("Status", "Job", "Stage", "Reason", "Finished"), listed)
    return _page(f"{row['full_path']} pipeline #{found['id']} {found['status']}", errors + table)


async def job(request: Request) -> Response:
    """The end of one job's log, as text without colours; ``/raw`` has all of it."""
    context, row = _project(request)
    if row is None:
        return _sign_in()
    found = _child(context, "jobs", row, request)
    if found is None:
        return _missing()
    if request.url.path.endswith("/raw"):
        return send_trace(context, found)
    log = ""
    if size := context.traces.size(found["id"]):
        with context.traces.file(found["id"]).open("rb") as file:
            file.seek(max(0, size - _SHOWN_LOG_BYTES))
            log = _ANSI.sub("", file.read().decode("utf-8", "replace"))
    title = f"{row['full_path']} job #{found['id']} {found['name']}: {found['status']}"
    return _page(title, f"<pre>{html.escape(log)}</pre>")


def _reader(context: Context, request: Request) -> auth.Identity | None:
    try:
        identity = auth.by_basic(context.store, request)
    except LookupError:
        return None
    return identity if identity is not None and identity.job is None and identity.allows("read_api") else None


def _project(request: Request) -> tuple[Context, Row | None]:
    context = of(request)
    identity = _reader(context, request)
    path = request.path_params["project"].replace("\x01", "/")
    row = context.store.one("SELECT * FROM projects WHERE full_path = ?", path)
    return context, row if identity is not None and row is not None and auth.may_read(identity, row) else None


def _child(context: Context, table: str, parent: Row, request: Request) -> Row | None:
    sql = f"SELECT * FROM {table} WHERE project_id = ? AND id = ?"
    return context.store.one(sql, parent["id"], number(request, "number"))


def _sign_in() -> Response:
    return PlainTextResponse(
        "Sign in with a personal access token.\n", 401, {"WWW-Authenticate": 'Basic realm="GitLab"'}
    )


def _missing() -> Response:
    return _page("404: Page not found", "", 404)


def _page(title: str, body: str, status: int = 200) -> Response:
    head = f"<!doctype html><meta charset=utf-8><title>{html.escape(title)} - GitLab</title>"
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return HTMLResponse(
        f"{head}<style>{_STYLE}</style><p><a href='/'>Projects</a><h1>{html.escape(title)}</h1>{body}",
        status,
        headers,
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    top = "".join(f"<th>{cell}" for cell in head)
    return (
        f"<table><tr>{top}" + "".join("<tr>" + "".join(f"<td>{c}" for c in row) for row in rows) + "</table>"
    )


def _link(path: str, label: str) -> str:
    return f"<a href='/{html.escape(path, quote=True)}'>{html.escape(label)}</a>"


def _status(text: str) -> str:
    return f"<b class='{html.escape(text)}'>{html.escape(text)}</b>"


ROUTES = [
    Route("/", home, methods=["GET"]),
    Route("/{project:path}/-/pipelines/{number}", pipeline, methods=["GET"]),
    Route("/{project:path}/-/jobs/{number}", job, methods=["GET"]),
    Route("/{project:path}/-/jobs/{number}/raw", job, methods=["GET"]),
    Route("/{project:path}", project, methods=["GET"]),
]
