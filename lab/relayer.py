"""Images of a bundle with something laid over them, and the images that name these by digest."""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.artifacts.storage import OCI_CONFIG, OCI_LAYER, Descriptor, Storage, image_manifest, sha256_file
from lab import debian
from lab.images import CREATED, LABEL
from lab.tars import write_tar

SMALL_LAYER_BYTES = 16 << 20
"""Layers in which digests of other images are looked for: bundles and catalogs are far smaller."""


class Relayer:
    """Collects changes to images by their digest; `finish` says what each digest became."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._moved: dict[str, str] = {}

    def lay(self, digest: str, source: Path, at: str, labels: Mapping[str, str]) -> None:
        """Lay a program, a directory or a tar over an image, or put that of a `docker save` in its place."""
        if source.is_file() and tarfile.is_tarfile(source):
            with tarfile.open(source) as tar:
                if "manifest.json" in tar.getnames():
                    self._moved[f"laid:{digest}"] = self._saved(tar)
                    return
        config, layers = self._read(digest)
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "layer.tar"
            self._write(made, source, at or "/", merged=self._is_merged(layers))
            layer = Descriptor("sha256:" + sha256_file(made), made.stat().st_size, OCI_LAYER)
            self._storage.put_blob(made, OCI_LAYER, layer.digest)
        config["config"].setdefault("Labels", {}).update({f"{LABEL}{k}": v for k, v in labels.items()})
        config["history"].append({"created": CREATED, "created_by": "lab exchange"})
        self._moved[f"laid:{digest}"] = self._put(config, [*layers, layer])

    def finish(self, digests: Sequence[str]) -> dict[str, str]:
        """Old digest → new; `laid:<digest>` for what was laid over, plain for images that name a moved one.

        Digests inside layers are as long as before, so the rewritten files keep their places.
        """
        pending = True
        while pending:
            pending = False
            names = {old.removeprefix("laid:"): new for old, new in self._moved.items()}
            for digest in digests:
                current = self._moved.get(digest, digest)
                if (rewritten := self._rewritten(current, names)) != current:
                    self._moved[digest] = rewritten
                    pending = True
        return dict(self._moved)

    def _rewritten(self, digest: str, names: Mapping[str, str]) -> str:
        manifest = json.loads(self._storage.blob_path(digest).read_bytes())
        config, layers = self._read(digest)
        changed = False
        for place, layer in enumerate(layers):
            if layer.size > SMALL_LAYER_BYTES or "gzip" in layer.media_type:
                continue
            content = self._storage.blob_path(layer.digest).read_bytes()
            replaced = content
            for old, new in names.items():
                replaced = replaced.replace(old.encode(), new.encode())
            if replaced != content:
                layers[place] = self._storage.put_blob(replaced, OCI_LAYER)
                changed = True
        return self._put(config, layers) if changed and "layers" in manifest else digest

    def _read(self, digest: str) -> tuple[dict[str, Any], list[Descriptor]]:
        manifest = json.loads(self._storage.blob_path(digest).read_bytes())
        config = json.loads(self._storage.blob_path(manifest["config"]["digest"]).read_bytes())
        layers = [Descriptor(it["digest"], it["size"], it["mediaType"]) for it in manifest["layers"]]
        return config, layers

    def _put(self, config: dict[str, Any], layers: list[Descriptor]) -> str:
        config["rootfs"]["diff_ids"] = [layer.digest for layer in layers]
        stored = self._storage.put_blob(json.dumps(config, sort_keys=True).encode(), OCI_CONFIG)
        return self._storage.put_blob(image_manifest(stored, layers)).digest

    def _saved(self, tar: tarfile.TarFile) -> str:
        """The image of `docker save`, as it is: its configuration and layers are not touched."""

        def read(name: str) -> bytes:
            stream = tar.extractfile(name)
            return stream.read() if stream else b""

        entry = json.loads(read("manifest.json"))[0]
        config = self._storage.put_blob(read(entry["Config"]), OCI_CONFIG)
        layers = [self._storage.put_blob(read(name), OCI_LAYER) for name in entry["Layers"]]
        return self._storage.put_blob(image_manifest(config, layers)).digest

    def _is_merged(self, layers: Sequence[Descriptor]) -> bool:
        """Whether /bin is a link into /usr there: a directory of that name would take its place."""
        if not layers:
            return False
        with tarfile.open(self._storage.blob_path(layers[0].digest)) as lowest:
            return any(member.name == "bin" and member.issym() for member in lowest)

    @staticmethod
    def _write(target: Path, source: Path, at: str, *, merged: bool) -> None:
        rename = debian.merged if merged else lambda name: name
        if source.is_dir():
            write_tar(target, [(source, at)], plain_modes=True, rename=rename)
        elif tarfile.is_tarfile(source):
            with tempfile.TemporaryDirectory() as folder, tarfile.open(source) as tar:
                tar.extractall(folder, filter="tar")
                write_tar(target, [(Path(folder), at)], plain_modes=True, rename=rename)
        else:
            with tempfile.TemporaryDirectory() as folder:
                program = Path(folder) / "program"
                program.write_bytes(source.read_bytes())
                program.chmod(0o755)
                write_tar(target, [(program, at)], plain_modes=True, rename=rename)
