"""A job's log: masking, the size limit, and sending it in pieces as gitlab-runner does."""

import re
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from . import RELEASE, log
from .network import NO_ANSWER, Answer, GitLab, info
from .stamps import EXECUTOR, Stamps

_DEFAULT_INTERVAL_S = 3  # the server may ask for another one (X-GitLab-Trace-Update-Interval)
_MAX_INTERVAL_S = 900
_TOUCH_AFTER_S = 30  # a silent job says that it still runs, and so learns of a cancellation
_PATCH_LIMIT = 1024 * 1024  # bytes
_DEFAULT_LIMIT = 4096 * 1024  # bytes
_ALWAYS_KNOWN = {"script_failure", "runner_system_failure", "job_execution_timeout"}
_TOKEN_CHARACTERS = rb"[\w.=-]*"


class Trace:
    """Collects the log and sends it every interval, until `finish`."""

    def __init__(
        self, client: GitLab, job: dict[str, Any], runner: dict[str, Any], abort: Callable[[], None]
    ) -> None:
        self._client, self._job, self._abort = client, job, abort
        self._token, self._id = job.get("token", ""), job["id"]
        self._fields: dict[str, object] = {"job": self._id, "runner": runner["_short"]}
        self._limit = int(runner.get("output_limit") or 0) * 1024 or _DEFAULT_LIMIT
        self._buffer = bytearray()
        self._full = False
        self._sent, self._sent_at = 0, 0.0
        self._interval = _DEFAULT_INTERVAL_S
        self._masks: list[bytes] = []
        self._prefixes: re.Pattern[bytes] | None = None
        self._lock = threading.Lock()
        self._finished = threading.Event()
        given = {v["key"]: v.get("value", "") for v in job.get("variables") or []}
        debug = given.get("CI_DEBUG_TRACE", "") == "true"
        stamping = given.get("FF_TIMESTAMPS", str(RELEASE.stamps)).lower() in ("true", "1")
        self._stamps = Stamps() if stamping and RELEASE.at_least(16, 11) else None
        self._path = f"jobs/{self._id}/trace?debug_trace={str(debug).lower()}"
        self._thread = threading.Thread(target=self._watch, name=f"trace-{self._id}", daemon=True)

    def start(self) -> None:
        """Begin sending."""
        self._thread.start()

    def mask(self, values: Iterable[str], prefixes: Iterable[str]) -> None:
        """Hide these values, and whatever token follows one of the prefixes."""
        self._masks = sorted({v.encode() for v in values if v}, key=len, reverse=True)
        marks = [re.escape(prefix.encode()) for prefix in prefixes]
        self._prefixes = re.compile(rb"(" + rb"|".join(marks) + rb")" + _TOKEN_CHARACTERS) if marks else None

    def write(self, text: str | bytes, stream: int = EXECUTOR) -> None:
        """Append what is said on a stream, masked."""
        data = text.encode() if isinstance(text, str) else text
        for value in self._masks:
            data = data.replace(value, b"[MASKED]")
        if self._prefixes:
            data = self._prefixes.sub(rb"\1[MASKED]", data)
        with self._lock:
            if self._stamps:
                data = self._stamps.stamped(data, stream)
            if self._full:
                return
            room = self._limit - len(self._buffer)
            self._buffer += data[:room]
            if len(data) > room:
                self._full = True
                self._buffer += (
                    f"\n\x1b[33;1mJob's log exceeded limit of {self._limit} bytes.\n"
                    "Job execution will continue but no more output will be collected.\x1b[0;m\n"
                ).encode()

    def finish(self, state: str, reason: str = "", exit_code: int = 0) -> None:
        """Send the rest and the final state; goes on until GitLab accepts or refuses them for good."""
        self._finished.set()
        self._thread.join()
        known = _ALWAYS_KNOWN | set((self._job.get("features") or {}).get("failure_reasons") or [])
        reason = reason if not reason or reason in known else "unknown_failure"
        self._interval = _DEFAULT_INTERVAL_S
        while True:
            self._send_all()
            answer = self._update(state, reason, exit_code)
            if answer.status == 412:
                self._sent = 0
            elif answer.status in (200, 403, 404):
                return
            time.sleep(self._interval)

    def _watch(self) -> None:
        while not self._finished.wait(self._interval):
            answer = self._patch()
            if answer is not None and (answer.aborts or answer.job_status == "canceling"):
                break
            accepted = answer is None or answer.status == 202
            if accepted and self._sent_at and time.monotonic() - self._sent_at > _TOUCH_AFTER_S:
                touched = self._update("running", "", 0)
                if touched.aborts or touched.job_status == "canceling":
                    break
                if touched.status == 200:
                    self._sent_at = time.monotonic()
        else:
            return
        self._abort()

    def _send_all(self) -> None:
        while self._sent != len(self._buffer):
            answer = self._patch()
            if answer is None or answer.status == 404 or answer.aborts:
                return
            if answer.status != 202:
                time.sleep(self._interval)

    def _patch(self) -> Answer | None:
        with self._lock:
            start = self._sent
            content = bytes(self._buffer[start : start + _PATCH_LIMIT])
        if not content:
            return None
        span = f"{start}-{start + len(content) - 1}"
        headers = {"Content-Type": "text/plain", "Content-Range": span, "Job-Token": self._token}
        answer = self._client.call("PATCH", self._path, content, headers=headers)
        self._note_interval(answer)
        self._log_patch(answer, span)
        if answer.status == 202 and not answer.aborts:
            self._sent, self._sent_at = start + len(content), time.monotonic()
        elif answer.status == 416:
            end = answer.headers.get("range", "0-0").rpartition("-")[2]
            self._sent = int(end) if end.isdigit() else 0
            self._sent_at = time.monotonic()
        return answer

    def _update(self, state: str, reason: str, exit_code: int) -> Answer:
        with self._lock:
            size, checksum = len(self._buffer), f"crc32:{zlib.crc32(self._buffer):08x}"
        body = {"info": info(), "token": self._token, "state": state}
        body |= {"failure_reason": reason} if reason else {}
        body |= {"checksum": checksum, "output": {"checksum": checksum, "bytesize": size}}
        body |= {"exit_code": exit_code} if exit_code else {}
        fields = self._fields | {"bytesize": size, "checksum": checksum}
        log.info("Updating job...", fields)
        answer = self._client.call("PUT", f"jobs/{self._id}", body)
        self._note_interval(answer)
        if answer.status == NO_ANSWER:
            log.error(f"Submitting job to coordinator... error {answer.text}", fields)
            return answer
        fields |= {
            "code": answer.status,
            "job-status": answer.job_status,
            "update-interval": f"{answer.interval_s}s",
        }
        words = {
            200: "ok",
            202: "accepted, but not yet completed",
            404: " not-found",
            412: " trace validation failed",
        }
        word = " job failed" if answer.aborts else words.get(answer.status, " failed")
        level = "INFO" if word in (words[200], words[202]) else "WARNING"
        log.log(level, f"Submitting job to coordinator...{word}", fields)
        return answer

    def _note_interval(self, answer: Answer) -> None:
        if answer.interval_s > 0:
            self._interval = min(answer.interval_s, _MAX_INTERVAL_S)

    def _log_patch(self, answer: Answer, span: str) -> None:
        if answer.status == NO_ANSWER:
            log.error(
                f"Appending trace to coordinator... error {answer.text}", {"runner": self._fields["runner"]}
            )
            return
        fields = self._fields | {
            "code": answer.status,
            "job-log": answer.headers.get("range", ""),
            "job-status": answer.job_status,
            "sent-log": span,
            "status": answer.text,
            "update-interval": f"{answer.interval_s}s",
        }
        if answer.status == 202 and not answer.aborts:
            log.info("Appending trace to coordinator...ok", fields)
            return
        words = {404: " not-found", 416: " range mismatch"}
        word = " job failed" if answer.aborts else words.get(answer.status, " failed")
        log.warning("Appending trace to coordinator..." + word, fields)
