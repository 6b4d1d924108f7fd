"""The runner's side of GitLab's runner API: requests, what counts as success, back-off, log lines."""

import contextlib
import gzip
import http.client
import json
import random
import ssl
import sys
import threading
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

from . import REVISION, VERSION, log, words
from .config import short_token

_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
USER_AGENT = f"gitlab-runner {VERSION} (stand-in; {_PYTHON}; linux/amd64)"
_FEATURES = words(
    "variables image services artifacts cache fallback_cache_keys shared upload_multiple_artifacts "
    "upload_raw_artifacts session terminal refspecs masking proxy raw_variables artifacts_exclude "
    "multi_build_steps trace_reset trace_checksum trace_size vault_secrets cancelable return_exit_code "
    "service_variables service_multiple_aliases"
)
_AT_REGISTRATION = {"trace_reset", "trace_checksum", "trace_size", "cancelable"}
_REQUEST_TIMEOUT_S = 60
_BACKOFF_MIN_S, _BACKOFF_MAX_S = 0.1, 60.0
NO_ANSWER = -1


def info(executor: str | None = "kubernetes") -> dict[str, Any]:
    """The `info` object of requests; without an executor as `register` sends it."""
    base = {"name": "gitlab-runner", "version": VERSION, "revision": REVISION, "platform": "linux"}
    base["architecture"] = "amd64"
    if executor is None:
        return base | {"features": {f: f in _AT_REGISTRATION for f in _FEATURES}, "config": {"gpus": ""}}
    features = {f: f != "shared" for f in _FEATURES}
    return base | {"executor": executor, "shell": "bash", "features": features, "config": {"gpus": ""}}


@dataclass
class Answer:
    """One answer; `status` is NO_ANSWER when the connection failed or the body was not the JSON asked for."""

    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)
    json: Any = None

    @property
    def interval_s(self) -> int:
        """X-GitLab-Trace-Update-Interval, 0 when absent."""
        value = self.headers.get("x-gitlab-trace-update-interval", "")
        return int(value) if value.isdigit() else 0

    @property
    def aborts(self) -> bool:
        """Whether GitLab says that the job is over."""
        return self.status == 403 or self.job_status in ("canceled", "failed")

    @property
    def job_status(self) -> str:
        """The Job-Status header."""
        return self.headers.get("job-status", "")


class GitLab:
    """A client for one `[[runners]]` entry's URL."""

    def __init__(self, url: str, ca_file: str = "") -> None:
        self.base = url.rstrip("/") + "/api/v4/"
        self._ca_file = ca_file
        self._failures: dict[str, int] = {}
        self._lock = threading.Lock()

    def call(
        self,
        method: str,
        path: str,
        body: object,
        *,
        want: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request; `want`: the status whose body must be JSON. Sleeps after an error answer."""
        payload = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        sent = {"Content-Type": "application/json", "Accept-Encoding": "gzip", "User-Agent": USER_AGENT}
        sent |= ({"Accept": "application/json"} if want else {}) | (headers or {})
        url = self.base + path
        try:
            status, reason, got, data = self._follow(method, url, payload, sent)
        except (OSError, http.client.HTTPException) as error:
            verb = method.capitalize()
            text = f'couldn\'t execute {method} against {url}: {verb} "{url}": {connection_error(error, url)}'
            return Answer(NO_ANSWER, text)
        self._back_off(method, status, got)
        answer = Answer(status, f"{status} {reason}", got)
        json_type = got.get("content-type", "").split(";")[0].strip() == "application/json"
        if want and status == want:
            if not json_type:
                kind = got.get("content-type", "")
                return Answer(NO_ANSWER, f"server should return application/json. Got: {kind}", got)
            try:
                answer.json = json.loads(data)
            except ValueError as error:
                return Answer(NO_ANSWER, f"error decoding json payload {error}", got)
        elif status >= 400 and json_type:
            answer.text = f"{method} {url}: {_status_text(answer.text, data)}"
        return answer

    def _follow(
        self, method: str, url: str, payload: bytes | None, headers: dict[str, str]
    ) -> tuple[int, str, dict[str, str], bytes]:
        for _ in range(10):
            parts = urlsplit(url)
            connection: http.client.HTTPConnection
            if parts.scheme == "https":
                context = ssl.create_default_context(cafile=self._ca_file or None)
                connection = http.client.HTTPSConnection(
                    parts.netloc, timeout=_REQUEST_TIMEOUT_S, context=context
                )
            else:
                connection = http.client.HTTPConnection(parts.netloc, timeout=_REQUEST_TIMEOUT_S)
            with contextlib.closing(connection):
                target = parts.path + (f"?{parts.query}" if parts.query else "")
                connection.request(method, target, payload, headers)
                response = connection.getresponse()
                data = response.read()
            got = {key.lower(): value for key, value in response.getheaders()}
            if got.get("content-encoding") == "gzip":
                data = gzip.decompress(data)
            if response.status not in (301, 302, 303) or "location" not in got:
                return response.status, response.reason, got, data
            # Go's client turns a redirected POST into a GET without a body.
            method, payload, url = "GET", None, urljoin(url, got["location"])
            headers = {key: value for key, value in headers.items() if key != "Content-Type"}
        raise http.client.HTTPException("stopped after 10 redirects")

    def _back_off(self, method: str, status: int, headers: dict[str, str]) -> None:
        with self._lock:
            count = self._failures[method] = self._failures.get(method, 0) + 1 if status >= 400 else 0
        if status == 429 and "ratelimit-resettime" in headers:
            with contextlib.suppress(ValueError):
                reset = parsedate_to_datetime(headers["ratelimit-resettime"]).timestamp()
                log.info(
                    "Sleeping due to rate limit",
                    {"duration": f"{reset - time.time():.3f}s", "method": method},
                )
                time.sleep(min(max(0.0, reset - time.time()), 3600))
        elif count:
            longest = min(_BACKOFF_MIN_S * 2 ** (count - 1), _BACKOFF_MAX_S)
            time.sleep(random.uniform(_BACKOFF_MIN_S, longest))

    # The calls

    def verify(self, token: str, system: str) -> tuple[bool | None, int, str]:
        """POST runners/verify: (valid, id, message); None when GitLab gave no verdict."""
        body = {"token": token, "system_id": system}
        answer = self.call("POST", "runners/verify", body, want=200)
        if (
            answer.status == NO_ANSWER and answer.headers
        ):  # an answer, but no JSON: asked again without Accept
            answer = self.call("POST", "runners/verify", body)
        fields: dict[str, object] = {"runner": short_token(token)}
        alive = "is valid" if token.startswith("glrt-") else "is alive"
        identity = int((answer.json or {}).get("id") or 0)
        if answer.status == 200:
            log.info(f"Verifying runner... {alive}", fields)
            return True, identity, ""
        if answer.status == 403:
            gone = "is not valid" if token.startswith("glrt-") else "is removed"
            log.info(f"Verifying runner... {gone}", fields)
            return False, 0, ""
        log.error("Verifying runner... failed", fields | {"status": answer.text})
        return None, 0, answer.text

    def register(self, token: str, wishes: dict[str, Any]) -> dict[str, Any] | None:
        """POST runners with a legacy registration token."""
        answer = self.call("POST", "runners", wishes | {"info": info(None), "token": token}, want=201)
        fields: dict[str, object] = {"runner": short_token(token)}
        if answer.status == 201:
            log.info("Registering runner... succeeded", fields)
            return dict(answer.json)
        if answer.status == 403:
            log.error("Registering runner... forbidden (check registration token)", fields)
        else:
            log.error("Registering runner... failed", fields | {"status": answer.text})
        return None

    def unregister(self, token: str, system: str) -> bool:
        """DELETE the runner manager (glrt- tokens) or the runner."""
        if token.startswith("glrt-"):
            answer = self.call("DELETE", "runners/managers", {"token": token, "system_id": system})
        else:
            answer = self.call("DELETE", "runners", {"token": token})
        fields: dict[str, object] = {"runner": short_token(token)}
        if answer.status == 204:
            log.info("Unregistering runner from GitLab succeeded", fields)
        elif answer.status == 403:
            log.error("Unregistering runner from GitLab forbidden", fields)
        else:
            log.error("Unregistering runner from GitLab failed", fields | {"status": answer.text})
        return answer.status == 204

    def request_job(self, token: str, system: str, last_update: str) -> tuple[Answer, bool]:
        """POST jobs/request: the answer and whether it counts as healthy (only 403 does not)."""
        body = {"info": info(), "token": token, "system_id": system}
        if last_update:
            body["last_update"] = last_update
        answer = self.call("POST", "jobs/request", body, want=201)
        fields: dict[str, object] = {"runner": short_token(token)}
        if answer.status == 201:
            repository = urlsplit(answer.json.get("git_info", {}).get("repo_url", ""))
            clean = repository._replace(netloc=repository.netloc.rpartition("@")[2]).geturl()
            log.info("Checking for jobs... received", fields | {"job": answer.json["id"], "repo_url": clean})
        elif answer.status == 403:
            log.error("Checking for jobs... forbidden", fields)
        elif answer.status != 204:
            log.warning("Checking for jobs... failed", fields | {"status": answer.text})
        return answer, answer.status != 403


def _status_text(status: str, data: bytes) -> str:
    try:
        message = str(json.loads(data).get("message", ""))
    except (ValueError, AttributeError):
        message = ""
    return status if message.startswith(status) else f"{status} ({message})"


def connection_error(error: Exception, url: str) -> str:
    """The words of Go's net package for a failed connection, as the recordings show them."""
    parts = urlsplit(url)
    address = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    if isinstance(error, ConnectionRefusedError):
        return f"dial tcp {address}: connect: connection refused"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls: failed to verify certificate: x509: certificate signed by unknown authority"
    if isinstance(error, ConnectionResetError):
        return f"read tcp {address}: read: connection reset by peer"
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead):
        return "EOF"
    if isinstance(error, TimeoutError):
        return f"dial tcp {address}: i/o timeout"
    return f"dial tcp {address}: {error}"
