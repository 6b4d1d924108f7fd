"""What went wrong with GitLab, in a sentence, with what to do about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import gitlab.exceptions
import requests

from harness.diagnosis import Fact, classify
from harness.errors import EnvironmentProblem, HarnessError, UsageError
from harness.redact import redact

_MAX_BODY_CHARS = 600
_WISHES = (401, 403, 404)
"""Answers that are about what the user gave: a token, a project."""
FAULTS = (gitlab.GitlabError, requests.exceptions.RequestException, json.JSONDecodeError)
"""All that python-gitlab raises."""


@contextmanager
def gitlab_errors(doing: str, url: str) -> Iterator[None]:
    """The client's many exceptions as errors of the harness: the one border that they pass."""
    try:
        yield
    except FAULTS as error:
        raise explain(error, doing, url) from error


def explain(error: Exception, doing: str, url: str) -> HarnessError:
    """The error of an API call made while ``doing`` something, as one of the harness's own."""
    if isinstance(error, HarnessError):
        return error
    status = _status(error)
    text = redact(_text(error))
    why = classify([Fact("gitlab", f"{doing} at {url}", _said(error, text, status), status=status)])
    assert why is not None  # the last rule on this source matches everything
    kind = UsageError if status in _WISHES else EnvironmentProblem
    return kind(why.sentence, why.do, evidence=text, reason_id=why.id)


def _status(error: Exception) -> int:
    if isinstance(error, gitlab.exceptions.GitlabError) and not _unreadable(error):
        return int(error.response_code or 0)
    return 0


def _unreadable(error: Exception) -> bool:
    return isinstance(error, gitlab.exceptions.GitlabParsingError | json.JSONDecodeError)


def _said(error: Exception, text: str, status: int) -> str:
    if _unreadable(error):
        return f"it does not answer as a GitLab does: {text}"
    if status:
        return f"HTTP {status}: {text}"
    return text if isinstance(error, gitlab.exceptions.GitlabError) else f"{_kind(error)}: {text}"


def _kind(error: Exception) -> str:
    """The sort of a connection's failure, where its text may not say it."""
    if isinstance(error, requests.exceptions.SSLError):
        return "certificate verify failed" if "verify" in str(error) else "TLS failed (SSLError)"
    if isinstance(error, requests.exceptions.ProxyError):
        return "ProxyError"
    if isinstance(error, requests.exceptions.Timeout):
        return "timed out"
    return "Connection failed"


def _text(error: Exception) -> str:
    if isinstance(error, gitlab.exceptions.GitlabError):
        body = error.response_body
        shown = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
        message = error.error_message
        text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
        return (text if shown and text in shown else f"{text} {shown}").strip()[:_MAX_BODY_CHARS]
    return str(error)[:_MAX_BODY_CHARS]
