"""What can go wrong at the API server's door, as errors of ours."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import urllib3
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import DynamicApiError

from harness.errors import EXIT_ENVIRONMENT, EXIT_PRODUCT, Blame, HarnessError

_HANDSHAKE = re.compile(
    r"Handshake status (?P<status>\d{3}) .*?(?P<body>\{\"kind\":\"Status\".*?\})$", re.S | re.M
)
"""How the websocket library words a refused exec: status line, headers, then the server's own answer."""


class ApiError(HarnessError):
    """The API server refused, with HTTP ``status``, machine-readable ``reason`` and its message."""

    blame = Blame.PRODUCT
    exit_code = EXIT_PRODUCT

    def __init__(self, status: int, reason: str, message: str, *, doing: str) -> None:
        super().__init__(f"{doing}: {message} (HTTP {status} {reason})", blame=_blame_of(status, message))
        self.status = status
        self.reason = reason
        self.api_message = message

    @property
    def transient(self) -> bool:
        """Worth asking again: overloaded, restarting, or a leader not yet there."""
        return self.status in (429, 502, 503, 504)


class ApiUnreachable(ApiError):
    """Nobody answers at the API server's address (``status`` 0)."""

    def __init__(self, message: str, *, doing: str) -> None:
        super().__init__(0, "Unreachable", message, doing=doing)
        self.hint = "is the cluster still running? `runner-conformance status` says"
        self.blame = Blame.ENVIRONMENT
        self.exit_code = EXIT_ENVIRONMENT

    @property
    def transient(self) -> bool:
        return True


class KindUnknown(HarnessError):
    """The API server serves no such kind (yet)."""

    blame = Blame.PRODUCT
    exit_code = EXIT_PRODUCT


class WatchExpired(Exception):
    """The watch's resource version is too old: list again."""


@contextmanager
def api_errors(doing: str) -> Iterator[None]:
    """The client's many exceptions as ApiError, ApiUnreachable, or WatchExpired."""
    try:
        yield
    except ApiException as error:
        raise _api_error(error, doing) from None
    except DynamicApiError as error:
        raise _api_error(error, doing) from None
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
        raise ApiUnreachable(_root_cause(error), doing=doing) from None


def _api_error(error: Any, doing: str) -> ApiError:
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body or ""
    try:
        status = json.loads(body)
        reason, message = status.get("reason") or error.reason, status.get("message") or body
    except (ValueError, AttributeError):
        reason, message = error.reason, body.strip() or str(error.reason)
    handshake = _HANDSHAKE.search(str(error.reason))
    if handshake:
        refusal = json.loads(handshake["body"])
        return ApiError(int(handshake["status"]), refusal["reason"], refusal["message"], doing=doing)
    if not error.status:
        return ApiUnreachable(f"{reason} {message}".strip(), doing=doing)
    return ApiError(int(error.status), str(reason), str(message), doing=doing)


def _root_cause(error: BaseException) -> str:
    """urllib3 wraps the reason twice; the innermost one is the sentence worth reading."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return _root_cause(reason)
    return f"{type(error).__name__}: {error}"


def _blame_of(status: int, message: str) -> Blame:
    """A webhook or API of the product that doesn't answer is reported by the server as its own 500/503."""
    if status >= 500 and "webhook" not in message:
        return Blame.ENVIRONMENT
    return Blame.ENVIRONMENT if status in (401, 429) else Blame.PRODUCT
