"""What went wrong with GitLab, in a sentence, with what to do about it."""

from __future__ import annotations

import gitlab.exceptions
import requests

from harness.errors import EnvironmentProblem, HarnessError, UsageError
from harness.redact import redact

_MAX_BODY_CHARS = 600


def explain(error: Exception, doing: str, url: str) -> HarnessError:
    """The error of an API call made while ``doing`` something, as one of the harness's own."""
    if isinstance(error, HarnessError):
        return error
    text = redact(_text(error))
    if isinstance(error, requests.exceptions.SSLError):
        return EnvironmentProblem(
            f"{doing}: the certificate of {url} is not trusted",
            "give the CA of this GitLab (--gitlab-ca-file), as a PEM file",
            evidence=text,
        )
    if isinstance(error, requests.exceptions.Timeout):
        return EnvironmentProblem(
            f"{doing}: {url} did not answer in time", "is GitLab overloaded?", evidence=text
        )
    if isinstance(error, requests.exceptions.RequestException):
        return EnvironmentProblem(
            f"{doing}: {url} can't be reached",
            "check the address, the proxy settings and the network",
            evidence=text,
        )
    if isinstance(error, gitlab.exceptions.GitlabError):
        return _of_answer(error, doing, url, text)
    return EnvironmentProblem(
        f"{doing}: {text}", "is this address a GitLab's?", evidence=type(error).__name__
    )


def _of_answer(error: gitlab.exceptions.GitlabError, doing: str, url: str, text: str) -> HarnessError:
    status = error.response_code
    if isinstance(error, gitlab.exceptions.GitlabParsingError) or status is None:
        return EnvironmentProblem(
            f"{doing}: {url} does not answer as a GitLab does",
            "is it the address of a GitLab?",
            evidence=text,
        )
    if status == 401:
        return UsageError(
            f"{doing}: GitLab at {url} refuses the token (401)",
            "the token is wrong, expired or revoked: make a new personal access token with scope api",
        )
    if status == 403:
        return UsageError(
            f"{doing}: the token may not do this (403)",
            "use a token of a user who is Maintainer or Owner of the project, with scope api",
            evidence=text,
        )
    if status == 404:
        return UsageError(f"{doing}: not found (404)", "check the name, and whether the user can see it",
                          evidence=text)  # fmt: skip
    if status == 429:
        return EnvironmentProblem(
            f"{doing}: GitLab at {url} keeps limiting the rate (429)",
            "wait a few minutes, or use a GitLab with a higher limit",
            evidence=text,
        )
    if status >= 500:
        return EnvironmentProblem(
            f"{doing}: GitLab at {url} answers {status} again and again",
            "see the state of that GitLab",
            evidence=text,
        )
    return EnvironmentProblem(f"{doing}: GitLab answers {status}: {text}", "see GitLab's message")


def _text(error: Exception) -> str:
    if isinstance(error, gitlab.exceptions.GitlabError):
        body = error.response_body
        shown = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
        message = error.error_message
        text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
        return (text if shown and text in shown else f"{text} {shown}").strip()[:_MAX_BODY_CHARS]
    return str(error)[:_MAX_BODY_CHARS]
