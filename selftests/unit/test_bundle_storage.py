"""A registry's storage layout, as the registry program itself writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.artifacts.storage import OCI_CONFIG, OCI_LAYER, ImageRef, Storage, StorageError, image_manifest

HEX = "0" * 64


def put(storage: Storage, repository: str, tag: str, layer: bytes) -> str:
    config = storage.put_blob(b"{}", OCI_CONFIG)
    return storage.put_manifest(repository, image_manifest(config, [storage.put_blob(layer, OCI_LAYER)]), tag)


def test_layout_on_disk(tmp_path: Path) -> None:
    digest = put(Storage(tmp_path), "docker.io/library/alpine", "latest", b"layer")
    base = tmp_path / "docker/registry/v2"
    value = digest.removeprefix("sha256:")
    repository = base / "repositories/docker.io/library/alpine"
    assert (base / "blobs/sha256" / value[:2] / value / "data").is_file()
    for link in (
        f"_manifests/revisions/sha256/{value}/link",
        "_manifests/tags/latest/current/link",
        f"_manifests/tags/latest/index/sha256/{value}/link",
    ):
        assert (repository / link).read_text() == digest, link
    assert len(list((repository / "_layers/sha256").iterdir())) == 2


def test_same_layer_is_stored_once(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    put(storage, "quay.io/a/one", "v1", b"shared")
    blobs = len(list(tmp_path.rglob("data")))
    put(storage, "quay.io/a/two", "v1", b"shared")
    assert len(list(tmp_path.rglob("data"))) == blobs


def test_tag_moves_and_the_old_digest_stays(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    old = put(storage, "quay.io/a/one", "v1", b"old")
    new = put(storage, "quay.io/a/one", "v1", b"new")
    assert storage.digest(ImageRef("quay.io/a/one", tag="v1")) == new
    assert storage.digest(ImageRef("quay.io/a/one", digest=old)) == old


def test_listing(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    put(storage, "quay.io/a/one", "v2", b"x")
    put(storage, "quay.io/a/one", "v1", b"x")
    put(storage, "docker.io/b", "v1", b"x")
    assert list(storage.repositories()) == ["docker.io/b", "quay.io/a/one"]
    assert storage.tags("quay.io/a/one") == ["v1", "v2"]
    assert storage.tags("quay.io/none") == []


def test_interrupted_blob_is_written_anew(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    source = tmp_path / "layer"
    source.write_bytes(b"whole")
    digest = storage.put_blob(source).digest
    storage.blob_path(digest).write_bytes(b"who")
    storage.put_blob(source)
    assert storage.blob_path(digest).read_bytes() == b"whole"


def test_unknown_reference_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"quay\.io/a/b:v1 is not in the registry storage"):
        Storage(tmp_path).manifest(ImageRef.parse("quay.io/a/b:v1"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("quay.io/a/b:v1", ImageRef("quay.io/a/b", "v1")),
        (f"gcr.io/a@sha256:{HEX}", ImageRef("gcr.io/a", "", f"sha256:{HEX}")),
        ("10.99.1.2:5000/a/b:v1", ImageRef("10.99.1.2:5000/a/b", "v1")),
    ],
)
def test_references(text: str, expected: ImageRef) -> None:
    assert ImageRef.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["alpine", "alpine:latest", "quay.io/a/b", "quay.io/a/:v1", ""])
def test_incomplete_references(text: str) -> None:
    with pytest.raises(ValueError, match="no full image reference"):
        ImageRef.parse(text)


names = st.from_regex(r"[a-z0-9]+(\.[a-z]+)?(/[a-z0-9]+){1,3}", fullmatch=True)


@given(names, st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True))
def test_parsing_undoes_printing(repository: str, tag: str) -> None:
    assert ImageRef.parse(str(ImageRef(repository, tag))) == ImageRef(repository, tag)
