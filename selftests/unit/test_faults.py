"""The fault catalogue on a small bundle: each fault breaks its copy in the way it says, and nothing else."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.bundle import REAL, Bundle, BundleComponent, BundleError, BundleFile, BundleImage
from harness.artifacts.storage import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, ImageRef, Storage, sha256_file
from harness.errors import HarnessError
from harness.profile import PROFILES_DIR, load_profile
from selftests.faults import catalogue as faults
from selftests.faults.catalogue import FAULTS, FaultTarget, inject
from selftests.faults.fault import REFUSED, Fault
from selftests.faults.steps import Corrupt, Edit, FaultError, Patch, Stack, Withhold

FILES = {
    "files/k3s": "#!/bin/sh\necho k3s\n",
    "files/cert-manager.yaml": "cert-manager.io/inject-ca-from-secret: x\n",
    "files/olm.yaml": "name: operatorhubio-catalog\n",
    "files/crds.yaml": "name: operatorgroups.operators.coreos.com\n",
}
TWIN = "docker.io/library/docker:another"
"""A second tag in a repository of which a fault withholds the first."""


def refs() -> list[str]:
    used = {step.ref for fault in FAULTS.values() for step in fault.bundle if hasattr(step, "ref")}
    return sorted(used | {TWIN, "docker.io/library/alpine:latest"})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle with every file and image that the catalogue breaks."""
    path = tmp_path_factory.mktemp("bundle")
    for name, text in FILES.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(text)
    storage = Storage(path / "registry")
    images = []
    for ref in refs():
        config = storage.put_blob(b"{}", OCI_CONFIG)
        layers = [storage.put_blob(ref.encode() * n, OCI_LAYER) for n in (1, 9)]
        content = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.as_json()}
        manifest = json.dumps({**content, "layers": [layer.as_json() for layer in layers]})
        parsed = ImageRef.parse(ref)
        images.append(
            BundleImage(ref, "k3s", storage.put_manifest(parsed.repository, manifest.encode(), parsed.tag))
        )
    files = tuple(BundleFile(name, "k3s", sha256_file(path / name)) for name in FILES)
    part = BundleComponent("k3s", "v1", REAL, "a test")
    Bundle(path, "seed", "amd64", datetime.now(UTC), {"k3s": part}, files, tuple(images)).write()
    Bundle.open(path, full=True, machine="x86_64")
    return path


def contents(path: Path) -> dict[str, str]:
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in path.rglob("*")
        if p.is_file()
    }


def on_bundle(*, refused: bool) -> list[Fault]:
    return [f for f in FAULTS.values() if f.bundle and (f.red == REFUSED) is refused]


@pytest.mark.parametrize("fault", on_bundle(refused=True), ids=lambda f: f.name)
def test_a_damaged_bundle_is_refused_for_the_reason_given(fault: Fault, bundle: Path, tmp_path: Path) -> None:
    before = contents(bundle)
    inject(fault, FaultTarget(bundle=bundle, out=tmp_path / "out"))
    with pytest.raises(BundleError) as raised:
        Bundle.open(tmp_path / "out", machine="x86_64")
    assert re.search(fault.reason, raised.value.message)
    assert contents(bundle) == before


@pytest.mark.parametrize("fault", on_bundle(refused=False), ids=lambda f: f.name)
def test_the_others_pass_for_whole_and_differ(fault: Fault, bundle: Path, tmp_path: Path) -> None:
    """So the run gets as far as the outcome that has to turn red."""
    before = contents(bundle)
    inject(fault, FaultTarget(bundle=bundle, out=tmp_path / "out"))
    Bundle.open(tmp_path / "out", machine="x86_64")
    assert contents(tmp_path / "out") != before
    assert contents(bundle) == before


def test_a_withheld_image_is_gone_by_tag_and_digest_and_its_neighbours_stay(
    bundle: Path, tmp_path: Path
) -> None:
    ref = ImageRef.parse("docker.io/library/docker:latest")
    digest = Storage(bundle / "registry").digest(ref)
    inject(Fault("none", "", "", ""), FaultTarget(bundle=bundle, out=tmp_path / "out"))
    Withhold(str(ref)).damage(tmp_path / "out")
    left = Storage(tmp_path / "out/registry")
    assert "latest" not in left.tags(ref.repository)
    assert not _served(left, ImageRef(ref.repository, digest=digest))
    assert left.check_image(ImageRef.parse(TWIN), full=True)


def test_a_digest_that_another_tag_has_stays(bundle: Path, tmp_path: Path) -> None:
    """Three operator versions are one image in the lab."""
    inject(Fault("none", "", "", ""), FaultTarget(bundle=bundle, out=tmp_path / "out"))
    storage = Storage(tmp_path / "out/registry")
    manifest = storage.manifest(ImageRef.parse(TWIN))
    digest = storage.put_manifest("docker.io/library/docker", manifest, "third")
    Withhold(TWIN).damage(tmp_path / "out")
    assert storage.check_image(ImageRef("docker.io/library/docker", digest=digest), full=True)


def _served(storage: Storage, ref: ImageRef) -> bool:
    repository = storage.root / "docker/registry/v2/repositories" / ref.repository
    return (repository / "_manifests/revisions" / ref.digest.replace(":", "/") / "link").exists()


def test_a_corrupt_layer_has_its_size_and_another_digest(bundle: Path, tmp_path: Path) -> None:
    inject(FAULTS["layer-corrupt"], FaultTarget(bundle=bundle, out=tmp_path / "out"))
    (step,) = FAULTS["layer-corrupt"].bundle
    assert isinstance(step, Corrupt)
    storage = Storage(tmp_path / "out/registry")
    storage.check_image(ImageRef.parse(step.ref), full=False)
    with pytest.raises(BundleError, match="does not match its digest"):
        Bundle.open(tmp_path / "out", full=True, machine="x86_64")


def test_what_cannot_be_broken_is_said_and_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    nothing = Fault("n", "", "", "", bundle=(Edit("files/k3s", "no such text", ""),))
    with pytest.raises(FaultError, match="does not contain 'no such text'"):
        inject(nothing, FaultTarget(bundle=bundle, out=tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_changed_profile_is_still_one(tmp_path: Path) -> None:
    seed = PROFILES_DIR / "seed.toml"
    inject(FAULTS["wrong-channel"], FaultTarget(profile=seed, out=tmp_path / "out.toml"))
    assert load_profile(tmp_path / "out.toml").operator.channel == "beta"
    assert load_profile(seed).operator.channel == "stable"


@dataclass
class Api:
    """Objects of one kind, and what was patched."""

    objects: list[dict[str, Any]]
    patched: list[tuple[str, str | None, Any]] = field(default_factory=list)

    def list(self, kind: str, namespace: str | None, *, label_selector: str) -> list[dict[str, Any]]:
        return self.objects

    def patch(self, kind: str, name: str, namespace: str | None, patch: Any) -> None:
        self.patched.append((name, namespace, patch))


def test_a_patch_by_label_strikes_every_object_and_says_when_there_is_none() -> None:
    api = Api([{"metadata": {"name": "webhook"}}, {"metadata": {"name": "role", "namespace": "demo"}}])
    step = Patch("k", {"a": 1}, label="l=v")
    step.strike(Stack(api, None))  # type: ignore[arg-type]
    assert api.patched == [("webhook", None, {"a": 1}), ("role", "demo", {"a": 1})]
    with pytest.raises(HarnessError, match="a k that carries l=v"):
        step.strike(Stack(Api([]), None))  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", list(FAULTS.values()), ids=lambda f: f.name)
def test_every_fault_is_whole(fault: Fault) -> None:
    assert fault.what
    assert fault.bundle or fault.profile or fault.stack
    assert bool(fault.stack) == bool(fault.after)
    assert re.fullmatch(r"refused|[a-z0-9.-]+(/[a-z0-9.-]+)+", fault.red)
    re.compile(fault.reason)
    assert fault.reason


def test_list_names_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert faults.main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(FAULTS)


def test_what_must_turn_red_is_an_outcome_of_the_suite() -> None:
    declared = [
        re.escape(found).replace(r"\{variant\}", "[a-z-]+/[a-z-]+")
        for path in (Path(__file__).parents[2] / "tests").rglob("*.py")
        for found in re.findall(r'mark\.outcome\(\s*"([^"]+)"', path.read_text())
    ]
    for fault in FAULTS.values():
        if fault.red != REFUSED and not fault.red.startswith("provision/"):
            assert any(re.fullmatch(one, fault.red) for one in declared), fault.red
