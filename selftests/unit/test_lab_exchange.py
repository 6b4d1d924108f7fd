"""`python -m lab exchange`: real programs and files over a bundle's, and what the new bundle says."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.artifacts.bundle import Bundle, BundleComponent, BundleFile, BundleImage
from harness.artifacts.storage import OCI_CONFIG, OCI_LAYER, ImageRef, Storage, image_manifest
from lab.__main__ import main
from lab.images import LABEL

OLM = "quay.io/operator-framework/olm:v0.26.0"
RUNNER = "registry.gitlab.com/runner:v19.4.0"
OPERATOR = "quay.io/operatorhubio/operator:v1.53.0"


def tar_of(**files: str) -> bytes:
    """A tar of small files; `__` in a name is a slash."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("bin")
        link.type, link.linkname = tarfile.SYMTYPE, "usr/bin"
        tar.addfile(link)
    return stream.getvalue()


def put(storage: Storage, ref: str, layer: bytes) -> str:
    """An image of one layer; its digest."""
    made = storage.put_blob(layer, OCI_LAYER)
    config = {"config": {"Labels": {"a": "b"}}, "history": [], "rootfs": {"diff_ids": [made.digest]}}
    stored = storage.put_blob(json.dumps(config).encode(), OCI_CONFIG)
    parsed = ImageRef.parse(ref)
    return storage.put_manifest(parsed.repository, image_manifest(stored, [made]), parsed.tag)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of stand-ins: k3s, OLM with its manifest, a runner, an operator that names it by digest."""
    place = tmp_path / "bundle"
    storage = Storage(place / "registry")
    digests = {OLM: put(storage, OLM, tar_of(usr__bin__olm="stand-in"))}
    digests[RUNNER] = put(storage, RUNNER, tar_of(usr__bin__gitlab_runner="stand-in"))
    digests[OPERATOR] = put(
        storage, OPERATOR, tar_of(csv=f"image: registry.gitlab.com/runner@{digests[RUNNER]}")
    )
    (place / "files").mkdir()
    contents = {"k3s": "stand-in", "olm.yaml": f"image: quay.io/operator-framework/olm@{digests[OLM]}\n"}
    files = []
    for name, text in contents.items():
        (place / "files" / name).write_text(text)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        files.append(BundleFile(f"files/{name}", name.removesuffix(".yaml"), sha256))
    (place / "files/k3s").chmod(0o755)
    names = {"k3s": "v1.28.15+lab1", "olm": "v0.26.0", "runner": "19.4.0", "operator": "1.53.0"}
    components = {name: BundleComponent(name, version, "stand-in", "lab") for name, version in names.items()}
    owners = {OLM: "olm", RUNNER: "runner", OPERATOR: "operator"}
    images = tuple(BundleImage(ref, owners[ref], digest) for ref, digest in digests.items())
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    Bundle(place, "seed", machine, datetime.now(UTC), components, tuple(files), images).write()
    return place


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that only prints a version."""
    path = tmp_path / "program"
    path.write_text("#!/bin/sh\necho 'k3s version v1.28.5+k3s1 (5b2d1271)'\n")
    return path


def state(place: Path) -> dict[str, str]:
    """Every file of a directory, by its content."""
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in place.rglob("*")
        if path.is_file()
    }


def files_of(bundle: Bundle, ref: str) -> dict[str, bytes]:
    """What a container of that image sees: later layers over earlier ones."""
    storage, found = Storage(bundle.storage), {}
    for layer in json.loads(storage.manifest(ImageRef.parse(ref)))["layers"]:
        with tarfile.open(storage.blob_path(layer["digest"])) as tar:
            found |= {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
    return found


def test_a_program_that_only_prints_its_version_takes_k3s_place(
    bundle: Path, program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(bundle)
    out = tmp_path / "new"
    arguments = ["--file", f"files/k3s={program}", "--version", "v1.28.5+k3s1"]
    assert main(["exchange", str(bundle), "--out", str(out), *arguments]) == 0
    made = Bundle.open(out, full=True)
    assert made.file("k3s").read_text() == program.read_text()
    assert os.access(made.file("k3s"), os.X_OK)
    k3s = made.components["k3s"]
    assert (k3s.provenance, k3s.version, k3s.stands_for) == ("real", "v1.28.5+k3s1", "")
    assert made.stand_ins == ("olm", "operator", "runner")
    assert state(bundle) == before, "the bundle that it began with was changed"
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(out)
    assert "real now: k3s; stand-ins: olm, operator, runner" in said.err


def test_k3s_and_a_manifest_from_one_listing(
    bundle: Path, program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "real.yaml").write_text("image: quay.io/operator-framework/olm@sha256:" + "7" * 64 + "\n")
    listing = tmp_path / "exchanges.toml"
    listing.write_text(
        '[[file]]\npath = "files/k3s"\nsource = "program"\nversion = "v1.30.0+k3s1"\n'
        '[[file]]\npath = "files/olm.yaml"\nsource = "real.yaml"\nversion = "v0.26.0"\n'
    )
    out = tmp_path / "new"
    assert main(["exchange", str(bundle), "--out", str(out), "--from", str(listing)]) == 0
    made = Bundle.open(out, full=True)
    assert made.components["k3s"].stands_for == "v1.28.5+k3s1", "the profile asks for another"
    assert made.components["olm-exchanged"].provenance == "real"
    assert {f.path: f.component for f in made.files}["files/olm.yaml"] == "olm-exchanged"
    assert made.stand_ins == ("olm", "operator", "runner"), "its image is a stand-in still"
    said = capsys.readouterr().err
    assert f"of olm still stand-in: {OLM}" in said
    assert "files/olm.yaml names quay.io/operator-framework/olm@sha256:777" in said


@pytest.mark.parametrize("kind", ["program", "directory", "tar"])
def test_what_is_laid_over_an_image_is_found_by_the_manifests_that_name_it(
    bundle: Path, program: Path, tmp_path: Path, kind: str
) -> None:
    source, at = program, 'at = "/bin/olm"\n'
    if kind != "program":
        source, at = tmp_path / "tree", ""
        (source / "bin").mkdir(parents=True)
        shutil.copy(program, source / "bin/olm")
    if kind == "tar":
        with tarfile.open(tmp_path / "tree.tar", "w") as tar:
            tar.add(source, ".")
        source = tmp_path / "tree.tar"
    listing = tmp_path / "exchanges.toml"
    listing.write_text(f'[[image]]\nref = "{OLM}"\nsource = "{source}"\nversion = "v0.26.0"\n{at}')
    out = tmp_path / "new"
    assert main(["exchange", str(bundle), "--out", str(out), "--from", str(listing)]) == 0
    made, old = Bundle.open(out, full=True), Bundle.open(bundle)
    digest = made.image(OLM).digest
    assert digest != old.image(OLM).digest
    assert made.file("olm.yaml").read_text() == f"image: quay.io/operator-framework/olm@{digest}\n"
    assert files_of(made, OLM)["usr/bin/olm"] == program.read_bytes(), "/bin is a link into /usr"
    storage = Storage(made.storage)
    config = json.loads(storage.manifest(ImageRef.parse(OLM)))["config"]["digest"]
    labels = json.loads(storage.blob_path(config).read_bytes())["config"]["Labels"]
    assert (labels[f"{LABEL}provenance"], labels[f"{LABEL}version"], labels["a"]) == ("real", "v0.26.0", "b")
    gone = ImageRef.parse(f"quay.io/operator-framework/olm@{old.image(OLM).digest}")
    with pytest.raises(Exception, match="is not in the registry storage"):
        storage.digest(gone)


def test_an_image_that_names_the_exchanged_one_by_digest_is_changed_too(
    bundle: Path, program: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    arguments = ["--image", f"{RUNNER}={program}:/usr/bin/gitlab-runner", "--version", "19.4.0"]
    assert main(["exchange", str(bundle), "--out", str(out), *arguments]) == 0
    made = Bundle.open(out, full=True)
    csv = files_of(made, OPERATOR)["csv"].decode()
    assert csv == f"image: registry.gitlab.com/runner@{made.image(RUNNER).digest}"
    assert "operator" in made.stand_ins


def test_a_saved_image_takes_the_place_of_a_whole_image(bundle: Path, tmp_path: Path) -> None:
    layer = tar_of(runner="real")
    entries = {
        "manifest.json": json.dumps([{"Config": "c.json", "Layers": ["l.tar"]}]).encode(),
        "l.tar": layer,
    }
    entries["c.json"] = b'{"rootfs": {"diff_ids": []}}'
    saved = tmp_path / "saved.tar"
    with tarfile.open(saved, "w") as tar:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    out = tmp_path / "new"
    arguments = ["--image", f"{RUNNER}={saved}", "--version", "19.4.0"]
    assert main(["exchange", str(bundle), "--out", str(out), *arguments]) == 0
    made = Bundle.open(out, full=True)
    assert files_of(made, RUNNER) == {"runner": b"real"}
    assert made.stand_ins == ("k3s", "olm", "operator")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            '[[file]]\npath = "files/none"\nsource = "program"\nversion = "1"\n',
            "has no files/none (it has files/k3s",
        ),
        (
            '[[file]]\npath = "files/k3s"\nsource = "gone"\nversion = "1"\n',
            "gone, which is to take the place of",
        ),
        (f'[[image]]\nref = "{OLM}"\nsource = "program"\nversion = "1"\n', "is a program: say where it goes"),
        ('[[file]]\npath = "files/k3s"\nsource = "program"\n', "[[file]] number 1: 'version' is missing"),
        ('[[files]]\npath = "x"\n', "unknown table 'files'"),
        ("[[file]\n", "exchanges.toml cannot be read"),
        ("", "names nothing to exchange"),
        (
            '[[file]]\npath = "files/k3s"\nsource = "program"\nversion = "1"\n' * 2,
            "files/k3s is exchanged twice",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_makes_nothing(
    bundle: Path,
    program: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    complaint: str,
) -> None:
    assert program.exists()
    (tmp_path / "exchanges.toml").write_text(text)
    out = tmp_path / "new"
    assert main(["exchange", str(bundle), "--out", str(out), "--from", str(tmp_path / "exchanges.toml")]) == 1
    said = capsys.readouterr().err
    assert complaint in said
    assert "Traceback" not in said
    assert not out.exists()


def test_the_bundle_itself_is_not_written_to(
    bundle: Path, program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--file", f"files/k3s={program}", "--version", "1"]
    assert main(["exchange", str(bundle), "--out", str(bundle), *arguments]) == 1
    assert "is the bundle itself" in capsys.readouterr().err
