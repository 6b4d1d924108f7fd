"""Lay real programs or files over a bundle's: another bundle, which says of each part whether it is real.

    python -m lab exchange BUNDLE --out DIR --file files/k3s=./k3s --version v1.28.5+k3s1
    python -m lab exchange BUNDLE --out DIR --from exchanges.toml

`exchanges.toml`, several at once; sources are relative to it:

    [[file]]
    path = "files/olm.yaml"
    source = "olm.yaml"
    version = "v0.26.0"
    [[image]]
    ref = "quay.io/operator-framework/olm:v0.26.0"
    source = "olm"                # a program, a directory, a tar of files, or a whole image of `docker save`
    at = "/bin/olm"               # where it goes: needed for a program, else /
    version = "v0.26.0"
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.artifacts.bundle import REAL, Bundle, BundleComponent, BundleFile, BundleImage
from harness.artifacts.storage import ImageRef, Storage, sha256_file
from harness.profile import load_profile
from lab.assemble import check_place
from lab.errors import LabError
from lab.relayer import Relayer

EXCHANGED = "-exchanged"
"""What is put behind a component's name for those of its parts that are real, where others are not."""
IMAGE_LINE = re.compile(
    r"^\s*(?:- )?image: *[\"']?([\w.-]+\.[\w.-]+/[\w./-]+(?:[:@][\w.:-]+)+)", re.MULTILINE
)


@dataclass(frozen=True)
class Exchange:
    """One part, what takes its place, and the version that this is."""

    part: str  # `files/…` or an image's reference
    source: Path
    version: str
    at: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it is a file of the bundle, no image."""
        return self.part.startswith("files/")


def read_exchanges(path: Path) -> list[Exchange]:
    """The exchanges of a TOML file. Raises LabError that names the place of a mistake."""
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LabError(f"{path} cannot be read: {error}") from None
    if unknown := sorted(document.keys() - {"file", "image"}):
        raise LabError(f"{path}: unknown table {unknown[0]!r} (known: file, image)")
    found = []
    for kind, name, known in (
        ("file", "path", {"path", "source", "version"}),
        ("image", "ref", {"ref", "source", "version", "at"}),
    ):
        for number, table in enumerate(document.get(kind, []), 1):
            place = f"{path}: [[{kind}]] number {number}"
            found.append(_exchange(place, table, name, known, path.parent))
    if not found:
        raise LabError(f"{path} names nothing to exchange", "add a [[file]] or an [[image]]")
    return found


def _exchange(place: str, table: object, name: str, known: set[str], base: Path) -> Exchange:
    if not isinstance(table, dict):
        raise LabError(f"{place} is no table")
    if wrong := sorted(key for key, value in table.items() if key not in known or not isinstance(value, str)):
        raise LabError(f"{place}: {wrong[0]!r} is unknown or no string (known: {', '.join(sorted(known))})")
    if missing := sorted(known - {"at"} - table.keys()):
        raise LabError(f"{place}: {missing[0]!r} is missing")
    return Exchange(table[name], base / table["source"], table["version"], table.get("at", ""))


def exchange(bundle: Bundle, exchanges: Sequence[Exchange], out: Path) -> tuple[Bundle, list[str]]:
    """A copy of the bundle at `out` with the exchanges made, checked whole; and what its reader should know.

    Raises LabError; nothing is at `out` then that was not there before.
    """
    check_place(out)
    if out.exists() and out.resolve() == bundle.path.resolve():
        raise LabError(f"--out {out} is the bundle itself", "name another directory")
    _check(bundle, exchanges)
    temporary = out.with_name(f".{out.name}.making")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(bundle.path, temporary, copy_function=_copy, symlinks=True)
        made, notes = _made(replace(bundle, path=temporary), exchanges)
        shutil.rmtree(out, ignore_errors=True)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return replace(made, path=out), notes


def _check(bundle: Bundle, exchanges: Sequence[Exchange]) -> None:
    parts = {entry.path for entry in bundle.files} | {entry.ref for entry in bundle.images}
    for one in exchanges:
        if one.part not in parts:
            there = ", ".join(sorted(part for part in parts if part.startswith("files/") == one.is_file))
            raise LabError(f"the bundle {bundle.path} has no {one.part} (it has {there})")
        if not one.source.exists():
            raise LabError(f"{one.source}, which is to take the place of {one.part}, does not exist")
        program = one.source.is_file() and not tarfile.is_tarfile(one.source)
        if not one.is_file and program and not one.at:
            raise LabError(
                f"{one.source} is a program: say where it goes in {one.part}", 'for instance at = "/bin/olm"'
            )
    if twice := [one.part for one in exchanges if sum(one.part == other.part for other in exchanges) > 1]:
        raise LabError(f"{twice[0]} is exchanged twice")


def _copy(source: str, target: str) -> None:
    # blobs are never written to again, everything else may be
    if Path(source).name == "data":
        try:
            os.link(source, target)
        except OSError:
            pass
        else:
            return
    shutil.copy2(source, target)


def _made(bundle: Bundle, exchanges: Sequence[Exchange]) -> tuple[Bundle, list[str]]:
    components = _components(bundle, exchanges)
    owner = _owners(bundle, exchanges)
    relayer = Relayer(Storage(bundle.storage))
    for one in exchanges:
        if not one.is_file:
            labels = {"component": owner[one.part], "provenance": REAL, "version": one.version}
            relayer.lay(_digest(bundle, one.part), one.source, one.at, labels)
    digests = relayer.finish([image.digest for image in bundle.images])
    images = tuple(
        BundleImage(image.ref, owner[image.ref], _moved(image, exchanges, digests)) for image in bundle.images
    )
    _relink(Storage(bundle.storage), images)
    sources = {one.part: one.source for one in exchanges if one.is_file}
    files = tuple(
        _file(bundle, entry, owner[entry.path], sources.get(entry.path), digests) for entry in bundle.files
    )
    made = replace(bundle, components=components, files=files, images=images)
    made.write()
    Bundle.open(made.path, full=True)
    return made, _notes(made, exchanges)


def _moved(image: BundleImage, exchanges: Sequence[Exchange], digests: Mapping[str, str]) -> str:
    """The digest that a reference leads to now: of two that led to one image, only the named one moves."""
    same = any(one.part == image.ref for one in exchanges)
    laid = digests.get(f"laid:{image.digest}") if same else None
    return laid or digests.get(image.digest, image.digest)


def _digest(bundle: Bundle, ref: str) -> str:
    return bundle.image(ref).digest


def _relink(storage: Storage, images: Sequence[BundleImage]) -> None:
    """Make every repository anew, so that nothing leads to an image that was exchanged."""
    content = {image.ref: storage.blob_path(image.digest).read_bytes() for image in images}
    for repository in {ImageRef.parse(image.ref).repository for image in images}:
        storage.remove_repository(repository)
    for image in images:
        ref = ImageRef.parse(image.ref)
        storage.put_manifest(ref.repository, content[image.ref], ref.tag)


def _file(
    bundle: Bundle, entry: BundleFile, component: str, source: Path | None, digests: Mapping[str, str]
) -> BundleFile:
    path = bundle.path / entry.path
    if source:
        mode = path.stat().st_mode
        shutil.copyfile(source, path)
        path.chmod(mode)
    elif path.suffix in (".yaml", ".yml"):
        text = path.read_text()
        for old, new in digests.items():
            text = text.replace(old.removeprefix("laid:"), new)
        path.write_text(text)
    return BundleFile(entry.path, component, sha256_file(path))


def _owners(bundle: Bundle, exchanges: Sequence[Exchange]) -> dict[str, str]:
    """Part → component; the exchanged parts of one that has others too get a component of their own."""
    whole = _whole(bundle, exchanges)
    parts = {entry.path: entry.component for entry in bundle.files}
    parts |= {entry.ref: entry.component for entry in bundle.images}
    real = {one.part for one in exchanges}
    return {
        part: name + EXCHANGED if part in real and name not in whole else name for part, name in parts.items()
    }


def _whole(bundle: Bundle, exchanges: Sequence[Exchange]) -> set[str]:
    """Components that are real or become so: all their parts are exchanged."""
    real = {one.part for one in exchanges}
    parts: dict[str, set[str]] = {}
    for entry in bundle.files:
        parts.setdefault(entry.component, set()).add(entry.path)
    for image in bundle.images:
        parts.setdefault(image.component, set()).add(image.ref)
    return {name for name, own in parts.items() if own <= real}


def _components(bundle: Bundle, exchanges: Sequence[Exchange]) -> dict[str, BundleComponent]:
    asked_for = load_profile(bundle.profile).requested
    owners = {entry.path: entry.component for entry in bundle.files}
    owners |= {entry.ref: entry.component for entry in bundle.images}
    whole = _whole(bundle, exchanges)
    found: dict[str, BundleComponent] = dict(bundle.components)
    for one in exchanges:
        name = owners[one.part] if owners[one.part] in whole else owners[one.part] + EXCHANGED
        wanted = asked_for.get(owners[one.part], "")
        same = not wanted or wanted.removeprefix("v") == one.version.removeprefix("v")
        source = f"exchanged from outside: {one.source.name}"
        found[name] = BundleComponent(name, one.version, REAL, source, "" if same else wanted)
    return found


def _notes(bundle: Bundle, exchanges: Sequence[Exchange]) -> list[str]:
    """What is a stand-in still beside exchanged parts, and what exchanged manifests name that is not here."""
    notes = []
    for name in sorted(c.removesuffix(EXCHANGED) for c in bundle.components if c.endswith(EXCHANGED)):
        rest = [entry.path for entry in bundle.files if entry.component == name]
        rest += [image.ref for image in bundle.images if image.component == name]
        notes.append(f"of {name} still {bundle.components[name].provenance}: {', '.join(rest)}")
    refs = {image.ref for image in bundle.images}
    digests = {f"{ImageRef.parse(image.ref).repository}@{image.digest}" for image in bundle.images}
    for one in exchanges:
        if one.is_file and one.source.suffix in (".yaml", ".yml"):
            missing = sorted(set(IMAGE_LINE.findall(one.source.read_text())) - refs - digests)
            notes += [f"{one.part} names {ref}, which the bundle has not" for ref in missing]
    return notes


def of_arguments(files: Sequence[str], images: Sequence[str], version: str) -> list[Exchange]:
    """The exchanges of the command line: `files/x=SOURCE`, `REF=SOURCE[:/place]`. Raises LabError."""
    found = []
    for kind, texts in (("--file", files), ("--image", images)):
        for text in texts:
            part, equals, rest = text.partition("=")
            if not equals or not rest:
                raise LabError(f"{kind} {text}: wanted is PART=SOURCE")
            source, _, place = rest.partition(":/") if kind == "--image" else (rest, "", "")
            found.append(Exchange(part, Path(source), version, f"/{place}" if place else ""))
    if found and not version:
        raise LabError("--file and --image want the --version that the sources are")
    return found
