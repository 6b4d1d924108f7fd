"""python-gitlab with patience: what is worth a second try gets it, and nothing is done twice by that."""

from __future__ import annotations

import logging
import os
from typing import Any

import gitlab
import requests
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_after_delay
from tenacity.wait import wait_base

from harness.proxy import is_own
from harness.web import system_authorities

log = logging.getLogger("harness.gitlab")

TIMEOUT_S = 30.0
_ATTEMPTS = 8
_FEW_ATTEMPTS = 3
_PATIENCE_S = 120.0
_LONGEST_PAUSE_S = 60.0
_FIRST_PAUSE_S = 0.5
_OWN_AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Where the user names the authorities to trust; requests itself heeds them."""
_TRANSIENT = frozenset((429, 500, 502, 503, 504))
_NOT_BEGUN = frozenset((429, 503))
"""Answers that say that a request was not begun; only these make it safe to send a POST again."""


class PatientGitlab(gitlab.Gitlab):  # type: ignore[misc]  # python-gitlab is not followed by mypy
    """Retries 429, 5xx and broken connections; a POST only where GitLab can't have acted on it.

    A ``Retry-After`` (seconds) of the answer is kept, up to a minute.
    """

    def __init__(self, url: str, private_token: str, verify: bool | str, *, patient: bool = True) -> None:
        session = requests.Session()
        if is_own(url):
            session.trust_env = False  # no proxy reaches what runs on this host
        elif verify is True and not any(os.environ.get(name) for name in _OWN_AUTHORITIES):
            verify = system_authorities() or True
        session.hooks["response"].append(self._note)
        self._retry_after_s: float | None = None
        self._attempts = _ATTEMPTS if patient else _FEW_ATTEMPTS
        super().__init__(
            url,
            private_token=private_token,
            ssl_verify=verify,
            timeout=TIMEOUT_S,
            session=session,
            per_page=100,
            keep_base_url=True,  # page on through the address that was given, whatever GitLab calls itself
        )

    def _note(self, response: requests.Response, *_: Any, **__: Any) -> None:
        text = response.headers.get("Retry-After", "")
        self._retry_after_s = float(text) if text.isdigit() else None

    def http_request(self, verb: str, path: str, *args: Any, **kwargs: Any) -> requests.Response:
        """One API call, with retries."""
        kwargs.update(obey_rate_limit=False, retry_transient_errors=False)
        retrying = Retrying(
            retry=retry_if_exception(lambda error: worth_retrying(error, verb)),
            stop=stop_after_attempt(self._attempts) | stop_after_delay(_PATIENCE_S),
            wait=_Pause(self),
            before_sleep=lambda state: log.info("%s %s: again in %.1f s", verb, path, state.upcoming_sleep),
            reraise=True,
        )
        answer: requests.Response = retrying(super().http_request, verb, path, *args, **kwargs)
        return answer


class _Pause(wait_base):
    """What ``Retry-After`` asks for, else 0.5 s doubling."""

    def __init__(self, client: PatientGitlab) -> None:
        self._client = client

    def __call__(self, retry_state: RetryCallState) -> float:
        asked, self._client._retry_after_s = self._client._retry_after_s, None
        pause = asked if asked is not None else _FIRST_PAUSE_S * 2 ** (retry_state.attempt_number - 1)
        return min(pause, _LONGEST_PAUSE_S)


def worth_retrying(error: BaseException, verb: str) -> bool:
    """Whether a call that ended with ``error`` may be made again."""
    repeatable = verb.lower() in ("get", "head", "put", "delete")
    if isinstance(error, gitlab.GitlabError):
        return error.response_code in (_TRANSIENT if repeatable else _NOT_BEGUN)
    if isinstance(error, requests.exceptions.SSLError):
        return False
    if isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.Timeout):
        return repeatable or _refused(error)
    return False


def _refused(error: BaseException) -> bool:
    """Nothing was sent: the connection was never made."""
    return isinstance(error, requests.exceptions.ConnectTimeout) or "NewConnectionError" in repr(error)
