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

from harness.diagnosis import Fact, classify
from harness.errors import EXIT_PRODUCT, Blame, HarnessError

_HANDSHAKE = re.compile(
    r"Handshake status (?P<status>\d{3}) .*?(?P<body>\{\"kind\":\"Status\".*?\})$", re.S | re.M
)
"""How the websocket library words a refused exec: status line, headers, then the server's own answer."""
_GROUP = re.compile(r"/apis/([\w-]+(?:\.[\w-]+)+)(?:/|$)")
_SERVICE_SILENT = re.compile(
    r"^service unavailable|error trying to reach service|unable to handle the request", re.I
)
"""What the API server says of a program behind it (an APIService); of itself it says something else."""


class ApiError(HarnessError):
    """The API server refused, with HTTP ``status``, machine-readable ``reason`` and its message.

    ``behind`` is the API group whose own server, behind the API server, did not answer ("" otherwise).
    """

    blame = Blame.PRODUCT
    exit_code = EXIT_PRODUCT

    def __init__(self, status: int, reason: str, message: str, *, doing: str) -> None:
        self.status = status
        self.reason = reason
        self.api_message = message
        self.behind = _behind(status, message, doing)
        seen = {"apiservice": self.behind} if self.behind else {}
        text = f"{message} (HTTP {status} {reason})" if status else message
        why = classify([Fact("api", doing, text, status=status, seen=seen)])
        assert why is not None  # the last rule on this source matches everything
        self.why = why
        super().__init__(why.sentence, why.do, blame=why.blame, reason_id=why.id)

    @property
    def transient(self) -> bool:
        """Worth asking again: overloaded, restarting, or a leader not yet there."""
        return self.status in (429, 502, 503, 504)


class ApiUnreachable(ApiError):
    """Nobody answers at the API server's address (``status`` 0)."""

    def __init__(self, message: str, *, doing: str) -> None:
        super().__init__(0, "Unreachable", message, doing=doing)

    @property
    def transient(self) -> bool:
        """A certificate that is not trusted is not trusted the next time either."""
        return self.why.id != "api/certificate"


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
        if isinstance(error.__context__, KeyboardInterrupt | SystemExit):
            # the client takes the end of the run, while it opens a stream, for an answer of the server's
            raise error.__context__ from None
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


def _behind(status: int, message: str, doing: str) -> str:
    group = _GROUP.search(doing)
    silent = status in (502, 503, 504) and _SERVICE_SILENT.search(message)
    return group.group(1) if group and silent else ""
