"""docker's command line, built from its own Go module.

The module has no go.mod, since its versions are none of Go's: what it needs is in a go.mod of ours, taken
from its vendor.mod, and Go must be told that it is not written for Go 1.16.
"""

from __future__ import annotations

from pathlib import Path

from lab.gobuild import ENVIRONMENT, find_go, full_go_version
from lab.steps import BuildStep, Work

MODULE = "github.com/docker/cli"
GO_MODS = Path(__file__).parent / "go" / "docker-cli"


def docker_cli_step(version: str, go: Path) -> BuildStep:
    """A step that makes the static program `docker` of a version that `lab/go/docker-cli` describes."""
    return BuildStep(
        f"go docker-cli {version}",
        _build,
        params={"version": version, "go": full_go_version(go)},
        sources=[GO_MODS / version],
    )


def _build(work: Work) -> None:
    stamp = f"{MODULE}/cli/version"
    flags = f"-s -w -X {stamp}.Version={work.step.params['version']} -X {stamp}.GitCommit=lab"
    language = f"-gcflags={MODULE}/...=-lang=go1.26"
    command = [str(find_go()), "build", "-trimpath", language, "-ldflags", flags]
    work.run(
        [*command, "-o", str(work.out / "docker"), f"{MODULE}/cmd/docker"],
        cwd=work.step.sources[0],
        env=ENVIRONMENT,
    )
