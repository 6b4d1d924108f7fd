"""A container registry's v2 API with token authentication: read an image, write an image, copy one.

Enough to put a base image into a project's registry before a job needs it, and to look at what a job pushed.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urljoin

import httpx
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from harness.artifacts.storage import ImageRef, Storage
from harness.errors import EnvironmentProblem, HarnessError, UsageError
from harness.redact import Secret, redact, register

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
        """The manifest by tag or digest. Raises StorageError where the bundle hasn't got it."""
        joint = "@" if reference.startswith("sha256:") else ":"
        raw = self._storage.manifest(ImageRef.parse(f"{repository}{joint}{reference}"))
        return Manifest(raw, json.loads(raw).get("mediaType") or MANIFEST_TYPES[0])

    def blob(self, repository: str, digest: str) -> Iterator[bytes]:
        """A blob in pieces of 1 MiB."""
        with self._storage.blob_path(digest).open("rb") as file:
            while piece := file.read(_CHUNK_BYTES):
                yield piece


class RegistryClient:
    """A registry by URL, with or without credentials.

    >>> client = RegistryClient("https://10.99.1.2", user="root", password=token, ca_file=Path("ca.crt"))
    >>> client.tags("root/demo")
    ['v1.0.0']
    """

    def __init__(
        self, url: str, *, user: str = "", password: Secret | None = None, ca_file: Path | None = None
    ) -> None:
        trust: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(ca_file)) if ca_file else True
        self._url = url.rstrip("/")
        self._credentials = (user, password) if password is not None else None
        self._http = httpx.Client(verify=trust, timeout=_TIMEOUT_S, follow_redirects=True)
        self._tokens: dict[str, Secret] = {}

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
        return sorted(answer.json().get("tags") or []) if answer.status_code == 200 else []

    def manifest(self, repository: str, reference: str, architecture: str = "amd64") -> Manifest:
        """The manifest by tag or digest; of an index the one for Linux on ``architecture``."""
        found = self.stored_manifest(repository, reference)
        if found.media_type not in INDEX_TYPES:
            return found
        for entry in found.content["manifests"]:
            platform = entry.get("platform", {})
            if platform.get("os") == "linux" and platform.get("architecture") == architecture:
                return self.manifest(repository, entry["digest"], architecture)
        raise EnvironmentProblem(
            f"{repository}:{reference} has no image for linux/{architecture}", "use an image that has one"
        )

    def stored_manifest(self, repository: str, reference: str) -> Manifest:
        """What the registry has under a tag or digest: a manifest, or an index of several platforms."""
        accept = {"Accept": ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))}
        answer = self._call("GET", repository, f"manifests/{reference}", headers=accept)
        return Manifest(answer.content, answer.headers.get("content-type", "").split(";")[0])

    def blob(self, repository: str, digest: str) -> Iterator[bytes]:
        """A blob in pieces; its digest is checked at the end."""
        seen = hashlib.sha256()
        self._call("HEAD", repository, f"blobs/{digest}")  # gets the token for the stream
        address, headers = self._request_parts(repository, f"blobs/{digest}", "pull")
        with self._http.stream("GET", address, headers=headers) as answer:
            if answer.status_code != 200:
                answer.read()
                raise self._refusal("GET", repository, answer)
            for piece in answer.iter_bytes(_CHUNK_BYTES):
                seen.update(piece)
                yield piece
        if f"sha256:{seen.hexdigest()}" != digest:
            raise EnvironmentProblem(
                f"{repository}@{digest}: the content does not match its digest", "try again"
            )

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
        """One request, with a token fetched when asked for and retries for 429, 5xx and lost connections."""
        for attempt in Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential(0.5, max=20),
            retry=retry_if_exception(_transient),
            reraise=True,
        ):
            with attempt:
                answer = self._once(method, repository, path, actions, headers, content)
                if answer.status_code in (429, 500, 502, 503, 504):
                    raise _Again(answer)
        if answer.status_code not in expect:
            raise self._refusal(method, repository, answer)
        return answer

    def _once(
        self,
        method: str,
        repository: str,
        path: str,
        actions: str,
        headers: Mapping[str, str],
        content: bytes | None,
    ) -> httpx.Response:
        for again in (False, True):
            address, auth = self._request_parts(repository, path, actions)
            try:
                answer = self._http.request(method, address, headers={**headers, **auth}, content=content)
            except httpx.ConnectError as error:
                raise EnvironmentProblem(
                    f"the registry {self._url} can't be reached",
                    "is it up, and is its CA given?",
                    evidence=str(error),
                ) from None
            if answer.status_code != 401 or again:
                return answer
            self._fetch_token(answer.headers.get("www-authenticate", ""), repository, actions)
        raise AssertionError("unreachable")

    def _request_parts(self, repository: str, path: str, actions: str) -> tuple[str, dict[str, str]]:
        address = path if path.startswith("http") else f"{self._url}/v2/{repository}/{path}"
        token = self._tokens.get(f"{repository}:{actions}")
        return address, {"Authorization": f"Bearer {token.reveal()}"} if token else {}

    def _fetch_token(self, challenge: str, repository: str, actions: str) -> None:
        asked = dict(_CHALLENGE.findall(challenge))
        if not challenge.lower().startswith("bearer") or "realm" not in asked:
            raise EnvironmentProblem(
                f"{self._url} does not ask for a token as a registry does", evidence=challenge
            )
        query = {"service": asked.get("service", ""), "scope": f"repository:{repository}:{actions}"}
        basic = (self._credentials[0], self._credentials[1].reveal()) if self._credentials else None
        answer = self._http.get(asked["realm"], params=query, auth=basic)
        if answer.status_code != 200:
            raise UsageError(
                f"{asked['realm']} gives no token for {repository} ({answer.status_code})",
                "check the user's rights in the project and the token's scopes",
                evidence=redact(answer.text[:500]),
            )
        given = answer.json()
        self._tokens[f"{repository}:{actions}"] = register(given.get("token") or given["access_token"])

    def _refusal(self, method: str, repository: str, answer: httpx.Response) -> HarnessError:
        text = redact(answer.text[:500])
        if answer.status_code in (401, 403):
            return UsageError(
                f"registry {self._url}: {method} {repository} is denied ({answer.status_code})",
                "the user or job may not do this in that project",
                evidence=text,
            )
        return EnvironmentProblem(
            f"registry {self._url}: {method} {repository} is answered {answer.status_code}",
            "see the registry's answer",
            evidence=text,
        )


class _Again(Exception):
    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(f"{answer.status_code} from {answer.request.url.host}")


def _transient(error: BaseException) -> bool:
    return isinstance(error, _Again | httpx.TransportError) and not isinstance(error, httpx.ConnectError)


def copy_image(
    source: ImageSource, repository: str, reference: str, target: RegistryClient, to: str, tag: str
) -> str:
    """Copy one image (of one platform) to ``to:tag``; the manifest's digest. Blobs there already stay."""
    manifest = source.manifest(repository, reference)
    for digest in dict.fromkeys(manifest.blobs):
        if not target.has_blob(to, digest):
            target.put_blob(to, digest, source.blob(repository, digest))
    return target.put_manifest(to, tag, manifest)
