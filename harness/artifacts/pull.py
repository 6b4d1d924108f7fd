"""Where an image is pulled from: the registry's mirrors in order, then the registry itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from harness.artifacts.download import Downloader, architecture
from harness.artifacts.registry_auth import Credentials, endpoint_host
from harness.artifacts.storage import ImageRef, Storage
from harness.errors import EnvironmentProblem
from harness.gitlab.registry_client import Manifest, RegistryClient
from harness.web import WebProblem

Connect = Callable[[str], RegistryClient]
"""URL of a registry → a client of it."""
Found = TypeVar("Found")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Pulled:
    """An image of this machine's architecture on disk, to be copied from.

    ``stored`` is what its reference leads to, ``own`` its manifest: the same, or one of that index's.
    ``files``: its blobs by digest.
    """

    stored: Manifest
    own: Manifest
    files: Mapping[str, Path]

    @property
    def layers(self) -> list[Path]:
        """Files of its layers, lowest first."""
        return [self.files[entry["digest"]] for entry in self.own.content["layers"]]

    def manifest(self, repository: str, reference: str) -> Manifest:
        """Its manifest, whatever it is asked by."""
        return self.own

    def blob(self, repository: str, digest: str) -> Iterator[bytes]:
        """A blob in pieces of 1 MiB."""
        with self.files[digest].open("rb") as file:
            while piece := file.read(_CHUNK_BYTES):
                yield piece


class Registries:
    """Registries by the host in an image's reference.

    ``mirrors``: host → URLs that are asked first. ``credentials``: for those hosts of URLs that have some.
    """

    def __init__(
        self,
        mirrors: Mapping[str, Sequence[str]],
        credentials: Credentials,
        downloads: Downloader,
        connect: Connect | None = None,
    ) -> None:
        self._mirrors = mirrors
        self._credentials = credentials
        self._downloads = downloads
        self._connect = connect or self._client

    def first(self, references: Sequence[str]) -> str:
        """The first of the references that can be had. Raises EnvironmentProblem when none can."""
        reasons = []
        for text in references:
            ref = ImageRef.parse(text)
            try:
                if self._ask(ref, partial(_exists, ref)):
                    return text
                reasons.append(f"{text} is not there")
            except EnvironmentProblem as error:
                reasons.append(error.message)
        raise EnvironmentProblem(
            f"none of these images can be had: {'; '.join(reasons)}",
            "check the network, or name another one in the profile's table [images]",
        )

    def pull(self, ref: ImageRef) -> Pulled:
        """An image as files of the download cache. Raises EnvironmentProblem naming each place asked."""
        return self._ask(ref, partial(self._pull, ref))

    def copy(self, ref: ImageRef, storage: Storage) -> str:
        """Put an image into a storage, an index under its own digest; the digest that ``ref`` leads to."""
        pulled = self.pull(ref)
        for digest, file in pulled.files.items():
            storage.put_blob(file, digest=digest)
        if pulled.own.digest != pulled.stored.digest:
            storage.put_manifest(ref.repository, pulled.own.raw)
        return storage.put_manifest(ref.repository, pulled.stored.raw, ref.tag)

    def _pull(self, ref: ImageRef, client: RegistryClient, path: str) -> Pulled:
        stored = client.stored_manifest(path, ref.digest or ref.tag)
        if ref.digest and stored.digest != ref.digest:
            raise WebProblem(client.url, f"gives another image for {ref}", "try again")
        manifest = client.manifest(path, stored.digest, architecture())
        blobs = {it: client.blob_file(path, it, self._downloads) for it in dict.fromkeys(manifest.blobs)}
        return Pulled(stored, manifest, blobs)

    def _ask(self, ref: ImageRef, question: Callable[[RegistryClient, str], Found]) -> Found:
        """The answer of the first place that gives one."""
        path = ref.repository.partition("/")[2]
        failures: list[EnvironmentProblem] = []
        for url in self.places(ref.repository):
            with closing(self._connect(url)) as client:
                try:
                    return question(client, path)
                except EnvironmentProblem as error:
                    failures.append(error)
        last = failures[-1]
        if len(failures) > 1:
            last.message = f"{ref} can't be had: {'; '.join(it.message for it in failures)}"
        raise last

    def places(self, repository: str) -> Iterator[str]:
        """URLs that serve a repository, in order."""
        host = repository.partition("/")[0]
        yield from self._mirrors.get(host, ())
        yield f"https://{endpoint_host(host)}"

    def _client(self, url: str) -> RegistryClient:
        user, password = self._credentials.get(urlsplit(url).netloc, ("", None))
        return RegistryClient(url, user=user, password=password)


def _exists(ref: ImageRef, client: RegistryClient, path: str) -> bool:
    return client.exists(path, ref.digest or ref.tag)
