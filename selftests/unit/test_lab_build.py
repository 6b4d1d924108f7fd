"""The lab's command: needs named first, a good bundle never harmed, nothing done twice."""

from __future__ import annotations

import errno
import io
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.artifacts.bundle import Bundle
from harness.errors import UsageError
from harness.profile import load_profile
from lab import assemble, doctor
from lab.__main__ import main
from lab.build import _mark, _state, cache_home
from lab.definitions import Definitions, FileSpec, ImageSpec, read_definitions
from lab.errors import LabError
from lab.images import REPOSITORY, image_step
from lab.progress import Progress
from lab.recipe import GO, VERSIONS, Recipe, Versions, _check_operator, choose
from lab.steps import BuildStep, StepRunner, Work

REF = "quay.io/a/b:v1"


def write(**files: str) -> Any:
    """A step function that writes files."""

    def build(work: Work) -> None:
        for name, content in files.items():
            target = work.out / name.replace("__", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)

    return build


@pytest.fixture
def runner(tmp_path: Path) -> StepRunner:
    return StepRunner(tmp_path / "cache", Progress(Console(file=io.StringIO())))


@pytest.fixture
def recipe(runner: StepRunner, tmp_path: Path) -> Recipe:
    """A recipe of next to nothing, with every step made."""
    spec = ImageSpec(
        REPOSITORY / "lab", [REF], "b", "v1", provenance="real", copy={"../pyproject.toml": "/x"}
    )
    (tmp_path / "x.yaml").write_text(f"image: quay.io/a/b@{{{{digest:{REF}}}}}\n")
    registry = {"root/usr/bin/docker-registry": "r", "layer.tar": "", "packages.json": "[]"}
    packages = '[{"name": "containerd", "version": "1.6"}]'
    recipe = Recipe(
        replace(VERSIONS["1.28"], asked_for={"k3s": "v1.28.5+k3s1", "b": "v1"}),
        Definitions((spec,), (FileSpec(tmp_path, "files/x.yaml", "step:x/x.yaml", "b"),), {}),
        "go1.26",
        {
            "registry": BuildStep(
                "layer registry", write(**{k.replace("/", "__"): v for k, v in registry.items()})
            )
        },
        {name: BuildStep(name, write(**{"packages.json": packages})) for name in ("k3s", "docker-engine")},
        {"step:x": BuildStep("x", write(**{"x.yaml": (tmp_path / "x.yaml").read_text()}))},
        BuildStep("k3s program", write(k3s="program")),
    )
    recipe.images[spec] = image_step(spec, layers={}, named={}, go=Path("go"))
    registry_image = ImageSpec(
        REPOSITORY / "lab", ["docker.io/library/registry:2"], "registry", "2.8", provenance="real"
    )
    recipe.images[registry_image] = image_step(registry_image, layers={}, named={}, go=Path("go"))
    for step in recipe.all_steps():
        runner.run(step)
    return recipe


def names_beside(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir() if p.name.startswith((path.name, f".{path.name}")))


def test_assembled_bundle_opens(recipe: Recipe, runner: StepRunner, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assemble.assemble(recipe, runner, out)
    bundle = Bundle.open(out, full=True, machine="x86_64")
    assert bundle.components["k3s"].stands_for == "v1.28.5+k3s1"
    assert bundle.components["b"].stands_for == "", "it is the version that the profile asks for"
    assert bundle.stand_ins == ("k3s",)
    assert bundle.file("x.yaml").read_text() == f"image: quay.io/a/b@{bundle.image(REF).digest}\n"
    assert names_beside(out) == ["bundle"]


def test_new_bundle_takes_the_place_of_the_old(recipe: Recipe, runner: StepRunner, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assemble.assemble(recipe, runner, out)
    (out / "files/old").write_text("")
    assemble.assemble(recipe, runner, out)
    assert not (out / "files/old").exists()
    assert names_beside(out) == ["bundle"]


def test_full_disk_leaves_the_old_bundle(
    recipe: Recipe, runner: StepRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    assemble.assemble(recipe, runner, out)
    before = _state(out)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(LabError, match="no space left on the disk while writing") as caught:
        assemble.assemble(recipe, runner, out)
    assert "the old one is as it was" in caught.value.hint
    assert _state(out) == before
    assert names_beside(out) == ["bundle"]


def test_unknown_digest_mark_is_refused(recipe: Recipe, runner: StepRunner, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"asks for the digest of quay\.io/c:v1"):
        assemble._digest_of("quay.io/c:v1", {}, tmp_path)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_other_things_are_not_overwritten(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "precious"
    if kind == "file":
        out.write_text("precious")
    else:
        (out / "sub").mkdir(parents=True)
    with pytest.raises(LabError, match="is there already and is no bundle"):
        assemble.check_place(out)


def test_free_places(tmp_path: Path) -> None:
    assemble.check_place(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    assemble.check_place(tmp_path / "empty")


def test_state_sees_a_changed_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = _state(tmp_path)
    (tmp_path / "a").write_text("22")
    assert _state(tmp_path) != before


def test_marks_of_two_places_are_two(tmp_path: Path) -> None:
    assert _mark(tmp_path, Path("/a")) != _mark(tmp_path, Path("/b"))


def test_cache_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_home() == Path("/somewhere/runner-conformance/lab")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_home() == Path("/home/me/.cache/runner-conformance/lab")


def test_profile_chooses_the_nearest_kubernetes() -> None:
    chosen = choose(None, "seed")
    assert (chosen.minor, chosen.k3s, chosen.profile) == ("1.28", "v1.28.15+lab1", "seed")
    assert chosen.asked_for["cert-manager"] == "v1.7.1"


def test_kubernetes_can_be_chosen_for_a_profile() -> None:
    assert choose("1.37", "seed").cert_manager == "v1.11.5"


@pytest.mark.parametrize(
    ("minor", "profile", "chosen", "generation"),
    [
        (None, None, ("1.28", "seed"), "2024"),
        ("1.37", None, ("1.37", "latest"), "2026"),
        (None, "latest", ("1.37", "latest"), "2026"),
        ("1.37", "seed", ("1.37", "seed"), "2024"),
        ("1.28", "latest", ("1.28", "latest"), "2026"),
    ],
)
def test_the_generation_is_that_of_the_profiles_operator(
    minor: str | None, profile: str | None, chosen: tuple[str, str], generation: str
) -> None:
    found = choose(minor, profile)
    assert ((found.minor, found.profile), found.generation.name) == (chosen, generation)
    assert found.asked_for["operator"] in found.generation.operators


@pytest.mark.parametrize("versions", VERSIONS.values(), ids=list(VERSIONS))
def test_what_is_said_to_be_in_a_bundle_is_what_go_builds(versions: Versions) -> None:
    text = (GO / "kubernetes" / f"v{versions.minor}" / "go.mod").read_text()
    assert f"k8s.io/kubernetes {versions.kubernetes}\n" in text
    assert f"github.com/coredns/coredns {versions.coredns}\n" in text
    assert f"k8s.io/client-go => k8s.io/client-go v0{versions.kubernetes.removeprefix('v1')}\n" in text


def test_helm_s_engine_shares_its_client_with_the_default_kubernetes() -> None:
    text = (GO / "chart" / "go.mod").read_text()
    assert f"k8s.io/client-go v0{VERSIONS['1.28'].kubernetes.removeprefix('v1')} " in text


def test_another_olm_can_be_stood_in_for() -> None:
    assert choose(None, None, "0.22.0").generation.olm == "v0.22.0"


@pytest.mark.parametrize("profile", ["seed", "latest"])
def test_every_image_that_the_profile_needs_is_defined(profile: str) -> None:
    versions = choose(None, profile)
    generation = versions.generation
    variables = {
        "olm": generation.olm, "olm_number": generation.olm[1:], "runner": generation.runner,
        "runner_helper": generation.runner_helper, "docker_cli": generation.docker,
    }  # fmt: skip
    definitions = read_definitions(variables, generation.name)
    refs = {ref for image in definitions.images for ref in image.refs}
    wanted = load_profile(profile)
    jobs = {f"docker.io/library/{image}" for image in (wanted.jobs.docker, wanted.jobs.dind)}
    assert jobs | {wanted.daemonless_image} <= refs
    assert f"quay.io/operatorhubio/gitlab-runner-operator:v{wanted.requested['operator']}" in refs
    assert set(definitions.renders["gitlab_runner_operator"].digests) <= refs


def test_operator_that_the_lab_has_not_is_refused() -> None:
    refs = [f"quay.io/operatorhubio/gitlab-runner-operator:v1.{minor}" for minor in ("15.1", "20.0")]
    definitions = Definitions((ImageSpec(Path(), refs, "operator", "v1.15.1"),), (), {})
    _check_operator(choose(None, "seed"), definitions)
    other = replace(choose(None, "seed"), profile="newest", asked_for={"operator": "1.52.0"})
    with pytest.raises(
        LabError, match=r"'newest' asks for operator 1\.52\.0, the lab has 1\.15\.1, 1\.20\.0"
    ):
        _check_operator(other, definitions)


def test_unknown_profile() -> None:
    with pytest.raises(UsageError):
        choose(None, "no-such-profile")


@pytest.fixture
def poor_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of another kind, no root, nothing installed."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(doctor, "APT_STATE", tmp_path / "lists")
    monkeypatch.setattr(doctor, "FIRST_GIB", 1 << 40)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_all_needs_are_named_before_any_work(poor_machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--out", str(poor_machine / "out")]) == 1
    said = capsys.readouterr().err
    for part in (
        "this is Linux aarch64",
        "you are not root",
        "apt-get, dpkg-deb not found",
        "git not found",
        "GiB free",
    ):
        assert part in said
    assert "apt-get install git" in said
    assert "apt-get update" in said
    assert not (poor_machine / "out").exists()
    assert not (poor_machine / "cache").exists()


def test_doctor_names_the_mends(poor_machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert "git" in said
    assert "MISSING: git not found; mend: apt-get install git" in said
    assert "installs nothing system-wide" in said


def test_doctor_on_this_machine_lists_every_need() -> None:
    titles = [need.title for need in doctor.needs(Path("/tmp"))]
    assert titles[:5] == ["Linux on x86-64", "root", "apt of Debian or Ubuntu", "apt's package lists", "git"]


def test_wrong_kubernetes_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["build", "--kubernetes", "1.99"])
    assert caught.value.code == 2
    assert "1.28" in capsys.readouterr().err
