"""Release files of the pretend sites, made of a bundle's files: path below the host → file."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from harness.artifacts.bundle import Bundle
from harness.artifacts.collect import REGISTRY_VERSION

SUBSCRIPTION = "/install/stable/gitlab-runner-operator.yaml"


def github(bundle: Bundle, directory: Path) -> Mapping[str, Path]:
    """What GitHub's releases of the projects hold."""
    version = {name: component.version for name, component in bundle.components.items()}
    k3s = f"/k3s-io/k3s/releases/download/{version['k3s']}"
    olm = f"/operator-framework/operator-lifecycle-manager/releases/download/{version['olm']}"
    cert_manager = f"/cert-manager/cert-manager/releases/download/{version['cert-manager']}"
    registry = f"/distribution/distribution/releases/download/v{REGISTRY_VERSION}"
    archive = _registry_archive(bundle, directory)
    return {
        **{f"{k3s}/{name}": path for name, path in k3s_files(bundle, directory).items()},
        f"{cert_manager}/cert-manager.yaml": bundle.file("cert-manager.yaml"),
        f"{olm}/crds.yaml": bundle.file("crds.yaml"),
        f"{olm}/olm.yaml": bundle.file("olm.yaml"),
        f"{registry}/{archive.name}": archive,
        f"{registry}/{archive.name}.sha256": _written(directory, f"{archive.name}.sha256", _sha256(archive)),
    }


def k3s_files(bundle: Bundle, directory: Path) -> Mapping[str, Path]:
    """The files of the k3s release that matter here, by name."""
    program = bundle.file("k3s")
    sums = f"{'0' * 64}  k3s-airgap-images-amd64.tar\n{_sha256(program)}  k3s\n{'1' * 64}  k3s-images.txt\n"
    images = [image.ref for image in bundle.images if image.ref.startswith("docker.io/rancher/")]
    others = ["docker.io/rancher/klipper-helm:v0.8.2-build20230815", "docker.io/rancher/klipper-lb:v0.4.4"]
    return {
        "k3s": program,
        "sha256sum-amd64.txt": _written(directory, "sha256sum-amd64.txt", sums),
        "k3s-images.txt": _written(directory, "k3s-images.txt", "\n".join([*others, *images]) + "\n"),
    }


def china(bundle: Bundle, directory: Path) -> Mapping[str, Path]:
    """What Rancher's mirror holds: the "+" of a version is a "-" there."""
    version = bundle.components["k3s"].version.replace("+", "-")
    return {f"/k3s/{version}/{name}": path for name, path in k3s_files(bundle, directory).items()}


def found(files: Mapping[str, Path], path: str) -> Path | None:
    """The file at an URL's path, however it is quoted."""
    return files.get(unquote(path))


def _registry_archive(bundle: Bundle, directory: Path) -> Path:
    target = directory / f"registry_{REGISTRY_VERSION}_linux_amd64.tar.gz"
    with tarfile.open(target, "w:gz", compresslevel=1) as archive:
        archive.add(bundle.file("registry"), "registry")
    return target


def _written(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
