"""python-gitlab with patience: what is worth a second try gets it, and nothing is done twice by that."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import gitlab
import requests
from requests.utils import get_environ_proxies
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_after_delay
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from harness.environment import steady
from harness.proxy import is_own
from harness.web import system_authorities

log = logging.getLogger("harness.gitlab")

TIMEOUT_S = 30.0
_CONNECT_S = 6.0
"""Longer than a second SYN needs, where the first was lost."""
_FEW_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.5
_LONGEST_ASKED_S = 60.0
"""Of a pause that GitLab itself asks for."""


@dataclass(frozen=True)
class _Patience:
    """How often a call is made, and for how long it is made again, in seconds."""

    attempts: int
    limit_s: float
    longest_pause_s: float


_NOBODY_LISTENS = _Patience(7, 10.0, 2.0)
"""A server that restarts listens again sooner; a GitLab that starts behind one is answered for with 502."""
_BROKEN = _Patience(12, 40.0, 4.0)
"""5xx and lost connections: web workers restart within this, and no fault may take 45 s."""
_LIMITED = _Patience(8, 120.0, 32.0)
"""429: the window of most limits is a minute, and GitLab says when to come again."""
_OWN_AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Where the user names the authorities to trust, as requests heeds them."""
_TRANSIENT = frozenset((429, 500, 502, 503, 504))
_NOT_BEGUN = frozenset((429, 503))
"""Answers that say that a request was not begun; only these make it safe to send a POST again."""


class PatientGitlab(gitlab.Gitlab):  # type: ignore[misc]  # python-gitlab is not followed by mypy
    """Retries 429, 5xx and broken connections; a POST only where GitLab can't have acted on it.

    A ``Retry-After`` (seconds) of the answer is kept, up to a minute. Where nobody listens at all it gives
    up after 10 s.
    """

    def __init__(self, url: str, private_token: str, verify: bool | str, *, patient: bool = True) -> None:
        session = requests.Session()
        session.trust_env = False  # requests would read the environment anew for every call, in any thread
        if not is_own(url):  # no proxy reaches what runs on this host
            session.proxies = dict(steady(partial(get_environ_proxies, url)))
            if verify is True:
                named = (os.environ.get(name) for name in _OWN_AUTHORITIES)
                verify = next(filter(None, named), None) or system_authorities() or True
        session.hooks["response"].append(self._note)
        self._retry_after_s: float | None = None
        self._patient = patient
        super().__init__(
            url,
            private_token=private_token,
            ssl_verify=verify,
            timeout=(_CONNECT_S, TIMEOUT_S),
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
            stop=_Stop(self._patient),
            wait=_Pause(self),
            before_sleep=lambda state: log.info("%s %s: again in %.1f s", verb, path, state.upcoming_sleep),
            reraise=True,
        )
        answer: requests.Response = retrying(super().http_request, verb, path, *args, **kwargs)
        return answer


def _patience(state: RetryCallState) -> _Patience:
    """What the last ending of a call deserves."""
    error = state.outcome.exception() if state.outcome is not None else None
    if error is not None and _not_connected(error):
        return _NOBODY_LISTENS
    return _LIMITED if getattr(error, "response_code", 0) == 429 else _BROKEN


class _Stop(stop_base):
    """Gives up when what the last call ended with has had its attempts or its time."""

    def __init__(self, patient: bool) -> None:
        self._patient = patient

    def __call__(self, retry_state: RetryCallState) -> bool:
        patience = _patience(retry_state)
        attempts = patience.attempts if self._patient else _FEW_ATTEMPTS
        either = stop_after_attempt(attempts) | stop_after_delay(patience.limit_s)
        return either(retry_state)


class _Pause(wait_base):
    """What ``Retry-After`` asks for, else 0.5 s doubling."""

    def __init__(self, client: PatientGitlab) -> None:
        self._client = client

    def __call__(self, retry_state: RetryCallState) -> float:
        asked: float | None = self._client._retry_after_s
        self._client._retry_after_s = None
        if asked is not None:
            return min(asked, _LONGEST_ASKED_S)
        doubled = _FIRST_PAUSE_S * 2.0 ** (retry_state.attempt_number - 1)
        return min(doubled, _patience(retry_state).longest_pause_s)


def worth_retrying(error: BaseException, verb: str) -> bool:
    """Whether a call that ended with ``error`` may be made again."""
    repeatable = verb.lower() in ("get", "head", "put", "delete")
    if isinstance(error, gitlab.GitlabError):
        return error.response_code in (_TRANSIENT if repeatable else _NOT_BEGUN)
    if isinstance(error, requests.exceptions.SSLError):
        return False
    if isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.Timeout):
        return repeatable or _not_connected(error)
    return False


def _not_connected(error: BaseException) -> bool:
    """Nothing was sent: the connection was never made."""
    return isinstance(error, requests.exceptions.ConnectTimeout) or "NewConnectionError" in repr(error)
