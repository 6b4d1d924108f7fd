"""A bundle to fill the pretend internet with, and runs of the main job on a pretend host."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from selftests.internet.pretend import Ended, PretendHost, write_profile

RUN_TIMEOUT_S = 1500


@pytest.fixture(scope="session")
def profile(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The how-to's stack in the versions of that bundle."""
    return write_profile(bundle_dir, tmp_path_factory.mktemp("profile") / "pretend.toml")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory for gigabytes, empty again afterwards."""
    yield tmp_path
    for child in tmp_path.iterdir():
        shutil.rmtree(child, ignore_errors=True)


MainJob = Callable[..., tuple[Ended, dict[str, Any]]]


@pytest.fixture
def main_job(profile: Path) -> MainJob:
    """``main_job(host, "upstream")``: README's main job on a pretend host; how it ended, and its report."""

    def run(
        host: PretendHost, artifacts: str, *options: str, **environment: str
    ) -> tuple[Ended, dict[str, Any]]:
        report = host.directory / "report"
        shutil.rmtree(report, ignore_errors=True)
        chosen = (f"--artifacts={artifacts}", f"--profile={profile}", f"--report-dir={report}", *options)
        argv = (sys.executable, "-m", "pytest", "tests", "-p", "no:cacheprovider", *chosen)
        ended = host.run(*argv, environment=environment, timeout_s=RUN_TIMEOUT_S)
        written = report / "conformance.json"
        assert written.exists(), ended.output[-4000:]
        return ended, json.loads(written.read_text())

    return run


AS_WRITTEN = "pipeline/dind/as-written"
"""Not applicable where the jobs use the how-to's own images anyway, as a bundle may want it."""


def assert_conforms(ended: Ended, report: dict[str, Any]) -> None:
    """All outcomes passed on stand-ins, and the verdict says that it was a rehearsal."""
    outcomes = {outcome["id"]: outcome for outcome in report["outcomes"]}
    if outcomes.get(AS_WRITTEN, {}).get("status") == "not applicable":
        del outcomes[AS_WRITTEN]
    not_passed = {name: it["reason"] for name, it in outcomes.items() if it["status"] != "passed"}
    assert not not_passed, f"{not_passed}\n{ended.output[-4000:]}"
    assert len(outcomes) >= 70
    assert report["verdict"]["text"] == "CONFORMS (rehearsal)"
    assert ended.code == 0, ended.output[-4000:]
