"""Real git against the embedded GitLab (or any): clone, fetch, push, with personal and job tokens."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selftests.gitlab.conftest import CI_FILE, Server, commit_to
from selftests.gitlab.runner_client import Runner

ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@example.com",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@example.com",
}


def git(directory: Path, *arguments: str, fails: bool = False) -> str:
    """Run git; its output, both streams."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=directory,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert (done.returncode != 0) is fails, done.stdout
    return done.stdout


def url_of(server: Server, project: Any, user: str = "root", token: str | None = None) -> str:
    scheme, _, rest = project.http_url_to_repo.partition("://")
    return f"{scheme}://{user}:{token or server.token}@{rest}"


@pytest.mark.parametrize("protocol", ["0", "1", "2"])
def test_push_and_clone(server: Server, project: Any, tmp_path: Path, protocol: str) -> None:
    version = ("-c", f"protocol.version={protocol}")
    git(tmp_path, "init", "-q", "-b", "main", "one")
    (tmp_path / "one" / "file.txt").write_text("content\n")
    git(tmp_path / "one", "add", ".")
    git(tmp_path / "one", "commit", "-q", "-m", "First")
    git(tmp_path / "one", *version, "push", "-q", url_of(server, project), "main")
    git(tmp_path, *version, "clone", "-q", url_of(server, project), "two")
    assert (tmp_path / "two" / "file.txt").read_text() == "content\n"
    assert project.commits.get("main").title == "First"


def test_first_branch_becomes_the_default(server: Server, project: Any, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "trunk")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "First")
    git(tmp_path, "push", "-q", url_of(server, project), "trunk")
    project.branches.get("trunk")
    assert server.gl.projects.get(project.id).default_branch == "trunk"


def test_push_with_a_file_starts_a_pipeline(server: Server, project: Any, tmp_path: Path, tag: str) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / ".gitlab-ci.yml").write_text(CI_FILE.format(tag=tag))
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "Pipeline")
    git(tmp_path, "push", "-q", url_of(server, project), "main")
    pipelines = project.pipelines.list(get_all=True)
    assert [(found.source, found.ref, found.status) for found in pipelines] == [("push", "main", "pending")]


def test_tag_and_removed_branch(server: Server, project: Any, tmp_path: Path) -> None:
    commit_to(project, "a: {script: [echo]}\n")
    git(tmp_path, "clone", "-q", url_of(server, project), "it")
    git(tmp_path / "it", "tag", "-a", "v1", "-m", "One")
    git(tmp_path / "it", "push", "-q", "origin", "v1", "main:other")
    assert project.branches.get("other").commit["id"] == project.commits.get("v1").id
    git(tmp_path / "it", "push", "-q", "origin", ":other")
    assert [branch.name for branch in project.branches.list(get_all=True)] == ["main"]


def test_large_push_and_shallow_fetch(server: Server, project: Any, tmp_path: Path) -> None:
    """More than http.postBuffer: git sends it in chunks, after a probe."""
    git(tmp_path, "init", "-q", "-b", "main", "big")
    for count in range(3):
        (tmp_path / "big" / f"{count}.bin").write_bytes(os.urandom(1_000_000))
        git(tmp_path / "big", "add", ".")
        git(tmp_path / "big", "commit", "-q", "-m", f"Number {count}")
    git(tmp_path / "big", "push", "-q", url_of(server, project), "main")
    git(tmp_path, "clone", "-q", "--depth", "1", url_of(server, project), "shallow")
    assert git(tmp_path / "shallow", "rev-list", "--count", "HEAD").strip() == "1"
    git(tmp_path / "shallow", "fetch", "-q", "--unshallow")
    assert git(tmp_path / "shallow", "rev-list", "--count", "HEAD").strip() == "3"


class TestJobToken:
    def test_clones_as_gitlab_runner_does(
        self, runner: Runner, running_job: dict[str, Any], tmp_path: Path, project: Any
    ) -> None:
        info = running_job["git_info"]
        git(tmp_path, "init", "-q")
        git(tmp_path, "remote", "add", "origin", info["repo_url"])
        git(tmp_path, "fetch", "-q", "--prune", "--depth", str(info["depth"]), "origin", *info["refspecs"])
        git(tmp_path, "checkout", "-q", "-f", info["sha"])
        assert (tmp_path / ".gitlab-ci.yml").exists()

    def test_git_depth_0_fetches_everything(
        self, runner: Runner, project: Any, tag: str, tmp_path: Path
    ) -> None:
        commit_to(project, f"variables: {{GIT_DEPTH: '0'}}\n{CI_FILE.format(tag=tag)}")
        project.pipelines.create({"ref": "main"})
        info = runner.take()["git_info"]
        assert info["depth"] == 0
        git(tmp_path, "init", "-q")
        git(tmp_path, "fetch", "-q", info["repo_url"], *info["refspecs"])
        assert git(tmp_path, "rev-parse", "refs/remotes/origin/main").strip() == info["sha"]

    def test_may_not_push(self, running_job: dict[str, Any], tmp_path: Path) -> None:
        url = running_job["git_info"]["repo_url"]
        git(tmp_path, "clone", "-q", url, "it")
        git(tmp_path / "it", "commit", "-q", "--allow-empty", "-m", "Evil")
        assert "403" in git(tmp_path / "it", "push", "origin", "HEAD:main", fails=True)

    def test_ends_with_the_job(self, runner: Runner, running_job: dict[str, Any], tmp_path: Path) -> None:
        runner.finish(running_job)
        output = git(tmp_path, "clone", running_job["git_info"]["repo_url"], "it", fails=True)
        assert "Authentication failed" in output

    def test_foreign_private_project_is_not_found(
        self, server: Server, running_job: dict[str, Any], make_project: Callable[..., Any], tmp_path: Path
    ) -> None:
        foreign = make_project(initialize_with_readme=True)
        url = url_of(server, foreign, "gitlab-ci-token", running_job["token"])
        refusal = git(tmp_path, "clone", url, "it", fails=True)
        assert "not found" in refusal or "returned error: 403" in refusal


class TestCredentials:
    def test_wrong_password(self, server: Server, project: Any, tmp_path: Path) -> None:
        output = git(tmp_path, "clone", url_of(server, project, token="wrong"), "it", fails=True)
        assert "Authentication failed" in output

    def test_without_credentials(self, project: Any, tmp_path: Path) -> None:
        output = git(tmp_path, "clone", project.http_url_to_repo, "it", fails=True)
        assert "could not read Username" in output

    def test_public_project_without_credentials(
        self, make_project: Callable[..., Any], tmp_path: Path
    ) -> None:
        public = make_project(visibility="public", initialize_with_readme=True)
        git(tmp_path, "clone", "-q", public.http_url_to_repo, "it")
        assert (tmp_path / "it" / "README.md").exists()

    def test_pipeline_refs_can_not_be_pushed(self, server: Server, project: Any, tmp_path: Path) -> None:
        commit_to(project, "a: {script: [echo]}\n")
        git(tmp_path, "clone", "-q", url_of(server, project), "it")
        output = git(tmp_path / "it", "push", "origin", "HEAD:refs/pipelines/4711", fails=True)
        assert "refs/pipelines/4711" in output

    def test_unknown_project(self, server: Server, tmp_path: Path) -> None:
        scheme, _, rest = server.url.partition("://")
        output = git(
            tmp_path, "clone", f"{scheme}://root:{server.token}@{rest}/root/nothing.git", "it", fails=True
        )
        assert "not found" in output
