"""Making a bundle on a connected machine: release files, and every image that the documented chain pulls."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from harness.artifacts import MANIFESTS
from harness.artifacts.bundle import REAL, Bundle, BundleComponent, BundleFile, BundleImage
from harness.artifacts.download import architecture
from harness.artifacts.storage import ImageRef, Storage, sha256_file
from harness.artifacts.upstream import UpstreamArtifacts, checksum_of
from harness.errors import EnvironmentProblem, UsageError
from harness.stack import images as prepulled
from harness.web import WebProblem

REGISTRY_VERSION = "2.8.3"
"""Newest of the 2.x line of distribution; its release has a static binary and a checksum."""

Report = Callable[[str], None]

_K3S_IMAGES = ("pause", "coredns")
"""Of the images of a k3s release the ones that start with what the harness disables left out; newer releases
call them mirrored-…"""
_OLM_EXTRA = ("quay.io/operator-framework/configmap-operator-registry:latest",)


@dataclass(frozen=True)
class Wanted:
    """An image, the component that it belongs to, and whether a bundle is of use without it."""

    ref: str
    component: str
    optional: bool = False


def collect(source: UpstreamArtifacts, out: Path, report: Report) -> Bundle:
    """Make the bundle ``out`` from ``source``; it appears when it is whole.

    Raises UsageError when ``out`` exists, EnvironmentProblem when something needed can't be had: what was
    fetched by then stays in the download cache, and the next call goes on with it.
    """
    if out.exists():
        raise UsageError(f"{out} exists already", "name a directory that doesn't")
    place = out.with_name(f".{out.name}.part")
    shutil.rmtree(place, ignore_errors=True)
    (place / "files").mkdir(parents=True)
    try:
        files = list(_files(source, place, report))
        storage = Storage(place / "registry")
        pulled = _pull_all(source, wanted_images(source), storage, report)
        pulled += _pull_all(source, _named_in_csv(source, pulled, storage), storage, report)
        Bundle(
            path=place,
            profile=source.profile.name,
            architecture=architecture(),
            created=datetime.now(UTC).replace(microsecond=0),
            components=_components(source, pulled),
            files=tuple(files),
            images=tuple(pulled),
        ).write()
        Bundle.open(place)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    place.rename(out)
    return Bundle.read(out)


def _files(source: UpstreamArtifacts, place: Path, report: Report) -> Iterable[BundleFile]:
    components = {"cert-manager.yaml": "cert-manager", "gitlab-runner-operator.yaml": "operator"}
    for name in MANIFESTS:
        report(f"file {name}")
        yield _take(source.manifest(name), place, name, components.get(name, "olm"))
    report("file k3s")
    yield _take(source.k3s(), place, "k3s", "k3s")
    report("file registry")
    yield _take(_registry_program(source, place), place, "registry", "registry")
    report("file docker.tar")
    if (engine := source.docker_engine()) is not None:
        yield _take(engine, place, "docker.tar", "docker-engine")


def _take(path: Path, place: Path, name: str, component: str) -> BundleFile:
    target = place / "files" / name
    if path != target:
        shutil.copy(path, target)
    return BundleFile(f"files/{name}", component, sha256_file(target))


def _registry_program(source: UpstreamArtifacts, place: Path) -> Path:
    """distribution's own binary, checked against its release's checksum."""
    name = f"registry_{REGISTRY_VERSION}_linux_{architecture()}.tar.gz"
    base = f"{source.github}/distribution/distribution/releases/download/v{REGISTRY_VERSION}/"
    sums = source.downloader.text(f"{base}{name}.sha256")
    archive = source.downloader.fetch(base + name, sha256=checksum_of(name, sums, base))
    target = place / "files" / "registry"
    with tarfile.open(archive) as packed:
        member = packed.extractfile("registry")
        if member is None:
            raise EnvironmentProblem(f"{name} holds no program `registry`")
        target.write_bytes(member.read())
    target.chmod(0o755)
    return target


# -- images -----------------------------------------------------------------------------------------------


def wanted_images(source: UpstreamArtifacts) -> list[Wanted]:
    """Every image of the chain, by what the release files and the profile say."""
    profile = source.profile
    listing = source.downloader.text(source.k3s_url("k3s-images.txt")).split()
    found = [Wanted(ref, "k3s") for ref in listing if _starts_always(ref)]
    for name, component in (("cert-manager.yaml", "cert-manager"), ("olm.yaml", "olm")):
        found += [Wanted(ref, component) for ref in images_in(source.manifest(name).read_text())]
    found += [Wanted(ref, "olm") for ref in _OLM_EXTRA]
    jobs = prepulled.job_images(profile)
    profile = profile.with_images(
        {old: source.first_image(new) for old, new in profile.image_alternatives.items() if len(new) > 1}
    )
    found += [Wanted(ref, _component_of(ref)) for ref in prepulled.wanted(profile) if ref not in jobs]
    found += [Wanted(ref, "jobs") for ref in (*jobs, *prepulled.of_tests())]
    return list({it.ref: it for it in found if it.ref not in profile.image_substitutions}.values())


def _starts_always(ref: str) -> bool:
    return ref.rpartition("/")[2].removeprefix("mirrored-").startswith(_K3S_IMAGES)


def _named_in_csv(
    source: UpstreamArtifacts, pulled: Iterable[BundleImage], storage: Storage
) -> Iterator[Wanted]:
    """What the operator's CSV, a file of the operator's bundle image, names and nobody asked for yet."""
    have = {image.ref for image in pulled}
    for image in pulled:
        if "operatorhubio/gitlab-runner-operator" not in image.ref:
            continue
        for text in _manifests_of(ImageRef.parse(image.ref), storage):
            for ref in images_in(text):
                if ref not in have:
                    gone = ref in source.profile.image_substitutions  # its replacement is there
                    yield Wanted(ref, _component_of(ref), optional=gone)


def _manifests_of(ref: ImageRef, storage: Storage) -> Iterator[str]:
    """The YAML files below manifests/ in an image."""
    content = json.loads(storage.manifest(ref))
    for child in content.get("manifests", ()):
        if storage.blob_path(child["digest"]).exists():
            content = json.loads(storage.blob_path(child["digest"]).read_bytes())
    for layer in content["layers"]:
        with tarfile.open(storage.blob_path(layer["digest"])) as archive:
            for member in archive:
                inside = member.name.removeprefix("./").startswith("manifests/")
                if inside and member.isfile() and (file := archive.extractfile(member)) is not None:
                    yield file.read().decode(errors="replace")


def images_in(manifests: str) -> list[str]:
    """Image references in a release's YAML, with their registry's host: those of containers and of arguments,
    and anything that names an image by digest."""
    found: dict[str, None] = {}

    def look(value: object, key: str = "") -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                look(inner, str(name))
        elif isinstance(value, list):
            for inner in value:
                look(inner, key)
        elif isinstance(value, str):
            text = value.partition("=")[2] if value.startswith("--") else value
            named = key in ("image", "args", "command") or "@sha256:" in text
            if named and _is_reference(text):
                found[text] = None

    for document in yaml.safe_load_all(manifests):
        look(document)
    return list(found)


def _is_reference(text: str) -> bool:
    host = text.partition("/")[0]
    return (
        "." in host and "/" in text and (":" in text or "@" in text) and "://" not in text and " " not in text
    )


def _component_of(ref: str) -> str:
    if "gitlab-runner-helper" in ref or "gitlab-runner-ocp" in ref:
        return "runner"
    if "kube-rbac-proxy" in ref:
        return "kube-rbac-proxy"
    return "operator" if "gitlab" in ref else "olm"


def _pull_all(
    source: UpstreamArtifacts, wanted: Iterable[Wanted], storage: Storage, report: Report
) -> list[BundleImage]:
    found = []
    for image in wanted:
        report(f"image {image.ref}")
        try:
            digest = source.registries.copy(ImageRef.parse(image.ref), storage)
        except WebProblem as error:
            if not image.optional or error.passing:
                raise
            report(f"left out, it can't be had: {error.message}")
            continue
        found.append(BundleImage(image.ref, image.component, digest))
    return found


def _components(source: UpstreamArtifacts, pulled: Iterable[BundleImage]) -> Mapping[str, BundleComponent]:
    versions = {**source.profile.requested, "registry": REGISTRY_VERSION}
    versions["docker-engine"] = prepulled.engine_image(source.profile).rpartition(":")[2]
    for image in pulled:
        versions.setdefault(image.component, image.ref.rpartition(":")[2])
    return {name: BundleComponent(name, version, REAL, source.source) for name, version in versions.items()}
