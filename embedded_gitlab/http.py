"""Requests and answers in GitLab's shapes: parameters, error bodies, pagination."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from embedded_gitlab.store import Row

_WHOLE = re.compile(r"-?[0-9]{1,15}")
_MAX_FIELDS = 1000
ENCODED_SLASH = "\x01"
"""Stands for an encoded slash within one path segment while a request is routed."""


class HttpError(Exception):
    """An answer other than success, with GitLab's body."""

    def __init__(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status} {body}")
        self.status, self.body, self.headers = status, body, dict(headers or {})

    def response(self) -> Response:
        """The HTTP answer."""
        return JSONResponse(self.body, self.status, self.headers)


def failure(status: int, message: object, headers: Mapping[str, str] | None = None) -> HttpError:
    """``{"message": …}``: how API v4 reports most errors; a dict where fields of an object are wrong."""
    return HttpError(status, {"message": message}, headers)


def invalid(text: str) -> HttpError:
    """``400 {"error": text}``: how API v4 reports a parameter that is missing or has a wrong form."""
    return HttpError(400, {"error": text})


def not_found(what: str = "") -> HttpError:
    """``404 Project Not Found`` and the like."""
    return failure(404, f"404 {what} Not Found" if what else "404 Not Found")


def forbidden(reason: str = "", headers: Mapping[str, str] | None = None) -> HttpError:
    """``403 Forbidden``, with GitLab's `` - reason``."""
    return failure(403, "403 Forbidden" + (f" - {reason}" if reason else ""), headers)


class PathSegments:
    """Keeps ``root%2Fdemo`` one segment, as GitLab routes it, and refuses control characters in paths."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rewrite ``scope["path"]``, then pass on."""
        if scope["type"] == "http":
            raw = scope.get("raw_path", b"").split(b"?")[0].decode("latin-1")
            segments = [unquote(segment) for segment in raw.split("/")]
            if any(ord(char) < 32 or char == "\ufffd" for segment in segments for char in segment):
                await failure(400, "400 Bad Request").response()(scope, receive, send)
                return
            scope = dict(scope, path="/".join(segment.replace("/", ENCODED_SLASH) for segment in segments))
        await self._app(scope, receive, send)


def segment(request: Request, name: str) -> str:
    """A path parameter, decoded."""
    return str(request.path_params[name]).replace(ENCODED_SLASH, "/")


def number(request: Request, name: str) -> int:
    """A numeric path parameter; GitLab answers 400 to anything else."""
    text = segment(request, name)
    if not text.isascii() or not text.isdigit():
        raise invalid(f"{name} is invalid")
    return identifier(text) or 0


def identifier(digits: str) -> int | None:
    """An id, or None where no row can have it: ids are 64-bit numbers."""
    return int(digits) if len(digits) <= 18 else None


class Bodies:
    """Reads bodies, and knows how much memory all of them take together."""

    def __init__(self, limit_bytes: int) -> None:
        self._free_bytes = limit_bytes

    async def read(self, request: Request, limit: int) -> bytes:
        """The whole body. 413 when it is known to be larger than ``limit``, 429 where all are too much."""
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:18]) > limit:
            raise failure(413, "413 Request Entity Too Large")
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self._free_bytes -= len(chunk)
                if len(body) > limit:
                    raise failure(413, "413 Request Entity Too Large")
                if self._free_bytes < 0:
                    raise failure(429, "429 Too Many Requests")
        finally:
            self._free_bytes += len(body)
        return bytes(body)


async def parameters(request: Request, body: bytes) -> dict[str, Any]:
    """Query and body (JSON or form) in one dict; ``key[]`` makes a list, ``key[sub]`` a dict."""
    values: dict[str, Any] = {}
    for key, value in request.query_params.multi_items():
        _put(values, key, value)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if not body:
        return values
    if kind == "application/json":
        try:
            parsed = json.loads(body.decode())
            if b"\\u" in body:
                json.dumps(parsed, ensure_ascii=False).encode()  # a lone surrogate is no character
        except (ValueError, RecursionError):
            raise invalid("message body does not match declared format") from None
        if not isinstance(parsed, dict):
            raise invalid("message body does not match declared format")
        values.update(parsed)
    elif kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
        for key, value in await _form(request, kind, body):
            _put(values, key, value)
    else:
        raise HttpError(415, {"error": "The provided content-type is not supported."})
    return values


async def _form(request: Request, kind: str, body: bytes) -> list[tuple[str, str]]:
    async def whole_body() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        if kind == "application/x-www-form-urlencoded":
            return parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
        form = await MultiPartParser(request.headers, whole_body(), max_files=1).parse()
        return [(key, value) for key, value in form.multi_items() if isinstance(value, str)]
    except (ValueError, LookupError, MultiPartException):
        raise invalid("message body does not match declared format") from None


def _put(values: dict[str, Any], key: str, value: str) -> None:
    name, bracket, rest = key.partition("[")
    if not bracket:
        values[key] = value
    elif rest == "]":
        values.setdefault(name, [])
        if isinstance(values[name], list):
            values[name].append(value)
    else:
        inner = values.setdefault(name, {})
        if isinstance(inner, dict):
            inner[rest.rstrip("]")] = value


def text(values: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """A string parameter; without ``default`` it is required."""
    value = values.get(key)
    if value is None:
        if default is None:
            raise invalid(f"{key} is missing")
        return default
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise invalid(f"{key} is invalid")
    return str(value)


def flag(values: Mapping[str, Any], key: str, default: bool) -> bool:
    """A boolean parameter in any of the forms GitLab takes."""
    value = values.get(key)
    if value is None:
        return default
    known = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
    try:
        return known[str(value).lower()]
    except KeyError:
        raise invalid(f"{key} is invalid") from None


def whole(values: Mapping[str, Any], key: str, default: int | None = None) -> int | None:
    """An integer parameter, or ``default`` when it is absent or null."""
    value = values.get(key)
    if value is None or value == "":
        return default
    if isinstance(value, bool) or not isinstance(value, str | int) or not _WHOLE.fullmatch(str(value)):
        raise invalid(f"{key} is invalid")
    return int(value)


def names(values: Mapping[str, Any], key: str) -> list[str]:
    """A list given as an array or as a comma-separated string (``tag_list``)."""
    value = values.get(key)
    if value is None:
        return []
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise invalid(f"{key} is invalid")
    return list(dict.fromkeys(item.strip() for item in items if item.strip()))


def paginate(
    request: Request, base_url: str, rows: Sequence[Row], present: Callable[[Row], object]
) -> Response:
    """One page of ``rows`` with GitLab's pagination headers (doc: REST API, Pagination)."""
    page = whole(request.query_params, "page", 1) or 0
    per_page = whole(request.query_params, "per_page", 20) or 0
    if page < 1:
        raise invalid("page does not have a valid value")
    if per_page < 1:
        raise invalid("per_page does not have a valid value")
    per_page = min(per_page, 100)
    total = len(rows)
    pages = max(1, math.ceil(total / per_page))
    headers = {
        "X-Page": str(page),
        "X-Per-Page": str(per_page),
        "X-Total": str(total),
        "X-Total-Pages": str(pages),
        "X-Prev-Page": str(page - 1) if page > 1 else "",
        "X-Next-Page": str(page + 1) if page < pages else "",
    }
    links = {"prev": headers["X-Prev-Page"], "next": headers["X-Next-Page"], "first": "1", "last": str(pages)}
    kept = [(k, v) for k, v in request.query_params.multi_items() if k not in ("page", "per_page")]
    where = base_url + request.scope["raw_path"].decode("latin-1")
    headers["Link"] = ", ".join(
        f'<{where}?{urlencode([*kept, ("page", at), ("per_page", per_page)])}>; rel="{rel}"'
        for rel, at in links.items()
        if at
    )
    shown = rows[(page - 1) * per_page : page * per_page]
    return JSONResponse([present(row) for row in shown], headers=headers)
