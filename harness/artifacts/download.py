"""Downloads: resumed after a break, verified, kept by content; proxies of the environment are honoured."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import httpx
import tenacity

from harness.errors import EnvironmentProblem
from harness.ownership import cache_dir

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


class DownloadError(EnvironmentProblem):
    """A file can't be had, or isn't what it should be."""


class _Broken(Exception):
    """The transfer broke off and may be resumed."""


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
        self, url: str, *, sha256: str | None = None, immutable: bool = True, executable: bool = False
    ) -> Path:
        """The file at ``url`` as a local path.

        With ``sha256`` the content must be that. Without, a file that was fetched before is used again when
        the URL is ``immutable`` (a release's); its content is checked against what was noted then.
        Raises DownloadError.
        """
        known = sha256 or (self._noted(url) if immutable else None)
        if known is not None and self._have(known):
            return self._object(known, executable)
        found = self._download(url)
        if sha256 is not None and found != sha256:
            (self._objects / found).unlink(missing_ok=True)
            raise DownloadError(
                f"{url} has sha256 {found}, expected is {sha256}",
                "a mirror may be stale, or something on the way changes downloads; try another --artifacts",
            )
        self._note(url, found)
        return self._object(found, executable)

    def text(self, url: str, *, immutable: bool = True) -> str:
        """A small text file."""
        try:
            return self.fetch(url, immutable=immutable).read_text()
        except UnicodeDecodeError:
            raise DownloadError(f"{url} is no text", "is a proxy answering in its place?") from None

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

    def _download(self, url: str) -> str:
        """Fetch with resumption; the sha256 of what came."""
        self._partial.mkdir(parents=True, exist_ok=True)
        self._objects.mkdir(parents=True, exist_ok=True)
        partial = self._partial / f"{_key(url)}.{os.getpid()}"
        self._adopt(url, partial)
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Broken),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_fixed(self.between_attempts_s),
            reraise=True,
        )
        try:
            again(self._attempt, url, partial)
        except _Broken as error:
            raise DownloadError(
                f"{url} can't be fetched: {error} ({ATTEMPTS} attempts)",
                "check the network and the proxy variables; what arrived is kept, and the next run resumes",
            ) from None
        digest = _sha256(partial)
        partial.replace(self._objects / digest)
        self._etag_path(partial).unlink(missing_ok=True)
        return digest

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

    def _attempt(self, url: str, partial: Path) -> None:
        have = partial.stat().st_size if partial.exists() else 0
        etag_path = self._etag_path(partial)
        headers = {"Accept-Encoding": "identity"}
        if have and etag_path.exists():
            headers |= {"Range": f"bytes={have}-", "If-Range": etag_path.read_text()}
        with _breaks(), self._client.stream("GET", url, headers=headers) as answer:
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                partial.unlink()
                raise _Broken("the server refused to resume")
            _check_status(url, answer)
            resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
            done = have if resumed else 0
            if tag := answer.headers.get("ETag"):
                etag_path.write_text(tag)
            length = answer.headers.get("Content-Length")
            total = done + int(length) if length else None
            with partial.open("ab" if resumed else "wb") as target:
                for (
                    chunk
                ) in answer.iter_raw():  # a chunk size would hold back, and lose, what came before a break
                    target.write(chunk)
                    done += len(chunk)
                    self.transferred(url.rpartition("/")[2], done, total)
        if total is not None and done != total:
            raise _Broken(f"{done} of {total} bytes came")

    @cached_property
    def _client(self) -> httpx.Client:
        timeout = httpx.Timeout(STALL_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        return httpx.Client(timeout=timeout, follow_redirects=True, transport=self.transport)


@contextmanager
def _breaks() -> Iterator[None]:
    try:
        yield
    except httpx.TooManyRedirects as error:
        raise DownloadError(f"{error.request.url} redirects in a circle", "try another --artifacts") from None
    except (httpx.TransportError, OSError) as error:
        raise _Broken(str(error) or type(error).__name__) from None


def _check_status(url: str, answer: httpx.Response) -> None:
    code = answer.status_code
    if code < 400:
        return
    if code >= 500 or code == httpx.codes.TOO_MANY_REQUESTS:
        raise _Broken(f"HTTP {code}")
    hint = (
        "is the version spelt as the release is?"
        if code == 404
        else "does the network need a login or proxy?"
    )
    raise DownloadError(f"{url}: HTTP {code}", hint)


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
