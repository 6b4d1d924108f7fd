"""Pipeline files as users of this chain write them: each runs as GitLab runs it, or is refused by name."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selftests.gitlab.conftest import commit_to
from selftests.gitlab.runner_client import Runner
from selftests.gitlab.test_pipelines import refused, statuses

FILES = tomllib.loads((Path(__file__).parent / "pipelines" / "files.toml").read_text())["file"]
TAGS = ("docker", "dind", "kubernetes")


def of_kind(kind: str) -> pytest.MarkDecorator:
    chosen = [case for case in FILES if kind in case]
    return pytest.mark.parametrize("case", chosen, ids=[case["name"] for case in chosen])


def test_there_are_sixty_of_them() -> None:
    assert len(FILES) >= 60
    assert len({case["name"] for case in FILES}) == len(FILES)


@of_kind("runs")
def test_file_that_runs(make_runner: Callable[..., Runner], project: Any, case: dict[str, Any]) -> None:
    runner = make_runner(project, *TAGS, run_untagged=True)
    commit_to(project, case["text"])
    pipeline = project.pipelines.create({"ref": "main"})
    ends, seen = case.get("ends", {}), []
    while (answer := runner.request()).status_code == 201:
        job, runner.last_update = answer.json(), ""
        name = job["job_info"]["name"]
        seen.append(name)
        values = {entry["key"]: entry["value"] for entry in job["variables"]}
        assert case.get("values", {}).get(name, {}).items() <= values.items()
        runner.finish(job, ends.get(name, "success"), failure_reason="script_failure")
    assert seen == case["runs"]
    found = statuses(project, pipeline)
    assert found == {**{name: ends.get(name, "success") for name in seen}, **case.get("left", {})}
    assert project.pipelines.get(pipeline.id).status == case.get("status", "success")


@of_kind("refused")
@pytest.mark.embedded_only
def test_file_that_is_refused_by_name(project: Any, case: dict[str, Any]) -> None:
    answer = refused(project, case["text"])
    for words in case["refused"]:
        assert words in answer
