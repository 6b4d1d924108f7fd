"""Downloads: resumed after a break, verified, kept by content; proxies of the environment are honoured."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import httpx
import tenacity

from harness.errors import EnvironmentProblem
from harness.ownership import cache_dir
from harness.web import WebProblem, client, is_web_page, problem, refused, web_page

ATTEMPTS = 5
BETWEEN_ATTEMPTS_S = 1.0
CONNECT_TIMEOUT_S = 10.0
STALL_TIMEOUT_S = 30.0
"""No byte for this long: the connection is dead, and the next attempt resumes."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "s390x": "s390x"}

Transferred = Callable[[str, int, int | None], None]
"""(file name, bytes so far, bytes in all if known)"""


def architecture() -> str:
    """This machine's architecture as releases name it: amd64, arm64 …"""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def k3s_file_name() -> str:
    """The name of this machine's k3s among a release's files: amd64 has no suffix, arm is called armhf."""
    suffix = {"amd64": "", "arm": "-armhf"}.get(architecture(), f"-{architecture()}")
    return f"k3s{suffix}"


_ONE_TRANSFER = threading.Lock()
"""Of a process: two at once would share the line, and the partial file where it is the same URL."""


@dataclass
class Downloader:
    """Fetches URLs into a cache that is keyed by content.

    ``objects/<sha256>`` holds files, ``urls/`` what an URL gave last time, ``partial/`` what broke off.

    >>> Downloader(Path("cache")).fetch("https://example.org/k3s", sha256="…")
    PosixPath('cache/objects/…')
    """

    cache: Path | None = None
    transferred: Transferred = lambda name, done, total: None
    between_attempts_s: float = BETWEEN_ATTEMPTS_S
    transport: httpx.BaseTransport | None = None

    def __post_init__(self) -> None:
        root = self.cache or cache_dir() / "downloads"
        self._objects, self._urls, self._partial = (root / part for part in ("objects", "urls", "partial"))

    def fetch(
        self,
        url: str,
        *,
        sha256: str | None = None,
        immutable: bool = True,
        executable: bool = False,
        headers: Mapping[str, str] = {},
    ) -> Path:
        """The file at ``url`` as a local path.

        With ``sha256`` the content must be that. Without, a file that was fetched before is used again when
        the URL is ``immutable`` (a release's); its content is checked against what was noted then.
        ``headers``: to be sent along. Raises WebProblem, and EnvironmentProblem when the disk is full.
        """
        try:
            with _ONE_TRANSFER:
                return self._fetch(url, sha256, immutable, executable, headers)
        except OSError as error:
            raise EnvironmentProblem(
                f"{error.filename or self._objects} can't be written: {error.strerror}",
                "free some space, or set XDG_CACHE_HOME to a directory on a larger disk",
            ) from None

    def _fetch(
        self, url: str, sha256: str | None, immutable: bool, executable: bool, headers: Mapping[str, str]
    ) -> Path:
        known = sha256 or (self._noted(url) if immutable else None)
        if known is not None and self._have(known):
            return self._object(known, executable)
        found = self._download(url, headers)
        if sha256 is not None and found != sha256:
            start = self._start_of(found)
            (self._objects / found).unlink(missing_ok=True)
            if is_web_page(start):
                raise web_page(url)
            raise WebProblem(
                url,
                f"has sha256 {found}, expected is {sha256}",
                "a mirror may be stale, or something on the way changes downloads; try another --artifacts",
            )
        if sha256 is None and is_web_page(self._start_of(found)):
            (self._objects / found).unlink(missing_ok=True)
            raise web_page(url)
        self._note(url, found)
        return self._object(found, executable)

    def _start_of(self, digest: str) -> bytes:
        with (self._objects / digest).open("rb") as file:
            return file.read(64)

    def text(self, url: str, *, immutable: bool = True) -> str:
        """A small text file."""
        try:
            return self.fetch(url, immutable=immutable).read_text()
        except UnicodeDecodeError:
            raise WebProblem(url, "is no text", "is a proxy answering in its place?") from None

    # -- cache ------------------------------------------------------------------------------------

    def _object(self, digest: str, executable: bool) -> Path:
        path = self._objects / digest
        path.chmod(0o755 if executable else 0o644)
        return path

    def _have(self, digest: str) -> bool:
        path = self._objects / digest
        if not path.exists():
            return False
        if _sha256(path) == digest:
            return True
        path.unlink()  # damaged on disk: fetch it again
        return False

    def _noted(self, url: str) -> str | None:
        try:
            return str(json.loads(self._note_path(url).read_text())["sha256"])
        except (OSError, ValueError, KeyError):
            return None

    def _note(self, url: str, digest: str) -> None:
        path = self._note_path(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"url": url, "sha256": digest, "fetched": int(time.time())}))

    def _note_path(self, url: str) -> Path:
        return self._urls / f"{_key(url)}.json"

    # -- transfer ---------------------------------------------------------------------------------

    def _download(self, url: str, headers: Mapping[str, str]) -> str:
        """Fetch with resumption; the sha256 of what came."""
        self._partial.mkdir(parents=True, exist_ok=True)
        self._objects.mkdir(parents=True, exist_ok=True)
        partial = self._partial / f"{_key(url)}.{os.getpid()}"
        self._adopt(url, partial)
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, WebProblem) and error.passing),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=self._pause_s,
            reraise=True,
        )
        try:
            again(self._attempt, url, partial, headers)
        except WebProblem as error:
            if error.passing:
                error.hint += (
                    f"; {ATTEMPTS} attempts were made, what arrived is kept, and the next run resumes"
                )
            raise
        digest = _sha256(partial)
        partial.replace(self._objects / digest)
        self._etag_path(partial).unlink(missing_ok=True)
        return digest

    def _pause_s(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.pause_s if isinstance(error, WebProblem) and self.between_attempts_s else 0.0
        waited: float = self.between_attempts_s * 2 ** (state.attempt_number - 1)
        return max(asked, waited)

    def _adopt(self, url: str, partial: Path) -> None:
        """Go on with what an earlier process left; a rename, so that two processes can't both have it."""
        for left in sorted(self._partial.glob(f"{_key(url)}.*")):
            pid = left.suffix[1:]
            if left != partial and pid.isdigit() and not Path(f"/proc/{pid}").exists():
                etag = self._etag_path(left)
                if etag.exists():
                    etag.replace(self._etag_path(partial))
                    left.replace(partial)
                else:
                    left.unlink()

    @staticmethod
    def _etag_path(partial: Path) -> Path:
        return partial.with_name(f"etag-{partial.name}")

    def _attempt(self, url: str, partial: Path, more_headers: Mapping[str, str]) -> None:
        have = partial.stat().st_size if partial.exists() else 0
        etag_path = self._etag_path(partial)
        headers = {"Accept-Encoding": "identity", **more_headers}
        if have and etag_path.exists():
            headers |= {"Range": f"bytes={have}-", "If-Range": etag_path.read_text()}
        with _explained(url), self._client.stream("GET", url, headers=headers) as answer:
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                partial.unlink()
                raise WebProblem(url, "refused to resume", "try again", passing=True)
            if answer.status_code >= 400:
                answer.read()
                raise refused(url, answer)
            resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
            done = have if resumed else 0
            if tag := answer.headers.get("ETag"):
                etag_path.write_text(tag)
            length = answer.headers.get("Content-Length")
            total = done + int(length) if length else None
            with partial.open("ab" if resumed else "wb") as target:
                # no chunk size: one would hold back, and lose, what came before a break
                for chunk in answer.iter_raw():
                    target.write(chunk)
                    done += len(chunk)
                    self.transferred(_name_of(url), done, total)
        if total is not None and done != total:
            raise WebProblem(url, f"{done} of {total} bytes came", "check the network", passing=True)

    @cached_property
    def _client(self) -> httpx.Client:
        timeout = httpx.Timeout(STALL_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        return client(timeout=timeout, transport=self.transport)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise problem(url, error) from None


def _name_of(url: str) -> str:
    """What progress is told of: a file's name, or a layer's short digest."""
    name = url.rpartition("/")[2]
    return name[:19] if name.startswith("sha256:") else name


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
