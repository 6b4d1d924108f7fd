"""Users, personal access tokens and the version, as API v4 has them."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedded_gitlab import auth, present, tokens
from embedded_gitlab.context import Context, of
from embedded_gitlab.http import failure, flag, forbidden, invalid, names, not_found, number, text
from embedded_gitlab.store import Row, iso, now
from embedded_gitlab.variables import VERSION

_USERNAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{1,253}")
_PASSWORDS = ("password", "reset_password", "force_random_password")
"""One of them must be chosen for a new user; nobody signs in here with a password."""
_RESERVED = frozenset(("api", "jwt", "v2", "-", "admin", "users", "projects", "assets"))


def insert_user(context: Context, username: str, name: str, email: str, *, admin: bool) -> Row:
    """A new user."""
    new = context.store.insert(
        "users", username=username, name=name, email=email, admin=admin, created_at=now()
    )
    return context.store.get("users", new)


def insert_token(
    context: Context, user: Row, name: str, scopes: list[str], expires_at: str | None
) -> tuple[Row, str]:
    """A new personal access token and, this once, its value."""
    value = tokens.personal_access_token()
    new = context.store.insert(
        "access_tokens",
        user_id=user["id"],
        name=name,
        digest=tokens.digest(value),
        scopes=json.dumps(scopes),
        created_at=now(),
        expires_at=expires_at,
    )
    return context.store.get("access_tokens", new), value


def _token_shape(row: Row) -> dict[str, object]:
    expired = bool(row["expires_at"]) and row["expires_at"] <= datetime.now(UTC).date().isoformat()
    return {
        "id": row["id"],
        "name": row["name"],
        "revoked": bool(row["revoked"]),
        "created_at": iso(row["created_at"]),
        "description": None,
        "scopes": json.loads(row["scopes"]),
        "user_id": row["user_id"],
        "last_used_at": iso(row["last_used_at"]),
        "active": not row["revoked"] and not expired,
        "expires_at": row["expires_at"],
    }


async def version(request: Request) -> Response:
    """GET /version."""
    context = of(request)
    auth.require(context.store, request, "api", "read_api", "read_user")
    kas = {"enabled": False, "externalUrl": None, "externalK8sProxyUrl": None, "version": None}
    shape = {"version": f"{VERSION}-embedded", "revision": "embedded", "kas": kas, "enterprise": False}
    return JSONResponse(shape)


async def current(request: Request) -> Response:
    """GET /user."""
    context = of(request)
    identity = auth.require(context.store, request, "api", "read_api", "read_user")
    return JSONResponse(present.current_user(context, identity.user))


async def show_user(request: Request) -> Response:
    """GET /users/:id."""
    context = of(request)
    auth.require(context.store, request, "api", "read_api", "read_user")
    row = context.store.one("SELECT * FROM users WHERE id = ?", number(request, "id"))
    if row is None:
        raise not_found("User")
    return JSONResponse(present.profile(context, row))


async def create_user(request: Request) -> Response:
    """POST /users, for administrators."""
    context = of(request)
    if not auth.require(context.store, request).admin:
        raise forbidden()
    values = await context.parameters(request)
    email, username, name = (text(values, key) for key in ("email", "username", "name"))
    if not any(key in values for key in _PASSWORDS):
        raise invalid(f"{', '.join(_PASSWORDS)} are missing, at least one parameter must be provided")
    if (
        not _USERNAME.fullmatch(username)
        or username.lower() in _RESERVED
        or username.endswith((".git", ".atom"))
    ):
        raise failure(400, {"username": ["can contain only letters, digits, '_', '-' and '.'"]})
    if context.store.one("SELECT 1 FROM users WHERE username = ? OR email = ?", username, email):
        raise failure(409, "Username has already been taken")
    row = insert_user(context, username, name, email, admin=flag(values, "admin", False))
    return JSONResponse(present.current_user(context, row), 201)


async def delete_user(request: Request) -> Response:
    """DELETE /users/:id with everything of theirs."""
    context = of(request)
    identity = auth.require(context.store, request)
    if not identity.admin:
        raise forbidden()
    user_id = number(request, "id")
    if user_id == identity.user["id"]:
        raise failure(400, "400 Bad request")
    for project in context.store.all("SELECT id FROM projects WHERE owner_id = ?", user_id):
        context.git.remove(project["id"])
    if not context.store.execute("DELETE FROM users WHERE id = ?", user_id):
        raise not_found("User")
    return Response(status_code=204)


async def create_token(request: Request) -> Response:
    """POST /users/:id/personal_access_tokens, for administrators."""
    context = of(request)
    if not auth.require(context.store, request).admin:
        raise forbidden()
    values = await context.parameters(request)
    owner = context.store.one("SELECT * FROM users WHERE id = ?", number(request, "id"))
    if owner is None:
        raise not_found("User")
    scopes = names(values, "scopes")
    if not scopes or any(scope not in auth.ALL_SCOPES for scope in scopes):
        raise invalid("scopes does not have a valid value" if scopes else "scopes is missing")
    default = (datetime.now(UTC).date() + timedelta(days=365)).isoformat()
    expires = text(values, "expires_at", default)
    try:
        expires = date.fromisoformat(expires).isoformat()
    except ValueError:
        raise invalid("expires_at is invalid") from None
    row, value = insert_token(context, owner, text(values, "name"), scopes, expires)
    return JSONResponse({**_token_shape(row), "token": value}, 201)


async def own_token(request: Request) -> Response:
    """GET or DELETE /personal_access_tokens/self: any scope will do."""
    context = of(request)
    identity = auth.identify(context.store, request)
    if identity.token is None:
        raise failure(401, "401 Unauthorized")
    if request.method == "DELETE":
        context.store.update("access_tokens", identity.token["id"], revoked=True)
        return Response(status_code=204)
    return JSONResponse(_token_shape(identity.token))


async def revoke_token(request: Request) -> Response:
    """DELETE /personal_access_tokens/:id."""
    context = of(request)
    identity = auth.require(context.store, request)
    row = context.store.one("SELECT * FROM access_tokens WHERE id = ?", number(request, "id"))
    if row is None or not (identity.admin or row["user_id"] == identity.user["id"]):
        raise not_found()
    context.store.update("access_tokens", row["id"], revoked=True)
    return Response(status_code=204)


ROUTES = [
    Route("/version", version, methods=["GET"]),
    Route("/user", current, methods=["GET"]),
    Route("/users", create_user, methods=["POST"]),
    Route("/users/{id}", show_user, methods=["GET"]),
    Route("/users/{id}", delete_user, methods=["DELETE"]),
    Route("/users/{id}/personal_access_tokens", create_token, methods=["POST"]),
    Route("/personal_access_tokens/self", own_token, methods=["GET", "DELETE"]),
    Route("/personal_access_tokens/{id}", revoke_token, methods=["DELETE"]),
]
