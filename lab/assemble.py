"""A bundle directory out of the steps' results: made beside its place, and put there in one move."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from harness.artifacts.bundle import REAL, STAND_IN, Bundle, BundleComponent, BundleFile, BundleImage
from harness.artifacts.storage import OCI_CONFIG, OCI_LAYER, ImageRef, Storage, sha256_file
from lab import debian
from lab.definitions import ImageSpec, filled
from lab.errors import MORE_SPACE, NO_SPACE, LabError
from lab.images import CREATED, file_source
from lab.node import NODE_ENGINE
from lab.recipe import GO, Recipe
from lab.standins.k3s import pack as k3s_pack
from lab.steps import BuildStep, StepRunner

AT_FDCWD = -100
RENAME_EXCHANGE = 2
DIGEST_MARK = re.compile(r"\{\{digest:([^}]+)\}\}")


def assemble(recipe: Recipe, runner: StepRunner, out: Path) -> None:
    """Write the bundle beside `out` and put it in its place; `out` is whole before and after."""
    temporary = out.with_name(f".{out.name}.making")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write(recipe, runner, temporary)
        _put_in_place(temporary, out)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise LabError(
                f"{NO_SPACE} while writing {out}", f"{MORE_SPACE}; the old one is as it was"
            ) from None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_place(out: Path) -> None:
    """Refuse to write where something else is. Raises LabError."""
    if out.exists() and not (out / "bundle.toml").exists() and (not out.is_dir() or any(out.iterdir())):
        raise LabError(f"{out} is there already and is no bundle", "name another --out, or remove it")


def _write(recipe: Recipe, runner: StepRunner, place: Path) -> None:
    paths = {step: runner.path(step) for step in recipe.all_steps()}
    storage = Storage(place / "registry")
    images = [
        image
        for spec, step in recipe.images.items()
        for image in _put_image(storage, spec, step, recipe, paths)
    ]
    digests = {image.ref: image.digest for image in images}
    (place / "files").mkdir()
    files = [_put_file(place, "files/k3s", "k3s", paths[recipe.k3s] / "k3s")]
    files.append(
        _put_file(
            place,
            "files/registry",
            "registry",
            paths[recipe.layers["registry"]] / "root/usr/bin/docker-registry",
        )
    )
    for spec in recipe.definitions.files:
        source = file_source(spec, recipe.named, paths)
        if source.suffix in (".yaml", ".yml"):
            parts = [source, *(spec.folder / name for name in spec.also)]
            (place / spec.path).write_text(_text(parts, recipe.definitions.variables, digests))
            files.append(BundleFile(spec.path, spec.component, sha256_file(place / spec.path)))
        else:
            files.append(_put_file(place, spec.path, spec.component, source))
    Bundle(
        place,
        recipe.versions.profile,
        "amd64",
        datetime.fromisoformat(CREATED),
        _components(recipe, paths),
        tuple(files),
        tuple(images),
    ).write()
    Bundle.read(place)  # a file of a component that is none would be found by its first user


def _put_image(
    storage: Storage, spec: ImageSpec, step: BuildStep, recipe: Recipe, paths: Mapping[BuildStep, Path]
) -> list[BundleImage]:
    result = paths[step]
    manifest = (result / "manifest.json").read_bytes()
    described = [entry["digest"] for entry in json.loads(manifest)["layers"]]
    tars = [paths[recipe.layers[name]] / "layer.tar" for name in spec.layers]
    if (result / "layer.tar").exists():
        tars.append(result / "layer.tar")
    for tar, digest in zip(tars, described, strict=True):
        storage.put_blob(tar, OCI_LAYER, digest)
    storage.put_blob((result / "config.json").read_bytes(), OCI_CONFIG)
    images = []
    for text in spec.refs:
        ref = ImageRef.parse(text)
        digest = storage.put_manifest(ref.repository, manifest, ref.tag)
        images.append(BundleImage(text, spec.component, digest))
    return images


def _put_file(place: Path, path: str, component: str, source: Path) -> BundleFile:
    shutil.copy(source, place / path)
    return BundleFile(path, component, sha256_file(place / path))


def _text(parts: Sequence[Path], variables: Mapping[str, str], digests: Mapping[str, str]) -> str:
    """A manifest out of its parts, its marks filled in."""
    text = filled("".join(part.read_text() for part in parts), variables)
    return DIGEST_MARK.sub(lambda mark: _digest_of(mark[1], digests, parts[0]), text)


def _digest_of(ref: str, digests: Mapping[str, str], source: Path) -> str:
    if ref not in digests:
        raise LabError(f"{source} asks for the digest of {ref}, which is not among the images")
    return digests[ref]


def _components(recipe: Recipe, paths: Mapping[BuildStep, Path]) -> dict[str, BundleComponent]:
    versions = recipe.versions
    found = [
        BundleComponent("k3s", versions.k3s, STAND_IN, "launcher of the lab (lab/standins/k3s)"),
        BundleComponent(
            "kubernetes", versions.kubernetes, REAL,
            f"Go modules k8s.io/kubernetes {versions.kubernetes}, {_etcd(versions.minor)}",
        ),
    ]  # fmt: skip
    for deb, take in (("k3s", k3s_pack.DEBIAN_PACKAGES), ("docker-engine", NODE_ENGINE)):
        packages = debian.versions(debian.read_packages(paths[recipe.debs[deb]]))
        found += [
            BundleComponent(name, packages[name], REAL, f"Debian package {name} {packages[name]}")
            for name in take
            if not name.startswith("lib") and name in packages
        ]
    for spec in recipe.images:
        source = spec.source or f"stand-in of the lab (lab/standins/{spec.folder.name})"
        found.append(BundleComponent(spec.component, spec.version, spec.provenance, source, spec.stands_for))
    for name, step in recipe.layers.items():
        if detail := _layer_content(paths[step]):
            found.append(BundleComponent(f"layer-{name}", "lab1", REAL, detail))
    components: dict[str, BundleComponent] = {}
    for component in found:
        components.setdefault(component.name, _for_profile(component, versions.asked_for))
    return components


def _for_profile(component: BundleComponent, asked_for: Mapping[str, str]) -> BundleComponent:
    """What the component stands for, where the profile asks for another version."""
    wanted = asked_for.get(component.name, "")
    if not wanted or wanted.removeprefix("v") == component.version.removeprefix("v"):
        return component
    return replace(component, stands_for=wanted)


def _layer_content(layer: Path) -> str:
    packages = json.loads((layer / "packages.json").read_text())
    parts = []
    if packages:
        parts.append("Debian: " + " ".join(f"{p['name']}={p['version']}" for p in packages))
    if (layer / "wheels.txt").exists():
        lines = (layer / "wheels.txt").read_text().splitlines()
        parts.append("PyPI: " + " ".join(line for line in lines if not line.startswith("#")))
    return "; ".join(parts)


def _etcd(minor: str) -> str:
    module = "go.etcd.io/etcd/server/v3"
    text = (GO / "kubernetes" / f"v{minor}" / "go.mod").read_text()
    found = re.search(rf"{re.escape(module)} (\S+)", text)
    return f"{module} {found[1]}" if found else module


def _put_in_place(made: Path, out: Path) -> None:
    """Swap in one system call where there is a bundle already, so that no reader ever finds none."""
    if not out.exists():
        made.rename(out)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(made), AT_FDCWD, os.fsencode(out), RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(out))
