"""What the pretend registries hold: the images of a bundle, behind an index as most real ones are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.artifacts.storage import OCI_INDEX, OCI_MANIFEST, ImageRef, Storage, StorageError

ALIASES: Mapping[str, str] = {
    "quay.io/brancz/kube-rbac-proxy": "docker.io/kubesphere/kube-rbac-proxy",
    "registry.k8s.io/kubebuilder/kube-rbac-proxy": "docker.io/kubesphere/kube-rbac-proxy",
}
"""The same program, at every place where it is offered."""


@dataclass
class Images:
    """Manifests and blobs by repository, ``docker.io/library/alpine``."""

    storage: Storage
    _indexes: dict[str, bytes] = field(default_factory=dict)

    def manifest(self, repository: str, reference: str) -> tuple[bytes, str] | None:
        """Content and media type of a tag or digest."""
        if reference in self._indexes:
            return self._indexes[reference], OCI_INDEX
        repository = ALIASES.get(repository, repository)
        joint = "@" if reference.startswith("sha256:") else ":"
        try:
            raw = self.storage.manifest(ImageRef.parse(f"{repository}{joint}{reference}"))
        except (StorageError, ValueError):
            return None
        if joint == "@":
            return raw, json.loads(raw).get("mediaType") or OCI_MANIFEST
        index = _index_of(raw)
        self._indexes["sha256:" + hashlib.sha256(index).hexdigest()] = index
        return index, OCI_INDEX

    def blob(self, digest: str) -> Path | None:
        """A blob's file."""
        path = self.storage.blob_path(digest)
        return path if path.is_file() else None


def _index_of(manifest: bytes) -> bytes:
    """An index with this machine's image and, first, one of an architecture that nobody here has."""
    entries = [
        {
            "mediaType": OCI_MANIFEST,
            "digest": digest,
            "size": size,
            "platform": {"os": "linux", "architecture": architecture},
        }
        for digest, size, architecture in (
            ("sha256:" + "0" * 64, 1234, "s390x"),
            ("sha256:" + hashlib.sha256(manifest).hexdigest(), len(manifest), "amd64"),
        )
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
