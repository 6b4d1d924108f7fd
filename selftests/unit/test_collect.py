"""Making a bundle from a source: what is wanted, what is pulled, what happens when something can't be had."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.bundle import Bundle
from harness.artifacts.collect import REGISTRY_VERSION, collect, images_in, wanted_images
from harness.artifacts.directory import BundleArtifacts
from harness.artifacts.download import Downloader, architecture, k3s_file_name
from harness.artifacts.storage import ImageRef, Storage
from harness.artifacts.upstream import UpstreamArtifacts
from harness.errors import EnvironmentProblem, UsageError
from harness.gitlab.registry_client import INDEX_TYPES, MANIFEST_TYPES, Manifest
from harness.profile import Profile, load_profile
from harness.web import WebProblem

SEED = load_profile("seed")
INDEXED = "quay.io/operator-framework/olm@sha256:"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer_of(image: str) -> bytes:
    """A tar that names its image; of an engine's with dockerd, of the operator's bundle with its CSV."""
    files = {"name": image, "usr/local/bin/dockerd": "#!/bin/sh"}
    if "operatorhubio/gitlab-runner-operator" in image:
        files["manifests/operator.clusterserviceversion.yaml"] = (
            f"[image: 'gcr.io/kubebuilder/kube-rbac-proxy:v0.8.0', env: [value: '{HELPER}']]"
        )
    return tar(files)


def tar(files: Mapping[str, str], mode: str = "w") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


class FakeRegistry:
    """Holds every image that is asked for: one layer that names it; the OLM image behind an index."""

    def __init__(self, missing: str = "\0") -> None:
        self.missing = missing
        self.blobs: dict[str, bytes] = {}
        self.by_digest: dict[str, Manifest] = {}

    def make(self, name: str, *, index: bool = False) -> Manifest:
        layer, config = layer_of(name), b"{}"
        for blob in (layer, config):
            self.blobs[digest_of(blob)] = blob
        entry = {"digest": digest_of(layer), "size": len(layer), "mediaType": "layer"}
        content: dict[str, Any] = {
            "config": {"digest": digest_of(config), "size": len(config), "mediaType": "config"},
            "layers": [entry],
        }
        made = self.keep(content, MANIFEST_TYPES[0])
        if not index:
            return made
        platform = {"os": "linux", "architecture": architecture()}
        return self.keep({"manifests": [{"digest": made.digest, "platform": platform}]}, INDEX_TYPES[0])

    def keep(self, content: Mapping[str, Any], media_type: str) -> Manifest:
        made = Manifest(json.dumps(content).encode(), media_type)
        self.by_digest[made.digest] = made
        return made

    def connect(self, url: str) -> FakeRegistry:
        self.url = url
        return self

    def close(self) -> None:
        pass

    def stored_manifest(self, repository: str, reference: str) -> Manifest:
        if self.missing in repository:
            raise WebProblem(repository, "is gone", "")
        return self.by_digest.get(reference) or self.make(f"{repository}:{reference}")

    def manifest(self, repository: str, reference: str, architecture: str) -> Manifest:
        found = self.stored_manifest(repository, reference)
        if found.media_type in INDEX_TYPES:
            return self.by_digest[found.content["manifests"][0]["digest"]]
        return found

    def exists(self, repository: str, reference: str) -> bool:
        return self.missing not in repository

    def blob_file(self, repository: str, digest: str, downloads: Downloader) -> Path:
        assert downloads.cache is not None
        path = downloads.cache / digest
        path.write_bytes(self.blobs[digest])
        return path


HELPER = f"registry.gitlab.com/gitlab-org/helper@{FakeRegistry().make('helper').digest}"


class Release(Downloader):
    """Serves release files from a dict instead of the network."""

    def __init__(self, folder: Path, pages: Mapping[str, bytes]) -> None:
        super().__init__(folder)
        self.pages = pages
        self.folder = folder

    def fetch(self, url: str, **_: Any) -> Path:
        path = self.folder / url.rpartition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.pages[url.rpartition("/")[2]])
        return path


def release(tmp_path: Path, registry: FakeRegistry, profile: Profile = SEED) -> UpstreamArtifacts:
    archive = tar({"registry": "program"}, "w:gz")
    name = f"registry_{REGISTRY_VERSION}_linux_{architecture()}.tar.gz"
    k3s = b"not really k3s"
    olm = registry.make("olm", index=True)
    registry.make("helper")
    pages = {
        k3s_file_name(): k3s,
        f"sha256sum-{architecture()}.txt": f"{digest_of(k3s)[7:]}  {k3s_file_name()}\n".encode(),
        "k3s-images.txt": b"docker.io/rancher/mirrored-pause:3.6\ndocker.io/rancher/klipper-lb:v0.4.4\n",
        "cert-manager.yaml": b"spec: {containers: [{image: 'quay.io/jetstack/cert-manager-webhook:v1.7.1'}]}",
        "crds.yaml": b"kind: x",
        "olm.yaml": (
            f"image: {INDEXED}{olm.digest[7:]}\n"
            "args: ['--util-image', 'quay.io/operator-framework/util:v1', '--ns', 'olm']\n"
        ).encode(),
        "gitlab-runner-operator.yaml": b"kind: Subscription",
        name: archive,
        f"{name}.sha256": digest_of(archive)[7:].encode(),  # as the release has it: the hash alone
    }
    files = Release(tmp_path / "release", pages)
    return UpstreamArtifacts(profile, files, connect=registry.connect)  # type: ignore[arg-type]


def test_a_bundle_is_whole_and_opens(tmp_path: Path) -> None:
    registry = FakeRegistry()
    said: list[str] = []
    made = collect(release(tmp_path, registry), tmp_path / "out", said.append)
    again = Bundle.open(tmp_path / "out", full=True)
    assert again.profile == "seed"
    assert again.stand_ins == ()
    assert again.file("registry").read_bytes() == b"program"
    assert again.components["k3s"].version == "v1.28.5+k3s1"
    refs = {image.ref for image in made.images}
    assert "docker.io/library/docker:20.10.7-dind" in refs
    assert "docker.io/rancher/mirrored-pause:3.6" in refs
    assert not any("klipper" in ref for ref in refs)


def test_a_bundle_has_what_the_tests_the_node_and_the_csv_name(tmp_path: Path) -> None:
    made = collect(release(tmp_path, FakeRegistry()), tmp_path / "out", print)
    refs = {image.ref for image in made.images}
    assert refs > {
        "docker.io/library/busybox:latest",
        "docker.io/library/registry:2",
        "gcr.io/kaniko-project/executor:v1.23.2-debug",
        HELPER,
    }
    assert not any("opm-builder" in ref for ref in refs)
    with tarfile.open(made.file("docker.tar")) as engine:
        names = engine.getnames()
    assert {"usr/sbin/dockerd", "image/usr/local/bin/dockerd"} <= set(names)


def test_old_olm_needs_the_builder_that_is_compiled_into_it(tmp_path: Path) -> None:
    old = release(tmp_path, FakeRegistry(), load_profile("seed", {"olm": "v0.24.0"}))
    assert "quay.io/operator-framework/upstream-opm-builder:latest" in {it.ref for it in wanted_images(old)}


OLD_K3S = """\
docker.io/rancher/pause:3.1
docker.io/rancher/coredns-coredns:1.8.3
docker.io/rancher/klipper-lb:v0.2.0
"""


def test_images_of_an_old_k3s_are_known_by_their_old_names(tmp_path: Path) -> None:
    source = release(tmp_path, FakeRegistry())
    assert isinstance(source.downloader, Release)
    source.downloader.pages = {**source.downloader.pages, "k3s-images.txt": OLD_K3S.encode()}
    found = {it.ref for it in wanted_images(source) if it.component == "k3s"}
    assert found == {"docker.io/rancher/pause:3.1", "docker.io/rancher/coredns-coredns:1.8.3"}


def test_an_image_named_by_the_digest_of_an_index_keeps_that_digest(tmp_path: Path) -> None:
    registry = FakeRegistry()
    made = collect(release(tmp_path, registry), tmp_path / "out", print)
    olm = next(image for image in made.images if image.ref.startswith(INDEXED))
    assert olm.ref.endswith(olm.digest)
    storage = Storage(tmp_path / "out" / "registry")
    index = json.loads(storage.manifest(ImageRef.parse(olm.ref)))
    platform = f"quay.io/operator-framework/olm@{index['manifests'][0]['digest']}"
    assert storage.check_image(ImageRef.parse(platform), full=True)


def test_an_image_behind_an_index_is_copied_as_this_machines(tmp_path: Path) -> None:
    """Most images of the internet are behind one: the suite pushes a base image from its bundle."""
    artifacts = release(tmp_path, FakeRegistry())
    made = collect(artifacts, tmp_path / "bundle", print)
    olm = next(it for it in made.images if "operator-framework/olm" in it.ref)
    ref = ImageRef.parse(olm.ref)
    opened = BundleArtifacts(made, SEED)
    manifest = opened.image_source(olm.ref).manifest(ref.repository, ref.digest or ref.tag)
    assert manifest.digest != olm.digest
    assert list(opened.image_source(olm.ref).blob(ref.repository, manifest.blobs[0]))
    assert opened.image_configuration(olm.ref) == "{}"


def test_what_the_profile_replaces_may_be_gone(tmp_path: Path) -> None:
    registry = FakeRegistry(missing="kubebuilder/kube-rbac-proxy")
    said: list[str] = []
    made = collect(release(tmp_path, registry), tmp_path / "out", said.append)
    assert any("left out" in line for line in said)
    assert "docker.io/kubesphere/kube-rbac-proxy:v0.8.0" in {image.ref for image in made.images}


def test_nothing_stays_when_a_needed_image_is_gone(tmp_path: Path) -> None:
    registry = FakeRegistry(missing="jetstack")
    with pytest.raises(EnvironmentProblem, match="is gone"):
        collect(release(tmp_path, registry), tmp_path / "out", print)
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_an_existing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        collect(release(tmp_path, FakeRegistry()), tmp_path, print)


def test_images_are_found_in_fields_and_arguments() -> None:
    text = """
    spec:
      containers:
      - image: quay.io/a/b:v1
        args: [--acme-http01-solver-image=quay.io/a/solver:v1, --url=https://x.y/z:1, --v=2, "$(A).b/c:d e"]
        env: [{name: X, value: quay.io/not/this:v1}]
    """
    assert images_in(text) == ["quay.io/a/b:v1", "quay.io/a/solver:v1"]


def test_prepulled_images_are_among_the_wanted(tmp_path: Path) -> None:
    components = {it.ref: it.component for it in wanted_images(release(tmp_path, FakeRegistry()))}
    runner = "registry.gitlab.com/gitlab-org/ci-cd/gitlab-runner-ubi-images/gitlab-runner-ocp:v16.0.1"
    assert components[runner] == "runner"


def test_the_first_replacement_that_is_there_goes_into_a_bundle(tmp_path: Path) -> None:
    registry = FakeRegistry(missing="kubesphere")
    refs = {it.ref for it in wanted_images(release(tmp_path, registry))}
    assert "quay.io/brancz/kube-rbac-proxy:v0.8.0" in refs
    assert not any("kubesphere" in ref for ref in refs)
