"""A small read-only page, at GitLab's addresses: projects, runners, pipelines, job logs.

Signed in with HTTP Basic: the user name and a personal access token. Nothing can be changed from here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment
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
_PAGE = Environment(autoescape=True, trim_blocks=True).from_string("""\
<!doctype html><meta charset=utf-8><title>{{ title }} - GitLab</title>
<style>body{font:15px system-ui;margin:2rem auto;max-width:70rem}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd}
pre{background:#111;color:#eee;padding:1rem;overflow:auto}
.success,.online{color:#108548}.failed,.offline{color:#dd2b0e}.running{color:#1f75cb}</style>
<p><a href='/'>Projects</a><h1>{{ title }}</h1>
{% if log is not none %}
<pre>{{ log }}</pre>
{% endif %}
{% for heading, head, rows in tables %}
<h2>{{ heading }}</h2><table><tr>{% for cell in head %}<th>{{ cell }}{% endfor %}
{% for row in rows %}
<tr>{% for cell in row %}<td>{% if cell is not mapping %}{{ cell }}
{%- elif cell.to is defined %}<a href='/{{ cell.to }}'>{{ cell.text }}</a>
{%- else %}<b class='{{ cell.status }}'>{{ cell.status }}</b>{% endif %}{% endfor %}
{% endfor %}
</table>
{% endfor %}
""")
Cell = str | dict[str, str]
Table = tuple[str, tuple[str, ...], Sequence[tuple[Cell, ...]]]


async def home(request: Request) -> Response:
    """All projects that the reader may see."""
    context = of(request)
    identity = _reader(context, request)
    if identity is None:
        return _sign_in()
    rows = [row for row in context.store.all("SELECT * FROM projects") if auth.may_read(identity, row)]
    shown = [({"to": row["full_path"], "text": row["full_path"]}, row["visibility"]) for row in rows]
    return _page("Projects", [("", ("Project", "Visibility"), shown)])


async def project(request: Request) -> Response:
    """Runners and pipelines of one project."""
    context, row = _project(request)
    if row is None:
        return _sign_in()
    runners = context.store.all(
        "SELECT r.* FROM runners r JOIN runner_projects p ON p.runner_id = r.id WHERE p.project_id = ?",
        row["id"],
    )
    pipelines = context.store.all(
        "SELECT * FROM pipelines WHERE project_id = ? ORDER BY id DESC LIMIT 50", row["id"]
    )
    shown = [
        (f"#{r['id']} ({r['short_sha']})", {"status": present.runner_status(context.settings, r)},
         ", ".join(json.loads(r["tag_list"])), r["description"] or "") for r in runners
    ]  # fmt: skip
    base = row["full_path"]
    listed = [
        ({"status": p["status"]}, {"to": f"{base}/-/pipelines/{p['id']}", "text": f"#{p['id']}"}, p["ref"],
         p["sha"][:8]) for p in pipelines
    ]  # fmt: skip
    first = ("Runners", ("Runner", "Status", "Tags", "Description"), shown)
    return _page(base, [first, ("Pipelines", ("Status", "Pipeline", "Ref", "Commit"), listed)])


async def pipeline(request: Request) -> Response:
    """Jobs of one pipeline."""
    context, row = _project(request)
    if row is None:
        return _sign_in()
    found = _child(context, "pipelines", row, request)
    if found is None:
        return _page("404: Page not found", [], status=404)
    jobs = context.store.all("SELECT * FROM jobs WHERE pipeline_id = ? ORDER BY stage_index, id", found["id"])
    base = f"{row['full_path']}/-/jobs"
    listed = [
        ({"status": job["status"]}, {"to": f"{base}/{job['id']}", "text": f"#{job['id']}: {job['name']}"},
         job["stage"], job["failure_reason"] or "", iso(job["finished_at"]) or "") for job in jobs
    ]  # fmt: skip
    title = f"{row['full_path']} pipeline #{found['id']} {found['status']}"
    head = ("Status", "Job", "Stage", "Reason", "Finished")
    return _page(title, [("Jobs", head, listed)], log=found["yaml_errors"])


async def job(request: Request) -> Response:
    """The end of one job's log, as text without colours; ``/raw`` has all of it."""
    context, row = _project(request)
    if row is None:
        return _sign_in()
    found = _child(context, "jobs", row, request)
    if found is None:
        return _page("404: Page not found", [], status=404)
    if request.url.path.endswith("/raw"):
        return send_trace(context, found)
    log = ""
    if size := context.traces.size(found["id"]):
        with context.traces.file(found["id"]).open("rb") as file:
            file.seek(max(0, size - _SHOWN_LOG_BYTES))
            log = _ANSI.sub("", file.read().decode("utf-8", "replace"))
    title = f"{row['full_path']} job #{found['id']} {found['name']}: {found['status']}"
    return _page(title, [], log=log)


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


def _page(title: str, tables: Sequence[Table], *, log: Any = None, status: int = 200) -> Response:
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return HTMLResponse(_PAGE.render(title=title, tables=tables, log=log), status, headers)


ROUTES = [
    Route("/", home, methods=["GET"]),
    Route("/{project:path}/-/pipelines/{number}", pipeline, methods=["GET"]),
    Route("/{project:path}/-/jobs/{number}", job, methods=["GET"]),
    Route("/{project:path}/-/jobs/{number}/raw", job, methods=["GET"]),
    Route("/{project:path}", project, methods=["GET"]),
]
