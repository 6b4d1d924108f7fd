"""The `image.toml` files: what goes into which image. One in each directory of `standins/` and `images/`.

[render]                        # optional: files that are generated, not kept
script = "generate.py"          # run as `python generate.py OUTDIR VALUES.json`: {variables, digests}
digests = { "2026" = ["…:v2"] } # generation → references whose digests it asks for
[[image]]
only = "2026"                   # the generation that it belongs to; none: every
refs = ["quay.io/example/program:v1"]
component = "program"
version = "v1"                  # a component's version is that of its first image
stands_for = ""                 # where the version is not the profile's
layers = ["base", "python"]     # of layers.toml; none: an image of its own files only
copy = { "rootfs" = "/" }       # path in this directory, `rendered:<dir>/<path>`, or `step:<step>/<path>`
write = { "/etc/version" = "@runner@" }   # small files: path → text
go = { "helper" = "/bin/helper" }   # Go package in this directory → where its program goes
entrypoint, cmd, user, workdir, env, labels, volumes
writable = ["/home/program"]    # directories made with mode 0777, for an image that does not run as root
[[file]]                        # goes to the bundle's files/
path = "files/x.yaml"
from = "x.yaml"                 # `{{digest:<ref>}}` in it becomes that image's digest
component = "program"
only = "2026"
also = ["y.yaml"]               # files of this directory whose text follows
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lab.errors import LabError

STANDINS = Path(__file__).parent / "standins"
IMAGES = Path(__file__).parent / "images"


@dataclass(frozen=True, eq=False)
class ImageSpec:
    """One image: where its parts come from, and the configuration it carries."""

    folder: Path
    refs: Sequence[str]
    component: str
    version: str
    stands_for: str = ""
    provenance: str = ""
    source: str = ""
    layers: Sequence[str] = ()
    copy: Mapping[str, str] = field(default_factory=dict)
    write: Mapping[str, str] = field(default_factory=dict)
    go: Mapping[str, str] = field(default_factory=dict)
    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    user: str = ""
    workdir: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[str] = ()
    writable: Sequence[str] = ()
    only: str = ""

    @property
    def rendered(self) -> bool:
        """Whether a file of it is generated, perhaps from the digests of other images."""
        return any(source.startswith("rendered:") for source in self.copy)


@dataclass(frozen=True)
class FileSpec:
    """A file that comes with an image and goes to the bundle's files/."""

    folder: Path
    path: str
    source: str
    component: str
    also: Sequence[str] = ()


@dataclass(frozen=True)
class Render:
    """A generator of files, and the references whose digests go into them."""

    script: Path
    digests: Sequence[str] = ()


@dataclass(frozen=True)
class Definitions:
    """All image.toml files together, as far as they belong to one generation."""

    images: tuple[ImageSpec, ...]
    files: tuple[FileSpec, ...]
    renders: Mapping[str, Render]  # directory name → generator
    variables: Mapping[str, str] = field(default_factory=dict)


def read_definitions(
    variables: Mapping[str, str], generation: str = "", roots: Sequence[Path] = (IMAGES, STANDINS)
) -> Definitions:
    """Read every image.toml below the roots; `@name@` is replaced. Raises LabError naming the file."""
    images: list[ImageSpec] = []
    files: list[FileSpec] = []
    renders: dict[str, Render] = {}
    for path in sorted(p for root in roots for p in root.glob("*/image.toml")):
        document = _load(path, variables)
        if render := document.pop("render", None):
            wanted = render.get("digests", {}).get(generation, [])
            renders[path.parent.name] = Render(path.parent / render["script"], tuple(wanted))
        images += [_image(path, table) for table in _of(generation, document.pop("image", []))]
        files += [_file(path, table) for table in _of(generation, document.pop("file", []))]
        if document:
            raise LabError(f"{path}: unknown field {sorted(document)[0]!r}")
    _no_ref_twice(images)
    return Definitions(tuple(images), tuple(files), renders, variables)


def _of(generation: str, tables: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [table for table in tables if table.get("only", generation) == generation]


def _load(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    text = filled(path.read_text(), variables)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LabError(f"{path}: {error}") from None


def filled(text: str, variables: Mapping[str, str]) -> str:
    """The text with `@name@` replaced."""
    for name, value in variables.items():
        text = text.replace(f"@{name}@", value)
    return text


def _image(path: Path, table: Mapping[str, Any]) -> ImageSpec:
    known = {f.name for f in fields(ImageSpec)} - {"folder"}
    if unknown := sorted(table.keys() - known):
        raise LabError(
            f"{path}: unknown field {unknown[0]!r} in an [[image]] (known: {', '.join(sorted(known))})"
        )
    if missing := [name for name in ("refs", "component", "version") if not table.get(name)]:
        raise LabError(f"{path}: field {missing[0]!r} of an [[image]] is missing")
    # nothing below standins/ is the real program, whatever its image.toml says
    own = "stand-in" if path.parent.parent.name == "standins" else table.get("provenance", "real")
    return ImageSpec(path.parent, **{**table, "provenance": own})


def _file(path: Path, table: Mapping[str, Any]) -> FileSpec:
    if set(table) - {"only", "also"} != {"path", "from", "component"}:
        raise LabError(
            f"{path}: a [[file]] has the fields path, from, component and perhaps only and also; this one "
            + ", ".join(table)
        )
    return FileSpec(
        path.parent, table["path"], table["from"], table["component"], tuple(table.get("also", ()))
    )


def _no_ref_twice(images: Sequence[ImageSpec]) -> None:
    seen: dict[str, ImageSpec] = {}
    for image in images:
        for ref in image.refs:
            if ref in seen:
                raise LabError(f"{ref} is defined twice, in {seen[ref].folder} and in {image.folder}")
            seen[ref] = image
