"""Images: the layer with an image's own files, its configuration and its manifest."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from harness.artifacts.storage import OCI_CONFIG, OCI_LAYER, Descriptor, image_manifest, sha256_file
from lab import debian
from lab.definitions import FileSpec, ImageSpec
from lab.errors import LabError
from lab.gobuild import go_step
from lab.steps import BuildStep, Work
from lab.tars import write_tar

CREATED = "2023-11-14T22:13:20Z"  # tars.EPOCH_S: an image must not change because it was built again
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
REPOSITORY = Path(__file__).parent.parent


LABEL = "io.runner-conformance."
"""What every image of the lab says of itself: `provenance` (real or stand-in), `component`, `version`."""


def render_step(
    name: str, script: Path, variables: Mapping[str, str] = {}, digests: Mapping[str, BuildStep] = {}
) -> BuildStep:
    """A step that runs a stand-in's generator; its result is what that wrote.

    The generator is given the variables of the image.toml files and the digests of images by reference.
    """
    return BuildStep(
        f"render {name}",
        lambda work: _render(work, digests),
        params={"script": script.name, "variables": dict(variables), "refs": list(digests)},
        sources=[script.parent],
        needs=[*digests.values()],
    )


def image_step(
    spec: ImageSpec, *, layers: Mapping[str, BuildStep], named: Mapping[str, BuildStep], go: Path
) -> BuildStep:
    """A step that makes `manifest.json`, `config.json`, and `layer.tar` where the image has files of its own.

    `named` are the steps that `copy` may take from (`render <dir>` and `step:` names).
    """
    missing = [name for name in spec.layers if name not in layers]
    if missing:
        raise LabError(f"{spec.folder}/image.toml: there is no layer {missing[0]!r}")
    own = {
        package: go_step(
            f"{spec.folder.name} {package}", spec.folder / package, {Path(package).name: "."}, go=go
        )
        for package in spec.go
    }
    origins = {source: _origin(spec.folder, source, named) for source in spec.copy}
    needs = [layers[name] for name in spec.layers]
    needs += own.values()
    needs += {id(step): step for step, _ in origins.values() if step}.values()
    params = {k: v for k, v in asdict(spec).items() if k not in ("folder", "source", "only")}
    return BuildStep(
        f"image {spec.refs[0]}",
        lambda work: _build(work, spec, own, origins),
        params={**_plain(params), "created": CREATED},
        sources=[path for step, path in origins.values() if step is None],
        needs=needs,
    )


def file_source(spec: FileSpec, named: Mapping[str, BuildStep], paths: Mapping[BuildStep, Path]) -> Path:
    """Where a [[file]]'s content lies, its step having been run. Raises LabError."""
    step, path = _origin(spec.folder, spec.source, named)
    return paths[step] / path if step else path


def _origin(folder: Path, source: str, named: Mapping[str, BuildStep]) -> tuple[BuildStep | None, Path]:
    """The step that makes a source and the path in its result; (None, path) for a file of the work tree."""
    kind, colon, rest = source.partition(":")
    if colon and kind in ("rendered", "step"):
        name, _, path = rest.partition("/")
        step = named.get(f"{kind}:{name}")
        if step is None:
            raise LabError(f"{folder}/image.toml: {source!r} names nothing that is made")
        return step, Path(path)
    own = (folder / source).resolve()
    if not own.is_relative_to(REPOSITORY) or not own.exists():
        raise LabError(f"{folder}/image.toml: {source!r} does not exist in the project")
    return None, own


def _render(work: Work, digests: Mapping[str, BuildStep]) -> None:
    values = work.scratch("values") / "values.json"
    found = {ref: "sha256:" + sha256_file(work.path(step) / "manifest.json") for ref, step in digests.items()}
    values.write_text(json.dumps({"variables": work.step.params["variables"], "digests": found}))
    work.run([sys.executable, work.step.sources[0] / work.step.params["script"], work.out, values])


def _build(
    work: Work,
    spec: ImageSpec,
    own: Mapping[str, BuildStep],
    origins: Mapping[str, tuple[BuildStep | None, Path]],
) -> None:
    roots = []
    for source, target in spec.copy.items():
        step, path = origins[source]
        roots.append((work.path(step) / path if step else path, target))
    texts = work.scratch("written")
    for number, (target, text) in enumerate(spec.write.items()):
        (texts / str(number)).write_text(text)
        roots.append((texts / str(number), target))
    roots += [(work.path(own[package]) / Path(package).name, target) for package, target in spec.go.items()]
    tars = [work.path(need) / "layer.tar" for need in work.step.needs if need.name.startswith("layer ")]
    if roots or spec.writable:
        for root, _ in roots:
            if not root.exists():
                raise LabError(f"{spec.folder}/image.toml: {root.name} was not made")
        write_tar(
            work.out / "layer.tar",
            roots,
            plain_modes=True,
            skip=lambda name: "__pycache__" in name,
            # a directory `bin` in an upper layer would take the place of the link that the lowest one has
            rename=debian.merged if spec.layers else lambda name: name,
            writable=spec.writable,
        )
        tars.append(work.out / "layer.tar")
    descriptors = [Descriptor("sha256:" + sha256_file(t), t.stat().st_size, OCI_LAYER) for t in tars]
    config = _config(spec, [d.digest for d in descriptors])
    (work.out / "config.json").write_bytes(config)
    config_digest = "sha256:" + sha256_file(work.out / "config.json")
    manifest = image_manifest(Descriptor(config_digest, len(config), OCI_CONFIG), descriptors)
    (work.out / "manifest.json").write_bytes(manifest)


def _config(spec: ImageSpec, layers: Sequence[str]) -> bytes:
    # env in the order of the file, as an image's own is in the order of its build
    settings: dict[str, object] = {
        "Env": [f"{k}={v}" for k, v in {"PATH": PATH, **spec.env}.items()],
        "Entrypoint": list(spec.entrypoint) or None,
        "Cmd": list(spec.cmd) or None,
        "User": spec.user,
        "WorkingDir": spec.workdir,
        "Labels": {**spec.labels, **labels_of(spec.component, spec.version, spec.provenance)},
        "Volumes": {path: {} for path in spec.volumes} or None,
    }
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": CREATED,
        "config": {k: v for k, v in settings.items() if v},
        "rootfs": {"type": "layers", "diff_ids": list(layers)},
        "history": [{"created": CREATED, "created_by": f"lab {spec.component}"} for _ in layers],
    }
    return json.dumps(config, sort_keys=True, separators=(",", ":")).encode()


def labels_of(component: str, version: str, provenance: str) -> dict[str, str]:
    """The labels that say what an image is: what runs from it tells whether it is the real program."""
    return {
        f"{LABEL}component": component,
        f"{LABEL}provenance": provenance,
        f"{LABEL}version": version,
    }


def _plain(values: Mapping[str, object]) -> dict[str, object]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
