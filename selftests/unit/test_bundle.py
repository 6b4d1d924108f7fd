"""The bundle directory: what is refused, and that the message names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.artifacts.bundle import Bundle, BundleComponent, BundleError, BundleFile, BundleImage
from harness.artifacts.storage import (
    OCI_CONFIG,
    OCI_LAYER,
    ImageRef,
    Storage,
    image_manifest,
    sha256_file,
)

REF = "quay.io/example/thing:v1"
LAYER = b"layer" * 100


def put_image(storage: Storage, ref: str = REF, layer: bytes = LAYER) -> str:
    """Store an image of one layer; its manifest's digest."""
    config = storage.put_blob(b'{"os":"linux"}', OCI_CONFIG)
    manifest = image_manifest(config, [storage.put_blob(layer, OCI_LAYER)])
    parsed = ImageRef.parse(ref)
    return storage.put_manifest(parsed.repository, manifest, parsed.tag)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A whole bundle of one file and one image, for amd64."""
    place = tmp_path / "bundle"
    (place / "files").mkdir(parents=True)
    (place / "files/k3s").write_text("program")
    digest = put_image(Storage(place / "registry"))
    made = Bundle(
        place,
        "seed",
        "amd64",
        datetime(2024, 1, 20, tzinfo=UTC),
        {
            "k3s": BundleComponent("k3s", "v1.28.15+lab1", "stand-in", 'the "lab"', "v1.28.5+k3s1"),
            "thing": BundleComponent("thing", "v1", "real", "somewhere"),
        },
        (BundleFile("files/k3s", "k3s", sha256_file(place / "files/k3s")),),
        (BundleImage(REF, "thing", digest),),
    )
    made.write()
    return made


def open_it(bundle: Bundle, **options: object) -> Bundle:
    return Bundle.open(bundle.path, machine="x86_64", **options)  # type: ignore[arg-type]


def refusal(bundle: Bundle, **options: object) -> str:
    """The message with which the bundle is refused."""
    with pytest.raises(BundleError) as caught:
        open_it(bundle, **options)
    assert caught.value.hint, "a refusal says what mends it"
    return caught.value.message


def test_written_and_read_are_equal(bundle: Bundle) -> None:
    assert open_it(bundle, full=True) == bundle


def test_stand_ins_are_named(bundle: Bundle) -> None:
    assert open_it(bundle).stand_ins == ("k3s",)


def test_file_and_image_by_name(bundle: Bundle) -> None:
    assert bundle.file("k3s") == bundle.path / "files/k3s"
    assert bundle.image(REF).component == "thing"


def test_asking_for_what_is_not_there(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"no file 'olm\.yaml' \(it has k3s\)"):
        bundle.file("olm.yaml")
    with pytest.raises(BundleError, match=r"no image quay\.io/example/other:v1"):
        bundle.image("quay.io/example/other:v1")


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere is no bundle: there is no such directory"):
        Bundle.open(tmp_path / "nowhere")


def test_directory_without_listing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is no bundle: it has no bundle\.toml"):
        Bundle.open(tmp_path)


def test_other_architecture(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="is for amd64, this machine is arm64"):
        Bundle.open(bundle.path, machine="aarch64")


def test_changed_file(bundle: Bundle) -> None:
    (bundle.path / "files/k3s").write_text("tampered")
    assert "files/k3s was changed" in refusal(bundle)


def test_missing_file(bundle: Bundle) -> None:
    (bundle.path / "files/k3s").unlink()
    assert "files/k3s is missing" in refusal(bundle)


def test_missing_image(bundle: Bundle) -> None:
    Storage(bundle.storage).remove_repository("quay.io/example/thing")
    assert f"image {REF} is not in the registry storage" in refusal(bundle)


def layer_of(bundle: Bundle) -> Path:
    storage = Storage(bundle.storage)
    digest = json.loads(storage.manifest(ImageRef.parse(REF)))["layers"][0]["digest"]
    return storage.blob_path(digest)


def test_truncated_layer(bundle: Bundle) -> None:
    layer_of(bundle).write_bytes(LAYER[:-1])
    said = refusal(bundle)
    assert "truncated: 499 of 500 bytes" in said
    assert str(layer_of(bundle)) in said


def test_missing_layer(bundle: Bundle) -> None:
    layer_of(bundle).unlink()
    assert f"a layer of {REF} is missing" in refusal(bundle)


def test_changed_layer_is_found_by_a_full_check_only(bundle: Bundle) -> None:
    layer_of(bundle).write_bytes(b"x" * len(LAYER))
    open_it(bundle)
    assert f"a layer of {REF} does not match its digest" in refusal(bundle, full=True)


def test_image_with_another_digest_than_listed(bundle: Bundle) -> None:
    put_image(Storage(bundle.storage), layer=b"another")
    assert f"image {REF}" in refusal(bundle)


Edit = Callable[[str], str]


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda t: t + "\n[", "is no TOML"),
        (lambda t: t.replace("format = 1", "format = 2"), "its format is 2"),
        (
            lambda t: t.replace("format = 1", 'format = 1\nflavour = "x"'),
            "unknown field 'flavour' at the top",
        ),
        (lambda t: t.replace('profile = "seed"', "profile = 3"), "field 'profile' is missing or not a str"),
        (lambda t: t.replace("created = ", "created = 1 # "), "field 'created'"),
        (lambda t: t.replace("ref =", 'size = "1"\nref ='), "unknown field 'size' in [[image]] number 1"),
        (lambda t: t.replace('digest = "', '# "'), "field 'digest' is missing in [[image]] number 1"),
        (lambda t: t.replace('version = "v1"', "version = 1"), "[[component]] number 2 is not a string"),
        (lambda t: t.replace('"stand-in"', '"fake"'), "component 'k3s': provenance 'fake'"),
        (
            lambda t: t.replace('component = "k3s"', 'component = "k4s"'),
            "component 'k4s', which is not listed",
        ),
        (lambda t: t.replace('"files/k3s"', '"files/../../k3s"'), "is not below files/"),
        (lambda t: t.replace(f'"{REF}"', '"thing"'), "'thing' is no full image reference"),
    ],
)
def test_listing_with_a_mistake(bundle: Bundle, edit: Edit, complaint: str) -> None:
    listing = bundle.path / "bundle.toml"
    before = listing.read_text()
    listing.write_text(edit(before))
    assert listing.read_text() != before
    said = refusal(bundle)
    assert complaint in said
    assert str(listing) in said
