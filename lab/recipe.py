"""What a bundle of one Kubernetes version is made of: every step, every image, every part's provenance."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.artifacts.storage import ImageRef
from harness.profile import load_profile
from lab import certmanager, debian, kind
from lab.definitions import IMAGES, STANDINS, Definitions, ImageSpec, read_definitions
from lab.dockercli import docker_cli_step
from lab.errors import LabError
from lab.gobuild import find_go, full_go_version, go_step
from lab.images import image_step, render_step
from lab.layers import layer_steps
from lab.node import NODE_ENGINE, docker_engine_step, k3s_step
from lab.standins.k3s import pack as k3s_pack
from lab.steps import BuildStep, StepRunner

GO = Path(__file__).parent / "go"
KIND = Path(__file__).parent / "kind"


@dataclass(frozen=True)
class Generation:
    """Releases that were current together of what the lab stands in for, and the docker client of then."""

    name: str
    olm: str
    runner: str
    runner_revision: str
    runner_helper: str  # what the default helper image's tag ends with
    operators: Sequence[str]  # versions in the catalog's channel, its head last
    docker: str = ""  # of github.com/docker/cli; none: Debian's


FIRST = Generation("2024", "v0.26.0", "16.0.1", "79704081", "79704081", ("1.15.0", "1.15.1", "1.20.0"))
# the revision of a release that is not known here says whose it is
SECOND = Generation("2026", "v0.46.0", "19.4.0", "lab00001", "v19.4.0", ("1.53.0",), "29.7.2")
SECOND_SINCE = (1, 23, 2)  # the operator whose names, images and permissions are as they are today


@dataclass(frozen=True)
class Versions:
    """The versions that go together in one bundle, and the profile that it serves."""

    kubernetes: str
    coredns: str
    cert_manager: str
    cert_manager_module: str
    profile: str = "seed"
    generation: Generation = FIRST
    asked_for: Mapping[str, str] = field(default_factory=dict)  # component → the profile's version
    kind: bool = False  # with kind and an image for its nodes

    @property
    def k3s(self) -> str:
        """What the launcher reports: the upstream version, marked as the lab's."""
        return f"{self.kubernetes}+lab1"

    @property
    def minor(self) -> str:
        """For instance `1.28`."""
        return minor_of(self.kubernetes)


VERSIONS: Mapping[str, Versions] = {
    "1.28": Versions("v1.28.15", "v1.11.1", "v1.7.1", "github.com/jetstack/cert-manager"),
    "1.37": Versions(
        "v1.37.2", "v1.14.6", "v1.11.5", "github.com/cert-manager/cert-manager", "latest", SECOND
    ),
}


KIND_KUBERNETES = "1.28"
"""Of lab/go/kubeadm."""


def minor_of(version: str) -> str:
    """`v1.28.5+k3s1` → `1.28`."""
    return ".".join(version.lstrip("v").split(".")[:2])


def choose(minor: str | None, profile_name: str | None, olm: str = "", *, kind: bool = False) -> Versions:
    """The versions for a Kubernetes minor version and a profile; what is not given follows from the other.

    `olm`: another version of OLM than that which goes with the profile's operator. `kind`: with what kind
    needs. Raises UsageError for a profile that is none.
    """
    profile = load_profile(profile_name or (VERSIONS[minor].profile if minor else "seed"))
    wanted = _number(minor_of(profile.k3s))
    minor = minor or min(VERSIONS, key=lambda known: abs(_number(known) - wanted))
    operator = tuple(int(part) for part in re.findall(r"\d+", profile.requested["operator"])[:3])
    generation = SECOND if operator >= SECOND_SINCE else FIRST
    if olm:
        generation = replace(generation, olm=f"v{olm.removeprefix('v')}")
    if kind and minor != KIND_KUBERNETES:
        raise LabError(
            f"the lab makes nodes of kind with Kubernetes {KIND_KUBERNETES} alone, not {minor}",
            f"leave --kubernetes out, or say --kubernetes {KIND_KUBERNETES}",
        )
    known = replace(VERSIONS[minor], profile=profile.name, generation=generation, kind=kind)
    return replace(known, asked_for=profile.requested)


def _check_operator(versions: Versions, definitions: Definitions) -> None:
    """Refuse a profile whose operator is not in the lab's catalog: nothing in it could stand for that."""
    wanted = versions.asked_for["operator"].removeprefix("v")
    refs = [ImageRef.parse(r) for i in definitions.images if i.component == "operator" for r in i.refs]
    there = sorted({ref.tag.removeprefix("v") for ref in refs})
    if there and wanted not in there:
        raise LabError(
            f"profile {versions.profile!r} asks for operator {wanted}, the lab has {', '.join(there)}",
            "use --profile seed (with --kubernetes for another Kubernetes), or a bundle of the real releases",
        )


def _number(minor: str) -> int:
    return int(minor.split(".")[1])


@dataclass
class Recipe:
    """All steps of a bundle; what it is put together from are the results of `k3s`, `named` and `images`."""

    versions: Versions
    definitions: Definitions
    go_version: str
    layers: Mapping[str, BuildStep]
    debs: Mapping[str, BuildStep]
    named: dict[str, BuildStep]
    k3s: BuildStep
    images: dict[ImageSpec, BuildStep] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def all_steps(self) -> list[BuildStep]:
        """In the order to run them: what takes longest last, so that a mistake elsewhere shows early."""
        return [
            *self.layers.values(),
            *self.debs.values(),
            *self.named.values(),
            *self.images.values(),
            self.k3s,
        ]


def make_recipe(versions: Versions, runner: StepRunner, *, partial: bool = False) -> Recipe:
    """Lay out the steps of a bundle.

    Debian's packages are resolved here (or taken from the cache), because images carry their versions.
    """
    go = find_go()
    layers = layer_steps()
    debs = {
        "k3s": debian.closure_step("k3s", k3s_pack.DEBIAN_PACKAGES),
        "docker-engine": debian.closure_step("docker-engine", NODE_ENGINE),
    }
    named = _named_steps(versions, go, debs)
    variables = _variables(versions, layers, runner)
    roots = (IMAGES, STANDINS, KIND) if versions.kind else (IMAGES, STANDINS)
    definitions = read_definitions(variables, versions.generation.name, roots)
    _check_operator(versions, definitions)
    recipe = Recipe(
        versions,
        definitions,
        full_go_version(go),
        layers,
        debs,
        named,
        k3s_step(versions.k3s, go=go, debs=debs["k3s"], kubernetes=named["step:kubernetes"]),
    )
    _add_images(recipe, [spec for spec in definitions.images if not spec.rendered], go, partial=partial)
    made = {ref: step for spec, step in recipe.images.items() for ref in spec.refs}
    for name, render in definitions.renders.items():
        wanted = {ref: made[ref] for ref in render.digests if ref in made}
        named[f"rendered:{name}"] = render_step(name, render.script, variables, wanted)
    _add_images(recipe, [spec for spec in definitions.images if spec.rendered], go, partial=partial)
    return recipe


def _add_images(recipe: Recipe, specs: Iterable[ImageSpec], go: Path, *, partial: bool) -> None:
    for spec in specs:
        try:
            recipe.images[spec] = image_step(spec, layers=recipe.layers, named=recipe.named, go=go)
        except LabError as error:
            if not partial:
                raise
            recipe.left_out.append(f"{spec.refs[0]}: {error.message}")


def kubernetes_step(versions: Versions, go: Path) -> BuildStep:
    """Kubernetes, etcd and kubectl as one program, which says the version that it is; and CoreDNS.

    Both are of one module, so that the clients that both have are one version and compiled once. Without
    providers of clouds, as k3s is built.
    """
    major, minor = versions.minor.split(".")
    stamps: dict[str, str] = {}
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        stamps |= {
            f"{package}.gitVersion": versions.k3s,
            f"{package}.gitMajor": major,
            f"{package}.gitMinor": minor,
            f"{package}.gitTreeState": "clean",
        }
    return go_step(
        f"kubernetes {versions.kubernetes}",
        GO / "kubernetes" / f"v{versions.minor}",
        {"kubernetes": ".", "coredns": "./coredns"},
        go=go,
        sources=[GO / "kubernetes" / "main.go", GO / "kubernetes" / "coredns"],
        stamps=stamps,
        tags=["providerless"],
    )


def _named_steps(versions: Versions, go: Path, debs: Mapping[str, BuildStep]) -> dict[str, BuildStep]:
    """Steps that an image.toml may take files from as `step:<name>/<path>`."""
    module = GO / "cert-manager" / versions.cert_manager
    commands = {
        name: f"{versions.cert_manager_module}/cmd/{name}" for name in ("controller", "cainjector", "webhook")
    }
    stamp = {f"{versions.cert_manager_module}/pkg/util.AppVersion": versions.cert_manager}
    kubernetes = kubernetes_step(versions, go)
    chart = go_step("chart", GO / "chart", {"chart": "."}, go=go, after=[kubernetes])
    steps = {
        "step:pause": go_step("pause", GO / "pause", {"pause": "."}, go=go),
        "step:kubernetes": kubernetes,
        "step:cert-manager": go_step(
            f"cert-manager {versions.cert_manager}", module, commands, go=go, stamps=stamp
        ),
        "step:cert-manager-manifest": certmanager.manifest_step(
            versions.cert_manager,
            module,
            versions.cert_manager_module,
            kubernetes=versions.kubernetes,
            chart=chart,
        ),
        "step:docker-engine": docker_engine_step(debs["docker-engine"]),
    }
    if versions.kind:
        steps |= kind.steps(kubernetes, steps["step:pause"], versions.k3s, go)
    if versions.generation.docker:
        steps["step:docker-cli"] = docker_cli_step(versions.generation.docker, go)
    return steps


def _variables(versions: Versions, layers: Mapping[str, BuildStep], runner: StepRunner) -> dict[str, str]:
    """What `@name@` stands for in image.toml files: versions, some known only once apt was asked."""
    generation = versions.generation
    variables = {
        "olm": generation.olm,
        "olm_number": generation.olm.removeprefix("v"),
        "runner": generation.runner,
        "runner_revision": generation.runner_revision,
        "runner_helper": generation.runner_helper,
        "operators": " ".join(generation.operators),
        "docker_cli": generation.docker,
        "cert_manager": versions.cert_manager,
        "cert_manager_module": versions.cert_manager_module,
        "coredns": versions.coredns,
        "kubernetes": versions.kubernetes,
    }
    names = {
        "registry": "docker-registry",
        "docker": "docker.io",
        "buildah": "buildah",
        "busybox": "busybox-static",
    }
    for layer, package in names.items():
        step = next(need for need in layers[layer].needs if need.name.startswith("debian packages"))
        variables[layer] = debian.versions(debian.read_packages(runner.run(step).path))[package]
    return variables
