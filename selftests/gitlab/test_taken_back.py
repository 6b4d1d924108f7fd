"""What a killed run made in a GitLab is found again by its run id alone, and nothing else is touched."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from harness.elsewhere import made_in_gitlab, remove_from_gitlab
from harness.gitlab.client import GitLabSession
from selftests.gitlab.conftest import Server


@pytest.fixture
def run_id() -> str:
    return f"rc-{uuid.uuid4().hex[:8]}"


def everything(server: Server) -> set[str]:
    projects = {f"project {it.path_with_namespace}" for it in server.gl.projects.list(get_all=True)}
    return projects | {f"runner {it.description}" for it in server.gl.runners.list(get_all=True)}


def test_a_run_is_taken_back_by_its_id(server: Server, run_id: str, make_project: Callable[..., Any]) -> None:
    make_project()
    # as another run whose id begins alike, and as a person's own notes
    neighbour = GitLabSession(server.target, f"{run_id}0")
    neighbour.gl.auth()
    neighbour.create_runner(tags=["x"], description="neighbour")
    before = everything(server)
    asked: list[tuple[str, str]] = []
    session = GitLabSession(
        server.target, f"{run_id}-dind", will_make=lambda kind, name: asked.append((kind, name))
    )
    session.gl.auth()
    session.create_runner(tags=["x"], description="dind")
    session.commit_files({"README.md": "x"}, "Begin")
    assert [kind for kind, _ in asked] == ["project", "runner", "branch"]

    found = [str(it) for it in made_in_gitlab(server.target, run_id)]
    assert len(found) == 2, found
    assert remove_from_gitlab(server.target, run_id) == []
    assert everything(server) == before
    assert remove_from_gitlab(server.target, run_id) == []
    neighbour.remove()


def test_in_a_users_project_only_the_runs_branches_go(
    server: Server, run_id: str, make_project: Callable[..., Any]
) -> None:
    theirs = make_project()
    target = replace(server.target, project=theirs.path_with_namespace)
    action = {"action": "create", "file_path": "a", "content": "b"}
    first = {"branch": "main", "commit_message": "theirs", "actions": [action]}
    theirs.commits.create(first)
    alike = {"branch": f"{run_id}0-theirs", "start_branch": "main", "actions": [{**action, "file_path": "c"}]}
    theirs.commits.create({**first, **alike})
    session = GitLabSession(target, run_id)
    session.gl.auth()
    session.create_runner(tags=["x"], description="dind")
    session.commit_files({"b": "c"}, "Build", f"{run_id}-dind")
    assert remove_from_gitlab(target, run_id) == []
    branches = {it.name for it in theirs.branches.list(get_all=True)}
    assert branches == {"main", f"{run_id}0-theirs"}
    assert [it for it in server.gl.runners.list(get_all=True) if run_id in str(it.description)] == []
