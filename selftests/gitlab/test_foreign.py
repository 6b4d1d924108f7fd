"""The contract suite against a GitLab that it didn't start: one that runs by its public command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.embedded_only


def suite(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this suite as a user does."""
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL and token file of a GitLab that runs by itself."""
    argv = ["-m", "embedded_gitlab", "--listen", "127.0.0.1:0", "--state", str(tmp_path / "state")]
    process = subprocess.Popen([sys.executable, *argv], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("listening on ").strip()
        token = tmp_path / "token"
        token.write_text(json.loads((tmp_path / "state/administrator.json").read_text())["token"])
        yield url, token
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_url_and_token_are_enough(foreign: tuple[str, Path]) -> None:
    url, token = foreign
    chosen = "selftests/gitlab/test_api.py::TestShapes"
    done = suite(chosen, "--gitlab", url, "--gitlab-token", str(token))
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def test_what_is_the_embedded_ones_alone_is_left_out(tmp_path: Path) -> None:
    """A test that passes without a look at the GitLab named would be counted for it."""
    (tmp_path / "token").touch()
    options = ["--gitlab", "http://127.0.0.1:9", "--gitlab-token", str(tmp_path / "token")]
    done = suite("selftests/gitlab", "--collect-only", *options)
    assert done.returncode == 0, done.stdout
    files = {line.split("::")[0].rpartition("/")[2] for line in done.stdout.splitlines() if "::" in line}
    assert {"test_api.py", "test_git.py", "test_registry.py", "test_runner_protocol.py"} <= files
    assert files.isdisjoint({"test_recordings.py", "test_restart.py", "test_web.py", "test_foreign.py"})
    assert "test_registry_authentication" not in done.stdout


def test_a_url_without_a_token_is_refused() -> None:
    done = suite("selftests/gitlab", "--collect-only", "--gitlab", "http://127.0.0.1:9")
    assert (done.returncode, "--gitlab needs --gitlab-token" in done.stderr) == (4, True)
