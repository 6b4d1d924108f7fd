"""Commits, files and branches, as API v4 has them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedded_gitlab import auth, pipelines, present
from embedded_gitlab.context import Context, of
from embedded_gitlab.git_storage import CommitInfo, GitError, valid_path
from embedded_gitlab.http import failure, invalid, not_found, paginate, segment, text
from embedded_gitlab.store import Row

_ACTIONS = ("create", "update", "delete")
_MAX_ACTIONS = 200


async def create_commit(request: Request) -> Response:
    """POST /projects/:id/repository/commits: all actions in one commit; then as after a push."""
    context = of(request)
    identity = auth.require(context.store, request)
    project = auth.project_for(context.store, identity, segment(request, "id"), write=True)
    values = await context.parameters(request)
    actions = values.get("actions")
    if not isinstance(actions, list) or len(actions) > _MAX_ACTIONS:
        raise invalid("actions is missing" if actions is None else "actions is invalid")
    for action in actions:
        if not isinstance(action, dict) or action.get("action") not in _ACTIONS:
            raise invalid("actions[0][action] does not have a valid value")
        if not isinstance(action.get("file_path"), str):
            raise invalid("actions[0][file_path] is missing")
    info = _commit(context, project, identity.user, values, actions)
    return JSONResponse(present.commit_detail(context, project, info), 201)


def _commit(
    context: Context, project: Row, user: Row, values: Mapping[str, Any], actions: Sequence[Mapping[str, Any]]
) -> CommitInfo:
    branch, message = text(values, "branch"), text(values, "commit_message")
    author = (text(values, "author_name", user["name"]), text(values, "author_email", user["email"]))
    start = text(values, "start_branch", "") or None
    try:
        info, before = context.git.commit(project["id"], branch, message, author, actions, start)
    except GitError as error:
        raise failure(400, str(error)) from None
    pushed(context, project, user, branch, before)
    return info


def pushed(context: Context, project: Row, user: Row, ref: str, before: str) -> None:
    """A branch or tag has moved: GitLab starts a pipeline where the file asks for one."""
    try:
        pipelines.create(context, project, user, ref, "push", before_sha=before)
    except pipelines.PipelineRefused:
        return  # no file, or no job for this ref: GitLab makes no pipeline and says nothing


async def show_commit(request: Request) -> Response:
    """GET /projects/:id/repository/commits/:sha, also by branch or tag."""
    context, project = _readable(request)
    info = _find_commit(context, project, segment(request, "sha"))
    return JSONResponse(present.commit_detail(context, project, info))


def _find_commit(context: Context, project: Row, ref: str) -> CommitInfo:
    found = context.git.resolve(project["id"], ref)
    info = context.git.commit_info(project["id"], found[1] if found else ref)
    if info is None:
        raise not_found("Commit")
    return info


def _readable(request: Request) -> tuple[Context, Row]:
    context = of(request)
    identity = auth.require(context.store, request, "api", "read_api", "read_repository")
    return context, auth.project_for(context.store, identity, segment(request, "id"))


async def list_branches(request: Request) -> Response:
    """GET /projects/:id/repository/branches."""
    context, project = _readable(request)
    heads = context.git.heads(project["id"])
    rows = [{"name": name, "sha": sha} for name, sha in heads.items()]
    return paginate(request, context.settings.external_url, rows, lambda row: _branch(context, project, row))


def _branch(context: Context, project: Row, row: Mapping[str, str]) -> dict[str, Any]:
    info = context.git.commit_info(project["id"], row["sha"])
    default = row["name"] == project["default_branch"]
    return {
        "name": row["name"],
        "commit": present.commit(context, project, info) if info else None,
        "merged": False,
        "protected": default,
        "developers_can_push": False,
        "developers_can_merge": False,
        "can_push": True,
        "default": default,
        "web_url": f"{context.url(project['full_path'])}/-/tree/{row['name']}",
    }


async def one_branch(request: Request) -> Response:
    """GET or DELETE /projects/:id/repository/branches/:branch."""
    context = of(request)
    identity = auth.require(context.store, request)
    write = request.method == "DELETE"
    project = auth.project_for(context.store, identity, segment(request, "id"), write=write)
    name = segment(request, "branch")
    sha = context.git.heads(project["id"]).get(name)
    if sha is None:
        raise not_found("Branch")
    if not write:
        return JSONResponse(_branch(context, project, {"name": name, "sha": sha}))
    if name == project["default_branch"]:
        raise failure(400, "Cannot remove HEAD branch")
    context.git.set_ref(project["id"], f"refs/heads/{name}", None)
    return Response(status_code=204)


async def tree(request: Request) -> Response:
    """GET /projects/:id/repository/tree, recursive."""
    context, project = _readable(request)
    ref = request.query_params.get("ref") or project["default_branch"]
    found = context.git.resolve(project["id"], ref)
    info = context.git.commit_info(project["id"], found[1] if found else ref)
    if info is None:
        raise not_found("Tree")
    rows = [
        {"id": blob, "name": path.rsplit("/", 1)[-1], "type": "blob", "path": path, "mode": f"{mode:06o}"}
        for path, mode, blob in context.git.files(project["id"], info.sha)
    ]
    return paginate(request, context.settings.external_url, rows, lambda row: row)


async def show_file(request: Request) -> Response:
    """GET /projects/:id/repository/files/:path (and /raw) at ``ref``."""
    context, project = _readable(request)
    path = segment(request, "path")
    ref = request.query_params.get("ref") or project["default_branch"]
    if not valid_path(path):
        raise invalid("file_path should be a valid file path")
    info = _find_commit(context, project, ref)
    found = context.git.file(project["id"], info.sha, path)
    if found is None:
        raise not_found("File")
    mode, blob, content = found
    if request.url.path.endswith("/raw"):
        return Response(content, media_type="text/plain")
    return JSONResponse(
        {
            "file_name": path.rsplit("/", 1)[-1],
            "file_path": path,
            "size": len(content),
            "encoding": "base64",
            "content_sha256": hashlib.sha256(content).hexdigest(),
            "ref": ref,
            "blob_id": blob,
            "commit_id": info.sha,
            "last_commit_id": info.sha,
            "execute_filemode": mode & 0o111 != 0,
            "content": base64.b64encode(content).decode(),
        }
    )


_FILE = "/projects/{id}/repository/files/{path}"
ROUTES = [
    Route("/projects/{id}/repository/commits", create_commit, methods=["POST"]),
    Route("/projects/{id}/repository/commits/{sha}", show_commit, methods=["GET"]),
    Route("/projects/{id}/repository/branches", list_branches, methods=["GET"]),
    Route("/projects/{id}/repository/branches/{branch}", one_branch, methods=["GET", "DELETE"]),
    Route("/projects/{id}/repository/tree", tree, methods=["GET"]),
    Route(f"{_FILE}/raw", show_file, methods=["GET"]),
    Route(_FILE, show_file, methods=["GET"]),
]
