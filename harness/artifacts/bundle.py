"""The bundle directory: all that a profile needs, on disk; how an air-gapped user (and the lab) provides it.

    bundle.toml                   what is in here; read and checked by `Bundle.open`
    files/                        what the documented commands download: k3s, cert-manager.yaml, crds.yaml, …
    registry/docker/registry/v2/  a registry's storage; repository names are `<upstream host>/<path>`

`bundle.toml`:

    format = 1
    profile = "seed"                  # the profile it serves
    architecture = "amd64"
    created = 2024-01-20T00:00:00Z
    [[component]]
    name = "k3s"
    version = "v1.28.15+lab1"         # what will be found running
    stands_for = "v1.28.5+k3s1"       # only where the profile names another version
    provenance = "stand-in"           # or "real"
    source = "one line: where it came from"
    [[file]]
    path = "files/k3s"
    component = "k3s"
    sha256 = "…"
    [[image]]
    ref = "quay.io/jetstack/cert-manager-controller:v1.7.1"
    component = "cert-manager"
    digest = "sha256:…"               # of its manifest
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from harness.artifacts.storage import ImageRef, Storage, StorageError, sha256_file
from harness.errors import EnvironmentProblem
from harness.files import clipped, parse_toml, read_text

FORMAT = 1
REAL, STAND_IN = "real", "stand-in"
MACHINE_NAMES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "s390x": "s390x"}
MAX_LISTING_BYTES = 16_000_000
REMAKE = "make it anew with `runner-conformance bundle` (or `python -m lab build` for the lab's)"


class BundleError(EnvironmentProblem):
    """A directory is no bundle, or not a whole one; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class BundleComponent:
    """A part of the stack: its version as it will be found running, and whether it is the real program."""

    name: str
    version: str
    provenance: str
    source: str
    stands_for: str = ""

    @property
    def is_stand_in(self) -> bool:
        """Whether this is not the program that it is named after."""
        return self.provenance == STAND_IN


@dataclass(frozen=True)
class BundleFile:
    """A file below `files/`, by its path in the bundle."""

    path: str
    component: str
    sha256: str


@dataclass(frozen=True)
class BundleImage:
    """An image in the bundle's registry storage, by its upstream reference."""

    ref: str
    component: str
    digest: str


@dataclass(frozen=True)
class Bundle:
    """A checked bundle.

    >>> bundle = Bundle.open(Path("/srv/bundle"))
    >>> bundle.file("cert-manager.yaml")
    PosixPath('/srv/bundle/files/cert-manager.yaml')
    """

    path: Path
    profile: str
    architecture: str
    created: datetime
    components: Mapping[str, BundleComponent] = field(default_factory=dict)
    files: tuple[BundleFile, ...] = ()
    images: tuple[BundleImage, ...] = ()

    @classmethod
    def open(cls, path: Path, *, full: bool = False, machine: str = "") -> Bundle:
        """Read `bundle.toml` and check it against the directory. Raises BundleError.

        Files are checked by their sha256, images by presence and size of layers; `full` hashes these too.
        `machine` is this machine's architecture as `uname -m` gives it, when it is not to be asked.
        """
        bundle = cls.read(path)
        own = MACHINE_NAMES.get(machine or platform.machine(), machine or platform.machine())
        if bundle.architecture != own:
            raise BundleError(
                f"the bundle {path} is for {clipped(bundle.architecture, 40)}, this machine is {own}",
                f"use a bundle made for {own}",
            )
        bundle.verify(full=full)
        return bundle

    @classmethod
    def read(cls, path: Path) -> Bundle:
        """Read `bundle.toml` alone and check its form, not the files that it names. Raises BundleError."""
        listing = path / "bundle.toml"

        def complain(sentence: str) -> BundleError:
            return BundleError(sentence, REMAKE)

        try:
            document = parse_toml(
                read_text(listing, complain, max_bytes=MAX_LISTING_BYTES), listing, complain
            )
        except FileNotFoundError:
            reason = "it has no bundle.toml" if path.is_dir() else "there is no such directory"
            raise BundleError(f"{path} is no bundle: {reason}", f"name another one, or {REMAKE}") from None
        return _Reader(listing).bundle(path, document)

    @property
    def storage(self) -> Path:
        """The registry's root directory."""
        return self.path / "registry"

    @cached_property
    def stand_ins(self) -> tuple[str, ...]:
        """Names of the components that are stand-ins, sorted."""
        return tuple(sorted(c.name for c in self.components.values() if c.is_stand_in))

    def has_file(self, name: str) -> bool:
        """Whether `files/<name>` is in the bundle."""
        return any(f.path == f"files/{name}" for f in self.files)

    def file(self, name: str) -> Path:
        """Where `files/<name>` lies. Raises BundleError when the bundle has none."""
        if not self.has_file(name):
            there = ", ".join(sorted(f.path.removeprefix("files/") for f in self.files))
            raise BundleError(f"the bundle {self.path} has no file {name!r} (it has {there})", REMAKE)
        return self.path / "files" / name

    def image(self, ref: str) -> BundleImage:
        """The image of that upstream reference. Raises BundleError when the bundle has none."""
        for image in self.images:
            if image.ref == ref:
                return image
        raise BundleError(f"the bundle {self.path} has no image {ref}", REMAKE)

    def verify(self, *, full: bool) -> None:
        """Check files by sha256, images by presence (`full`: by content). Raises BundleError."""
        inside = self.path.resolve()
        for entry in self.files:
            path = self.path / entry.path
            if not path.is_file():
                raise BundleError(f"the bundle's file {path} is missing", REMAKE)
            if not path.resolve().is_relative_to(inside):
                raise BundleError(
                    f"the bundle's file {path} is a link to {path.resolve()}, out of the bundle", REMAKE
                )
            found = sha256_file(path)
            if found != entry.sha256:
                raise BundleError(
                    f"the bundle's file {path} was changed: sha256 {found}, bundle.toml says {entry.sha256}",
                    REMAKE,
                )
        storage = Storage(self.storage)
        for image in self.images:
            try:
                digest = storage.check_image(ImageRef.parse(image.ref), full=full)
            except StorageError as error:
                raise BundleError(f"the bundle {self.path} is not whole: {error}", REMAKE) from None
            if digest != image.digest:
                raise BundleError(
                    f"image {image.ref} in {self.path} is {digest}, bundle.toml says {image.digest}", REMAKE
                )

    def write(self) -> None:
        """Write `bundle.toml` into the bundle's directory."""
        (self.path / "bundle.toml").write_text(self.render())

    def render(self) -> str:
        """The text of `bundle.toml`."""
        lines = [
            f"format = {FORMAT}",
            f"profile = {_quoted(self.profile)}",
            f"architecture = {_quoted(self.architecture)}",
            f"created = {self.created.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        ]
        tables: Sequence[tuple[str, Sequence[object]]] = (
            ("component", list(self.components.values())),
            ("file", self.files),
            ("image", self.images),
        )
        for name, rows in tables:
            for row in rows:
                lines += ["", f"[[{name}]]", *_table(row)]
        return "\n".join(lines) + "\n"


_FILE_PATH = re.compile(r"files(/[A-Za-z0-9][\w.+@-]{0,200}){1,8}", re.ASCII)
_REFERENCE = re.compile(r"[A-Za-z0-9][\w.:/@+-]{0,400}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")

Row = TypeVar("Row", BundleComponent, BundleFile, BundleImage)


class _Reader:
    """Turns the parsed TOML into a Bundle; every complaint names the file and the place in it."""

    def __init__(self, listing: Path) -> None:
        self._listing = listing

    def bundle(self, path: Path, document: dict[str, Any]) -> Bundle:
        known = {"format", "profile", "architecture", "created", "component", "file", "image"}
        if document.get("format") != FORMAT:
            raise self._error(f"its format is {document.get('format')!r}, this version reads format {FORMAT}")
        self._no_unknown(document, known, "at the top")
        for name, kind in (("profile", str), ("architecture", str), ("created", datetime)):
            if not isinstance(document.get(name), kind):
                raise self._error(f"field {name!r} is missing or not a {kind.__name__}")
        components = self._rows(document, "component", BundleComponent)
        for component in components:
            if component.provenance not in (REAL, STAND_IN):
                raise self._error(
                    f"component {component.name!r}: provenance {component.provenance!r}, not real or stand-in"
                )
        by_name = {component.name: component for component in components}
        files = self._rows(document, "file", BundleFile)
        images = self._rows(document, "image", BundleImage)
        for what, owner in [(f.path, f.component) for f in files] + [(i.ref, i.component) for i in images]:
            if owner not in by_name:
                raise self._error(f"{what} belongs to component {owner!r}, which is not listed")
        self._paths_inside(files)
        self._full_references(images)
        return Bundle(
            path, document["profile"], document["architecture"], document["created"], by_name, files, images
        )

    def _rows(self, document: dict[str, Any], name: str, row: type[Row]) -> tuple[Row, ...]:
        tables = document.get(name, [])
        if not (isinstance(tables, list) and all(isinstance(t, dict) for t in tables)):
            raise self._error(f"{name!r} is not a list of tables")
        names = {f.name for f in fields(row)}
        needed = names - {"stands_for"}
        made = []
        for number, table in enumerate(tables, 1):
            place = f"in [[{name}]] number {number}"
            self._no_unknown(table, names, place)
            if missing := sorted(needed - table.keys()):
                raise self._error(f"field {missing[0]!r} is missing {place}")
            if wrong := sorted(k for k, v in table.items() if not isinstance(v, str)):
                raise self._error(f"field {wrong[0]!r} {place} is not a string")
            made.append(row(**table))
        return tuple(made)

    def _no_unknown(self, table: Mapping[str, object], known: set[str], place: str) -> None:
        if unknown := sorted(table.keys() - known):
            raise self._error(f"unknown field {unknown[0]!r} {place} (known: {', '.join(sorted(known))})")

    def _paths_inside(self, files: Sequence[BundleFile]) -> None:
        for entry in files:
            if not _FILE_PATH.fullmatch(entry.path) or ".." in entry.path.split("/"):
                raise self._error(f"path {entry.path[:200]!r} is not below files/")
            if not _SHA256.fullmatch(entry.sha256):
                raise self._error(f"sha256 of {entry.path} is not 64 hexadecimal digits")

    def _full_references(self, images: Sequence[BundleImage]) -> None:
        for image in images:
            if not _REFERENCE.fullmatch(image.ref) or ".." in image.ref.split("/"):
                raise self._error(f"{image.ref[:200]!r} is no image reference")
            if not _SHA256.fullmatch(image.digest.removeprefix("sha256:")):
                raise self._error(f"digest of {image.ref} is not sha256: and 64 hexadecimal digits")
            try:
                ImageRef.parse(image.ref)
            except ValueError as error:
                raise self._error(str(error)) from None

    def _error(self, what: str) -> BundleError:
        return BundleError(f"{self._listing}: {clipped(what)}", REMAKE)


def _table(row: object) -> list[str]:
    values = vars(row)
    return [f"{name} = {_quoted(value)}" for name, value in values.items() if value]


def _quoted(text: str) -> str:
    # JSON's string escapes are a subset of TOML's basic strings
    return json.dumps(text, ensure_ascii=False)
