"""The on-disk layout of a container registry (distribution's filesystem driver), in plain Python.

A bundle keeps its images in this layout, so that the unmodified registry program serves them and nothing
has to be imported first. Source of the layout: distribution's `registry/storage/paths.go`:

    docker/registry/v2/blobs/sha256/<first two hex>/<hex>/data
    docker/registry/v2/repositories/<name>/_layers/sha256/<hex>/link
    docker/registry/v2/repositories/<name>/_manifests/revisions/sha256/<hex>/link
    docker/registry/v2/repositories/<name>/_manifests/tags/<tag>/{current,index/sha256/<hex>}/link
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_DEPTH = 3
"""An index of images; one within another is rare, and more is none."""


class StorageError(Exception):
    """An image is not, or not completely, in the storage; the message names the file."""


@dataclass(frozen=True)
class ImageRef:
    """`host/path:tag` or `host/path@sha256:…` in its full form (no default host, no default tag).

    >>> ImageRef.parse("docker.io/library/alpine:latest").repository
    'docker.io/library/alpine'
    """

    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> ImageRef:
        """Take a reference apart. Raises ValueError for one without host, or with neither tag nor digest."""
        name, _, digest = text.partition("@")
        head, slash, last = name.rpartition("/")
        last, _, tag = last.partition(":")
        if not slash or not (tag or digest) or not last:
            raise ValueError(f"{text!r} is no full image reference (host/path:tag or host/path@sha256:…)")
        return cls(f"{head}/{last}", tag, digest)

    def __str__(self) -> str:
        return (
            self.repository
            + (f":{self.tag}" if self.tag else "")
            + (f"@{self.digest}" if self.digest else "")
        )


@dataclass(frozen=True)
class Descriptor:
    """A blob's address: `sha256:…` and its size in bytes."""

    digest: str
    size: int
    media_type: str = ""

    def as_json(self) -> dict[str, object]:
        """The form that manifests hold."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Storage:
    """A registry's storage below `root` (the directory that the registry calls `rootdirectory`)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._base = root / "docker" / "registry" / "v2"

    # --- writing -------------------------------------------------------------------------------------------

    def put_blob(self, source: Path | bytes, media_type: str = "", digest: str = "") -> Descriptor:
        """Store a file's content or bytes; `digest` spares hashing when it is known. Idempotent."""
        if isinstance(source, bytes):
            digest = "sha256:" + hashlib.sha256(source).hexdigest()
            size = len(source)
        else:
            digest = digest or "sha256:" + sha256_file(source)
            size = source.stat().st_size
        target = self.blob_path(digest)
        if not (target.exists() and target.stat().st_size == size):
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                target.write_bytes(source)
            else:
                shutil.copyfile(source, target)
        return Descriptor(digest, size, media_type)

    def put_manifest(self, repository: str, content: bytes, tag: str = "") -> str:
        """Store a manifest whose blobs are there, link them to the repository, set the tag; its digest."""
        manifest = json.loads(content)
        for blob in _blobs_of(manifest):
            self._link(self._repository(repository) / "_layers", blob.digest)
        digest = self.put_blob(content).digest
        manifests = self._repository(repository) / "_manifests"
        self._link(manifests / "revisions", digest)
        if tag:
            tag_dir = manifests / "tags" / tag
            self._link(tag_dir / "index", digest)
            (tag_dir / "current").mkdir(parents=True, exist_ok=True)
            (tag_dir / "current" / "link").write_text(digest)
        return digest

    def remove_repository(self, repository: str) -> None:
        """Take a repository's links away (blobs stay: others may share them)."""
        shutil.rmtree(self._repository(repository), ignore_errors=True)

    # --- reading -------------------------------------------------------------------------------------------

    def blob_path(self, digest: str) -> Path:
        """Where a blob's content lies, there or not."""
        algorithm, _, value = digest.partition(":")
        return self._base / "blobs" / algorithm / value[:2] / value / "data"

    def repositories(self) -> Iterator[str]:
        """Names of all repositories, sorted."""
        base = self._base / "repositories"
        for found in sorted(base.rglob("_manifests")):
            yield str(found.parent.relative_to(base))

    def tags(self, repository: str) -> list[str]:
        """Tags of a repository, sorted; none for an unknown one."""
        folder = self._repository(repository) / "_manifests" / "tags"
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []

    def digest(self, ref: ImageRef) -> str:
        """The manifest digest that a reference leads to. Raises StorageError."""
        manifests = self._repository(ref.repository) / "_manifests"
        if ref.digest:
            algorithm, _, value = ref.digest.partition(":")
            link = manifests / "revisions" / algorithm / value / "link"
        else:
            link = manifests / "tags" / ref.tag / "current" / "link"
        try:
            found = link.read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise StorageError(f"image {ref} is not in the registry storage ({link} is missing)") from None
        if not _DIGEST.fullmatch(found):
            raise StorageError(f"image {ref} in the registry storage has a broken link ({link})")
        return found

    def manifest(self, ref: ImageRef) -> bytes:
        """The manifest's own bytes. Raises StorageError."""
        return self._read_blob(self.digest(ref), f"manifest of {ref}")

    def check_image(self, ref: ImageRef, *, full: bool) -> str:
        """Its digest, when every blob is there in its size (`full`: and in its hash); else StorageError."""
        digest = self.digest(ref)
        self._check_manifest(digest, str(ref), full)
        return digest

    # --- inside --------------------------------------------------------------------------------------------

    def _check_manifest(self, digest: str, ref: str, full: bool, depth: int = 0) -> None:
        content = self._read_blob(digest, f"manifest of {ref}")
        if "sha256:" + hashlib.sha256(content).hexdigest() != digest:
            raise StorageError(f"manifest of {ref} does not match its digest ({self.blob_path(digest)})")
        try:
            manifest = json.loads(content)
            children = [str(child["digest"]) for child in manifest.get("manifests") or ()]
            blobs = _blobs_of(manifest)
            if not all(_DIGEST.fullmatch(it) for it in (*children, *(blob.digest for blob in blobs))):
                raise ValueError("a digest is none")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise StorageError(f"manifest of {ref} is none ({self.blob_path(digest)})") from None
        for child in children if depth < _MAX_DEPTH else ():
            # a multi-platform index may hold only the platforms that were copied
            if self.blob_path(child).exists():
                self._check_manifest(child, ref, full, depth + 1)
        for blob in blobs:
            self._check_blob(blob, ref, full)

    def _check_blob(self, blob: Descriptor, ref: str, full: bool) -> None:
        path = self.blob_path(blob.digest)
        try:
            size = path.stat().st_size
        except OSError:
            raise StorageError(f"a layer of {ref} is missing ({path})") from None
        if size != blob.size:
            raise StorageError(f"a layer of {ref} is truncated: {size} of {blob.size} bytes ({path})")
        if full and "sha256:" + sha256_file(path) != blob.digest:
            raise StorageError(f"a layer of {ref} does not match its digest ({path})")

    def _read_blob(self, digest: str, what: str) -> bytes:
        try:
            return self.blob_path(digest).read_bytes()
        except OSError:
            raise StorageError(f"{what} is missing ({self.blob_path(digest)})") from None

    def _repository(self, name: str) -> Path:
        return self._base / "repositories" / name

    @staticmethod
    def _link(folder: Path, digest: str) -> None:
        algorithm, _, value = digest.partition(":")
        target = folder / algorithm / value
        target.mkdir(parents=True, exist_ok=True)
        (target / "link").write_text(digest)


def image_manifest(
    config: Descriptor, layers: list[Descriptor], annotations: Mapping[str, str] = {}
) -> bytes:
    """An OCI image manifest as canonical JSON (sorted keys, no white space): same input, same digest."""
    manifest: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.as_json(),
        "layers": [layer.as_json() for layer in layers],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()


def _blobs_of(manifest: Mapping[str, Any]) -> list[Descriptor]:
    entries = [manifest["config"], *manifest["layers"]] if "config" in manifest else []
    return [Descriptor(e["digest"], e["size"], e.get("mediaType", "")) for e in entries]
