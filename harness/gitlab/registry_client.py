"""A container registry's v2 API with token authentication: read an image, write an image, copy one.

Enough to put a base image into a project's registry before a job needs it, and to look at what a job pushed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urljoin

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from harness import web
from harness.artifacts.storage import ImageRef, Storage
from harness.errors import EnvironmentProblem
from harness.redact import Secret, register
from harness.web import WebProblem

if TYPE_CHECKING:
    from harness.artifacts.download import Downloader

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_TIMEOUT_S = 60.0
_ATTEMPTS = 5
_BETWEEN_ATTEMPTS_S = 0.5
"""Doubled each time: 7.5 s in all, longer where an answer asks for it."""
_ANY: tuple[int, ...] = ()
"""Any final answer will do."""
_CHUNK_BYTES = 1024 * 1024
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Manifest:
    """A manifest as it is stored: its bytes decide its digest."""

    raw: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """``sha256:…`` of the bytes."""
        return "sha256:" + hashlib.sha256(self.raw).hexdigest()

    @property
    def content(self) -> dict[str, Any]:
        """The manifest, parsed."""
        parsed: dict[str, Any] = json.loads(self.raw)
        return parsed

    @property
    def blobs(self) -> list[str]:
        """Digests of configuration and layers."""
        content = self.content
        return [entry["digest"] for entry in [content["config"], *content["layers"]]]

    def of_platform(self, name: str, architecture: str) -> str:
        """Of an index the digest of the manifest for Linux on ``architecture``; of a manifest its own.

        ``name`` is what it was asked for by. Raises EnvironmentProblem where the index has none.
        """
        if self.media_type not in INDEX_TYPES:
            return self.digest
        for entry in self.content["manifests"]:
            platform = entry.get("platform", {})
            if platform.get("os") == "linux" and platform.get("architecture") == architecture:
                return str(entry["digest"])
        raise EnvironmentProblem(f"{name} has no image for linux/{architecture}", "use an image that has one")


class ImageSource(Protocol):
    """Where an image is copied from."""

    def manifest(self, repository: str, reference: str) -> Manifest:
        """The manifest of one platform by tag or digest."""

    def blob(self, repository: str, digest: str) -> Iterator[bytes]:
        """A blob in pieces."""


class StorageSource:
    """Images of a bundle, read from its files."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def manifest(self, repository: str, reference: str) -> Manifest:
        """The manifest by tag or digest; of an index the one for this machine. Raises StorageError."""
        from harness.artifacts.download import architecture

        found = self._stored(repository, reference)
        own = found.of_platform(f"{repository}:{reference}", architecture())
        return found if own == found.digest else self._stored(repository, own)

    def _stored(self, repository: str, reference: str) -> Manifest:
        joint = "@" if reference.startswith("sha256:") else ":"
        raw = self._storage.manifest(ImageRef.parse(f"{repository}{joint}{reference}"))
        document = json.loads(raw)
        default = INDEX_TYPES if "manifests" in document else MANIFEST_TYPES
        return Manifest(raw, document.get("mediaType") or default[0])

    def blob(self, repository: str, digest: str) -> Iterator[bytes]:
        """A blob in pieces of 1 MiB."""
        with self._storage.blob_path(digest).open("rb") as file:
            while piece := file.read(_CHUNK_BYTES):
                yield piece


class RegistryClient:
    """A registry by URL, with or without credentials. What fails is a WebProblem with the URL in it.

    >>> client = RegistryClient("https://10.99.1.2", user="root", password=token, ca_file=Path("ca.crt"))
    >>> client.tags("root/demo")
    ['v1.0.0']
    """

    def __init__(
        self,
        url: str,
        *,
        user: str = "",
        password: Secret | None = None,
        ca_file: Path | None = None,
        between_attempts_s: float = _BETWEEN_ATTEMPTS_S,
    ) -> None:
        self._url = url.rstrip("/")
        self._credentials = (user, password) if password is not None else None
        self._http = web.client(url, ca_file=ca_file, timeout=_TIMEOUT_S)
        self._tokens: dict[str, Secret] = {}
        self._between_attempts_s = between_attempts_s

    @property
    def url(self) -> str:
        """Its address."""
        return self._url

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tags(self, repository: str) -> list[str]:
        """Tags of a repository, sorted; none where nobody has pushed to it yet."""
        answer = self._call("GET", repository, "tags/list", expect=(200, 404))
        if answer.status_code == 404:
            return []
        return sorted(_json(str(answer.url), answer).get("tags") or [])

    def manifest(self, repository: str, reference: str, architecture: str = "amd64") -> Manifest:
        """The manifest by tag or digest; of an index the one for Linux on ``architecture``."""
        found = self.stored_manifest(repository, reference)
        own = found.of_platform(f"{repository}:{reference}", architecture)
        return found if own == found.digest else self.manifest(repository, own, architecture)

    def stored_manifest(self, repository: str, reference: str) -> Manifest:
        """What the registry has under a tag or digest: a manifest, or an index of several platforms."""
        accept = {"Accept": ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))}
        answer = self._call("GET", repository, f"manifests/{reference}", headers=accept)
        _json(str(answer.url), answer)
        return Manifest(answer.content, answer.headers.get("content-type", "").split(";")[0])

    def blob(self, repository: str, digest: str) -> Iterator[bytes]:
        """A blob in pieces; its digest is checked at the end, and a transfer that breaks off is resumed."""
        seen, have = hashlib.sha256(), 0
        for attempt in self._attempts():
            with attempt, self._stream(repository, f"blobs/{digest}", have) as answer:
                if have and answer.status_code != 206:
                    raise WebProblem(str(answer.url), "can't resume a transfer", "try again")
                for piece in answer.iter_bytes(_CHUNK_BYTES):
                    seen.update(piece)
                    have += len(piece)
                    yield piece
        if f"sha256:{seen.hexdigest()}" != digest:
            raise WebProblem(
                f"{self._url}/v2/{repository}/blobs/{digest}", "does not match its digest", "try again"
            )

    def blob_file(self, repository: str, digest: str, downloads: Downloader) -> Path:
        """A blob as a file of the download cache, where what was fetched before is used again."""
        address = f"{self._url}/v2/{repository}/blobs/{digest}"
        sha256 = digest.removeprefix("sha256:")
        for again in (False, True):
            try:
                return downloads.fetch(
                    address, sha256=sha256, headers=self._authorization(repository, "pull")
                )
            except WebProblem as error:
                if error.status != 401 or again:
                    raise
            self._call("HEAD", repository, f"blobs/{digest}", expect=(200, 403, 404, 405))  # for its token
        raise AssertionError("unreachable")

    def exists(self, repository: str, reference: str) -> bool:
        """Whether a tag or digest is there. HEAD first: it does not count against Docker Hub's limit."""
        accept = {"Accept": ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))}
        path = f"manifests/{reference}"
        if self._call("HEAD", repository, path, expect=_ANY, headers=accept).status_code == 200:
            return True
        try:
            self.stored_manifest(repository, reference)
        except WebProblem as error:
            if error.passing:
                raise
            return False
        return True

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the repository has a blob."""
        return (
            self._call("HEAD", repository, f"blobs/{digest}", "pull,push", expect=(200, 404)).status_code
            == 200
        )

    def put_blob(self, repository: str, digest: str, content: Iterator[bytes]) -> None:
        """Upload a blob in pieces of 1 MiB; the registry checks the digest."""
        begin = self._call("POST", repository, "blobs/uploads/", "pull,push", expect=(202,))
        location = urljoin(self._url + "/", begin.headers["location"])
        offset = 0
        for piece in content:
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{offset}-{offset + len(piece) - 1}",
            }
            answer = self._call("PATCH", repository, location, "pull,push", (202,), headers, piece)
            location = urljoin(self._url + "/", answer.headers["location"])
            offset += len(piece)
        joint = "&" if "?" in location else "?"
        self._call("PUT", repository, f"{location}{joint}digest={digest}", "pull,push", (201,))

    def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> str:
        """Store a manifest under a tag; its digest."""
        headers = {"Content-Type": manifest.media_type}
        self._call("PUT", repository, f"manifests/{reference}", "pull,push", (201,), headers, manifest.raw)
        return manifest.digest

    # -- requests ---------------------------------------------------------------------------------

    def _attempts(self) -> Retrying:
        """Tries again what may pass, a little later each time; what lasts is raised as it is."""

        def pause_s(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.pause_s if isinstance(error, WebProblem) else 0.0
            waited: float = self._between_attempts_s * 2 ** (state.attempt_number - 1)
            return max(asked, waited)

        return Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=pause_s,
            retry=retry_if_exception(lambda error: isinstance(error, WebProblem) and error.passing),
            reraise=True,
        )

    def _call(
        self,
        method: str,
        repository: str,
        path: str,
        actions: str = "pull",
        expect: tuple[int, ...] = (200,),
        headers: Mapping[str, str] = {},
        content: bytes | None = None,
    ) -> httpx.Response:
        """One request, with a token fetched when asked for, again where that may help."""
        address = path if path.startswith("http") else f"{self._url}/v2/{repository}/{path}"
        for attempt in self._attempts():
            with attempt:
                answer = self._once(method, address, repository, actions, headers, content)
                if answer.status_code in web.TRANSIENT or (
                    answer.status_code not in expect and expect is not _ANY
                ):
                    raise web.refused(address, answer)
        return answer

    def _once(
        self,
        method: str,
        address: str,
        repository: str,
        actions: str,
        headers: Mapping[str, str],
        content: bytes | None,
    ) -> httpx.Response:
        for again in (False, True):
            auth = self._authorization(repository, actions)
            with _explained(address):
                answer = self._http.request(method, address, headers={**headers, **auth}, content=content)
            if answer.status_code != 401 or again:
                return answer
            self._fetch_token(answer.headers.get("www-authenticate", ""), repository, actions)
        raise AssertionError("unreachable")

    @contextmanager
    def _stream(self, repository: str, path: str, offset: int) -> Iterator[httpx.Response]:
        address = f"{self._url}/v2/{repository}/{path}"
        part = {"Range": f"bytes={offset}-"} if offset else {}
        for again in (False, True):
            headers = {"Accept-Encoding": "identity", **part, **self._authorization(repository, "pull")}
            with _explained(address), self._http.stream("GET", address, headers=headers) as answer:
                if answer.status_code in (200, 206):
                    yield answer
                    return
                answer.read()
            if answer.status_code != 401 or again:
                raise web.refused(address, answer)
            self._fetch_token(answer.headers.get("www-authenticate", ""), repository, "pull")

    def _authorization(self, repository: str, actions: str) -> dict[str, str]:
        token = self._tokens.get(f"{repository}:{actions}")
        return {"Authorization": token.reveal()} if token else {}

    def _fetch_token(self, challenge: str, repository: str, actions: str) -> None:
        kind = challenge.partition(" ")[0].lower()
        asked = dict(_CHALLENGE.findall(challenge))
        key = f"{repository}:{actions}"
        if kind == "basic" and self._credentials:
            pair = f"{self._credentials[0]}:{self._credentials[1].reveal()}".encode()
            self._tokens[key] = register(f"Basic {base64.b64encode(pair).decode()}")
            return
        if kind != "bearer" or "realm" not in asked:
            raise WebProblem(
                self._url,
                "does not ask for a token as a registry does",
                "is it a registry's address? Where it wants a login, give --registry-auth FILE",
                evidence=challenge,
            )
        query = {"service": asked.get("service", ""), "scope": f"repository:{repository}:{actions}"}
        basic = (self._credentials[0], self._credentials[1].reveal()) if self._credentials else None
        with _explained(asked["realm"]):
            answer = self._http.get(asked["realm"], params=query, auth=basic)
        if answer.status_code != 200:
            raise web.refused(f"{asked['realm']} (a token for {repository})", answer)
        given = _json(asked["realm"], answer)
        token = str(given.get("token") or given.get("access_token") or "")
        if not token:
            raise WebProblem(asked["realm"], "gives no token", "is a proxy answering in its place?")
        register(token)
        self._tokens[key] = register(f"Bearer {token}")


@contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise web.problem(address, error) from None


def _json(address: str, answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise (
            web.web_page(address)
            if web.is_web_page(answer.content)
            else WebProblem(
                address, "does not answer as a registry does", "is a proxy answering in its place?"
            )
        )
    return found


def copy_image(
    source: ImageSource, repository: str, reference: str, target: RegistryClient, to: str, tag: str
) -> str:
    """Copy one image (of one platform) to ``to:tag``; the manifest's digest. Blobs there already stay."""
    manifest = source.manifest(repository, reference)
    for digest in dict.fromkeys(manifest.blobs):
        if not target.has_blob(to, digest):
            target.put_blob(to, digest, source.blob(repository, digest))
    return target.put_manifest(to, tag, manifest)
