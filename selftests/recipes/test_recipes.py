"""Each recipe's commands, to the letter, in a root file system that has only what such a machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from selftests.recipes import REPOSITORY, filesystem, read

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="making a root file system needs root"),
    pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="needs mmdebstrap"),
]

RECIPES = read()
#: Of the image python:3.12-bookworm what is no Debian package, its Python, is Debian's here.
_IMAGE = ("ca-certificates", "git", "python3", "python3-venv")
MACHINES = {
    "Debian 12": ("server", "bookworm", ()),
    "Debian 13": ("server", "trixie", ()),
    "GitLab's Docker executor": ("gitlab-docker", "bookworm", _IMAGE),
    "GitLab's Kubernetes executor": ("gitlab-kubernetes", "bookworm", _IMAGE),
    "GitHub's virtual machine": ("github", "trixie", (*_IMAGE, "sudo", "iptables")),
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone of the last commit."""
    place = tmp_path / "checkout"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", REPOSITORY, place], check=True)
    return place


@pytest.fixture
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    _, suite, packages = MACHINES[request.param]
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    archive = filesystem.make(home / "runner-conformance/recipes", suite, packages)
    place = tmp_path / "root"
    place.mkdir()
    subprocess.run(["tar", "-xpf", archive, "-C", place], check=True)
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize(
    ("root", "name"), [(it, it) for it in MACHINES], ids=list(MACHINES), indirect=["root"]
)
def test_the_commands_lead_to_a_verdict(root: Path, name: str, checkout: Path) -> None:
    recipe = RECIPES[MACHINES[name][0]]
    start = "/root" if recipe.name == "server" else "/srv/checkout"
    options = "--artifacts=/srv/bundle -k cluster/"
    # the clone on the server is from a directory here, whose owner git mistrusts
    trust = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    variables = {**recipe.variables, **trust, "PYTEST_ADDOPTS": options}
    bundle = Path(os.environ["RUNNER_CONFORMANCE_BUNDLE"])
    done = filesystem.run(root, checkout, bundle, start, recipe.script, variables)
    output = done.stdout + done.stderr
    assert "CONFORMS (rehearsal)" in output, output[-6000:]
    assert "DOES NOT CONFORM" not in output
    assert done.returncode == 0
