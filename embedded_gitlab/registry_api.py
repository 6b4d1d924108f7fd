"""The container registry as API v4 shows it: repositories and tags, read from the real registry."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedded_gitlab import auth
from embedded_gitlab.context import Context, of
from embedded_gitlab.http import failure, not_found, paginate, segment
from embedded_gitlab.registry_keys import SERVICE
from embedded_gitlab.store import Row, iso

if TYPE_CHECKING:
    import httpx

_TIMEOUT_S = 10.0
_MANIFESTS = ", ".join(
    (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    )
)
_TAG = re.compile(r"[\w][\w.-]{0,127}")


class Registry:
    """The registry with a token of GitLab's own for one repository."""

    def __init__(self, context: Context, repository: str) -> None:
        self._context, self._repository = context, repository

    async def call(self, method: str, path: str) -> httpx.Response:
        """One request below ``/v2/<repository>/``; 503 where the registry can't be reached."""
        import httpx  # takes longer to load than all else; most GitLabs start without needing it

        settings = self._context.settings
        access: list[dict[str, object]] = [{"type": "repository", "name": self._repository, "actions": ["*"]}]
        token = self._context.keys.token("", SERVICE, access)
        base = f"https://{settings.registry_host}"
        trust: ssl.SSLContext | bool = True
        if settings.registry_ca is not None and settings.registry_ca.exists():
            trust = ssl.create_default_context(cafile=str(settings.registry_ca))
        headers = {"Authorization": f"Bearer {token}", "Accept": _MANIFESTS}
        try:
            async with httpx.AsyncClient(verify=trust, timeout=_TIMEOUT_S, trust_env=False) as client:
                return await client.request(method, f"{base}/v2/{self._repository}/{path}", headers=headers)
        except httpx.HTTPError:
            raise failure(503, "503 Service Unavailable") from None

    async def tags(self) -> list[str]:
        """Tag names; a repository that nobody has pushed to yet has none."""
        answer = await self.call("GET", "tags/list")
        return sorted(answer.json().get("tags") or []) if answer.status_code == 200 else []

    async def digest(self, tag: str) -> str | None:
        """The digest of a tag's manifest."""
        answer = await self.call("HEAD", f"manifests/{tag}")
        return answer.headers.get("docker-content-digest") if answer.status_code == 200 else None


async def repositories(request: Request) -> Response:
    """GET /projects/:id/registry/repositories: those that something was pushed to."""
    context = of(request)
    project = _project(context, request)
    rows = context.store.all(
        "SELECT * FROM registry_repositories WHERE project_id = ? ORDER BY id", project["id"]
    )
    found = await asyncio.gather(*(Registry(context, row["path"]).tags() for row in rows))
    shapes = [
        {**_repository(context, project, row), "tags_count": len(tags)}
        for row, tags in zip(rows, found, strict=True)
        if tags
    ]
    return paginate(request, context.settings.external_url, shapes, lambda row: row)


def _repository(context: Context, project: Row, row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["path"][len(project["full_path"]) :].strip("/"),
        "path": row["path"],
        "project_id": project["id"],
        "location": f"{context.settings.registry_host}/{row['path']}",
        "created_at": iso(row["created_at"]),
        "cleanup_policy_started_at": None,
        "status": None,
    }


async def tags(request: Request) -> Response:
    """GET /projects/:id/registry/repositories/:repository_id/tags."""
    context = of(request)
    row = _repository_row(context, request)
    found = await Registry(context, row["path"]).tags()
    location = f"{context.settings.registry_host}/{row['path']}"
    shapes = [{"name": tag, "path": f"{row['path']}:{tag}", "location": f"{location}:{tag}"} for tag in found]
    return paginate(request, context.settings.external_url, shapes, lambda shape: shape)


async def one_tag(request: Request) -> Response:
    """GET or DELETE /projects/:id/registry/repositories/:repository_id/tags/:tag."""
    context = of(request)
    row = _repository_row(context, request, write=request.method == "DELETE")
    tag = segment(request, "tag")
    registry = Registry(context, row["path"])
    digest = await registry.digest(tag) if _TAG.fullmatch(tag) else None
    if digest is None:
        raise not_found("Tag")
    if request.method == "DELETE":
        if (await registry.call("DELETE", f"manifests/{digest}")).status_code != 202:
            raise failure(400, "Could not delete the tag")
        return Response(status_code=200)
    manifest = (await registry.call("GET", f"manifests/{digest}")).json()
    config = manifest.get("config") or {}
    sizes = [layer.get("size", 0) for layer in manifest.get("layers", [])]
    location = f"{context.settings.registry_host}/{row['path']}:{tag}"
    return JSONResponse(
        {
            "name": tag,
            "path": f"{row['path']}:{tag}",
            "location": location,
            "revision": config.get("digest", "").removeprefix("sha256:"),
            "short_revision": config.get("digest", "").removeprefix("sha256:")[:9],
            "digest": digest,
            "created_at": None,
            "total_size": sum(sizes),
        }
    )


async def delete_repository(request: Request) -> Response:
    """DELETE /projects/:id/registry/repositories/:repository_id with all its tags."""
    context = of(request)
    row = _repository_row(context, request, write=True)
    registry = Registry(context, row["path"])
    for tag in await registry.tags():
        if digest := await registry.digest(tag):
            await registry.call("DELETE", f"manifests/{digest}")
    context.store.execute("DELETE FROM registry_repositories WHERE id = ?", row["id"])
    return JSONResponse(202, 202)


def _project(context: Context, request: Request, *, write: bool = False) -> Row:
    project = auth.requested_project(context.store, request, write=write)
    if context.settings.registry_host is None:
        raise not_found()
    return project


def _repository_row(context: Context, request: Request, *, write: bool = False) -> Row:
    _project(context, request, write=write)  # there may be rows of a time when there was a registry
    return auth.requested_child(
        context.store, request, "registry_repositories", "repository_id", "Repository", write=write
    )


_BASE = "/projects/{id}/registry/repositories"
ROUTES = [
    Route(_BASE, repositories, methods=["GET"]),
    Route(f"{_BASE}/{{repository_id}}", delete_repository, methods=["DELETE"]),
    Route(f"{_BASE}/{{repository_id}}/tags", tags, methods=["GET"]),
    Route(f"{_BASE}/{{repository_id}}/tags/{{tag}}", one_tag, methods=["GET", "DELETE"]),
]
