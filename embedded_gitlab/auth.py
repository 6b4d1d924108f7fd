"""Who is asking: personal access tokens with scopes, job tokens while their job runs, HTTP Basic for git."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.requests import Request

from embedded_gitlab import tokens
from embedded_gitlab.http import HttpError, failure, identifier, not_found, number, segment
from embedded_gitlab.store import Row, Store, now

ALL_SCOPES = (
    "api", "read_api", "read_user", "create_runner", "manage_runner", "read_repository", "write_repository",
    "read_registry", "write_registry", "sudo", "admin_mode",
)  # fmt: skip

_USED_EVERY_S = 60
"""How precisely last_used_at is kept."""


@dataclass(frozen=True)
class Identity:
    """A user, and what the credential they came with permits. ``job`` is set for a job token."""

    user: Row
    scopes: frozenset[str]
    token: Row | None = None
    job: Row | None = None

    @property
    def admin(self) -> bool:
        """Administrator rights; a job token never has them."""
        return bool(self.user["admin"]) and self.job is None

    def allows(self, *scopes: str) -> bool:
        """Whether any of ``scopes`` is held; ``api`` holds all of them."""
        return "api" in self.scopes or any(scope in self.scopes for scope in scopes)


def identify(store: Store, request: Request) -> Identity:
    """The caller of an API request; 401 as GitLab answers it."""
    header = request.headers.get("authorization", "")
    bearer = header[7:].strip() if header.lower().startswith("bearer ") else None
    query, headers = request.query_params, request.headers
    secret = headers.get("private-token") or query.get("private_token") or bearer or query.get("access_token")
    identity = by_personal_token(store, secret) if secret else None
    secret = secret or headers.get("job-token") or query.get("job_token")
    identity = identity or (by_job_token(store, secret) if secret else None)
    if identity is None:
        raise failure(401, "401 Unauthorized")
    return identity


def require(store: Store, request: Request, *scopes: str) -> Identity:
    """The caller, who must hold one of ``scopes`` (default: ``api``, or ``read_api`` too for GET)."""
    identity = identify(store, request)
    if identity.job is not None:
        raise failure(403, "403 Forbidden")
    wanted = scopes or (("api", "read_api") if request.method in ("GET", "HEAD") else ("api",))
    if not identity.allows(*wanted):
        raise HttpError(
            403,
            {
                "error": "insufficient_scope",
                "error_description": "The request requires higher privileges than the token provides.",
                "scope": " ".join(wanted),
            },
        )
    return identity


def by_personal_token(store: Store, secret: str) -> Identity | None:
    """The owner of a personal access token that is neither revoked nor expired."""
    row = store.one("SELECT * FROM access_tokens WHERE digest = ?", tokens.digest(secret))
    if row is None or row["revoked"]:
        return None
    if row["expires_at"] and row["expires_at"] <= datetime.now(UTC).date().isoformat():
        return None
    if now() - (row["last_used_at"] or 0) > _USED_EVERY_S:
        store.update("access_tokens", row["id"], last_used_at=now())
    return Identity(store.get("users", row["user_id"]), frozenset(json.loads(row["scopes"])), token=row)


def by_job_token(store: Store, secret: str) -> Identity | None:
    """The user of a job, while the job runs and no longer."""
    job = store.one("SELECT * FROM jobs WHERE token = ? AND status IN ('running', 'canceling')", secret)
    if job is None or job["user_id"] is None:
        return None
    return Identity(store.get("users", job["user_id"]), frozenset(), job=job)


def by_basic(store: Store, request: Request) -> Identity | None:
    """The caller of git or the registry: ``gitlab-ci-token`` with a job token, or a personal one.

    Raises LookupError when credentials are given and wrong; None means that there are none.
    """
    header = request.headers.get("authorization", "")
    if not header.lower().startswith("basic "):
        return None
    try:
        name, _, password = base64.b64decode(header[6:], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise LookupError("malformed") from None
    found = by_job_token(store, password) if name == "gitlab-ci-token" else by_personal_token(store, password)
    if found is None:
        raise LookupError("wrong")
    return found


def find_project(store: Store, reference: str) -> Row | None:
    """A project by id or by full path."""
    if reference.isascii() and reference.isdigit():
        return store.one("SELECT * FROM projects WHERE id = ?", identifier(reference))
    return store.one("SELECT * FROM projects WHERE full_path = ?", reference)


def may_read(identity: Identity | None, project: Row) -> bool:
    """Owners and administrators always; everyone where the project is public; users where it is internal."""
    if identity is None:
        return bool(project["visibility"] == "public")
    if identity.job is not None and identity.job["project_id"] == project["id"]:
        return True
    return project["visibility"] in ("public", "internal") or may_write(identity, project)


def may_write(identity: Identity, project: Row) -> bool:
    """The owner and administrators. A job token never writes."""
    return identity.job is None and (identity.admin or identity.user["id"] == project["owner_id"])


def project_for(store: Store, identity: Identity, reference: str, *, write: bool = False) -> Row:
    """The project, or 404 where the caller may not know of it, or 403 where they may only read."""
    project = find_project(store, reference)
    if project is None or not may_read(identity, project):
        raise not_found("Project")
    if write and not may_write(identity, project):
        raise failure(403, "403 Forbidden")
    return project


def requested_project(store: Store, request: Request, *, write: bool = False) -> Row:
    """The project of ``/projects/:id/…``, for a caller with the scope that the method needs."""
    return project_for(store, require(store, request), segment(request, "id"), write=write)


def requested_child(
    store: Store, request: Request, table: str, key: str, what: str = "", *, write: bool = False
) -> Row:
    """What belongs to that project: the row of ``table`` that the path parameter ``key`` names, or 404."""
    project = requested_project(store, request, write=write)
    sql = f"SELECT * FROM {table} WHERE project_id = ? AND id = ?"
    row = store.one(sql, project["id"], number(request, key))
    if row is None:
        raise not_found(what)
    return row
