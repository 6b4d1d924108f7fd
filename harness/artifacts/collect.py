"""Making a bundle on a connected machine: release files, and every image that the documented chain pulls."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from harness.artifacts import MANIFESTS
from harness.artifacts.bundle import REAL, Bundle, BundleFile, BundleImage, Component
from harness.artifacts.download import architecture
from harness.artifacts.storage import ImageRef, Storage, sha256_file
from harness.artifacts.upstream import UpstreamArtifacts, checksum_of
from harness.errors import EnvironmentProblem, HarnessError, UsageError
from harness.gitlab.registry_client import RegistryClient
from harness.stack import images as prepulled

REGISTRY_VERSION = "2.8.3"
"""Newest of the 2.x line of distribution; its release has a static binary and a checksum."""

Report = Callable[[str], None]
Connect = Callable[[str], RegistryClient]
"""Registry host of an image reference → a client for where it is pulled from."""

_HOSTS = {"docker.io": "registry-1.docker.io"}
_K3S_IMAGES = ("mirrored-pause", "mirrored-coredns")
"""Of the images of a k3s release the ones that start with what the harness disables left out."""
_JOBS = (
    "docker.io/library/docker:latest",
    "docker.io/library/docker:20.10.7-dind",
    "docker.io/library/alpine:latest",
    "docker.io/library/registry:2",
    "gcr.io/kaniko-project/executor:debug",
)
_OLM_EXTRA = ("quay.io/operator-framework/configmap-operator-registry:latest",)


@dataclass(frozen=True)
class Wanted:
    """An image, the component that it belongs to, and whether a bundle is of use without it."""

    ref: str
    component: str
    optional: bool = False


def collect(source: UpstreamArtifacts, out: Path, report: Report, connect: Connect | None = None) -> Bundle:
    """Make the bundle ``out`` from ``source``; it appears when it is whole.

    Raises UsageError when ``out`` exists, EnvironmentProblem when something needed can't be had.
    """
    if out.exists():
        raise UsageError(f"{out} exists already", "name a directory that doesn't")
    place = out.with_name(f".{out.name}.part")
    shutil.rmtree(place, ignore_errors=True)
    (place / "files").mkdir(parents=True)
    try:
        files = list(_files(source, place, report))
        storage = Storage(place / "registry")
        pulled = _pull_all(wanted_images(source), storage, report, connect or _connector(source))
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
    found = [Wanted(ref, "k3s") for ref in listing if any(name in ref for name in _K3S_IMAGES)]
    for name, component in (("cert-manager.yaml", "cert-manager"), ("olm.yaml", "olm")):
        found += [Wanted(ref, component) for ref in images_in(source.manifest(name).read_text())]
    found += [Wanted(ref, "olm") for ref in _OLM_EXTRA]
    found += [Wanted(ref, _component_of(ref)) for ref in prepulled.wanted(profile)]
    found += [Wanted(ref, "kube-rbac-proxy", optional=True) for ref in profile.image_substitutions]
    found += [Wanted(ref, "jobs", optional="kaniko" in ref) for ref in _JOBS]
    return list({it.ref: it for it in reversed(found)}.values())[::-1]


def images_in(manifests: str) -> list[str]:
    """Image references of containers and of arguments in a release's YAML, with their registry's host."""
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
            if key in ("image", "args", "command") and _is_reference(text):
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
    return "operator" if "gitlab-runner-operator" in ref else "olm"


def _connector(source: UpstreamArtifacts) -> Connect:
    mirrors = source.registry_endpoints()

    def connect(host: str) -> RegistryClient:
        return RegistryClient(mirrors.get(host, (f"https://{_HOSTS.get(host, host)}",))[0])

    return connect


def _pull_all(
    wanted: Iterable[Wanted], storage: Storage, report: Report, connect: Connect
) -> list[BundleImage]:
    found = []
    for image in wanted:
        report(f"image {image.ref}")
        try:
            digest = pull(ImageRef.parse(image.ref), storage, connect)
        except HarnessError as error:
            if not image.optional:
                raise
            report(f"left out, it can't be had: {error.message}")
            continue
        found.append(BundleImage(image.ref, image.component, digest))
    return found


def pull(ref: ImageRef, storage: Storage, connect: Connect) -> str:
    """Copy an image into the storage, of an index this machine's architecture; the digest of ``ref``."""
    host, _, path = ref.repository.partition("/")
    with connect(host) as client:
        stored = client.stored_manifest(path, ref.digest or ref.tag)
        manifest = client.manifest(path, stored.digest, architecture())
        for digest in dict.fromkeys(manifest.blobs):
            if not storage.blob_path(digest).exists():
                _store(storage, client, path, digest)
    if manifest.digest != stored.digest:  # an index: it stays what the reference leads to, by its digest
        storage.put_manifest(ref.repository, manifest.raw)
    return storage.put_manifest(ref.repository, stored.raw, ref.tag)


def _store(storage: Storage, client: RegistryClient, path: str, digest: str) -> None:
    partial = storage.root / f"partial-{digest[-16:]}"
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as target:
        for piece in client.blob(path, digest):
            target.write(piece)
    storage.put_blob(partial, digest=digest)
    partial.unlink(missing_ok=True)


def _components(source: UpstreamArtifacts, pulled: Iterable[BundleImage]) -> Mapping[str, Component]:
    versions = {**source.profile.requested, "registry": REGISTRY_VERSION}
    for image in pulled:
        versions.setdefault(image.component, image.ref.rpartition(":")[2])
    return {name: Component(name, version, REAL, source.source) for name, version in versions.items()}
