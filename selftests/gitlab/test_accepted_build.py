"""The build on a Runner that somebody installed: named by the run, and taken back, also by reap."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from fixtures.steps import accepted_build
from fixtures.steps.accepted_build import AcceptedBuild, Way
from harness import journal, reap
from harness.acceptance.found import FoundRunner
from harness.elsewhere import remove_from_gitlab
from harness.errors import EnvironmentProblem, ProductFailure
from harness.journal import GITLAB_PLACE, Journal, Life
from harness.kube import ExecResult
from harness.options import ProvisionOptions
from harness.ownership import HOME_VARIABLE, stack_dir
from harness.profile import load_profile
from harness.stack import gitlab
from selftests.gitlab.conftest import Server

RUNNER = FoundRunner("ci", "one")
WAY = Way("docker-sock", "docker-sock")


class Pods:
    """A cluster that shows one pod of the Runner, and its config.toml."""

    def __init__(self, number: int, phase: str = "Running") -> None:
        self._number, self._phase = number, phase

    def list(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        metadata = {"name": "one-runner-6f7c4bf7dc-r9lzh", "namespace": namespace}
        return [{"metadata": metadata, "spec": {"containers": []}, "status": {"phase": self._phase}}]

    def exec(self, pod: str, namespace: str, argv: tuple[str, ...], **more: Any) -> ExecResult:
        return ExecResult(f'[[runners]]\nid = {self._number}\ntoken = "glrt-"\n', "", 0)


class Recorder:
    """Keeps nothing: no job runs here."""

    def __init__(self, *args: Any) -> None:
        pass

    def start(self) -> Recorder:
        return self

    def stop(self) -> None:
        pass


@pytest.fixture
def run(
    server: Server,
    make_project: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """A run with a journal, in a project of somebody's that has a commit, and a runner with two tags."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setattr(accepted_build, "PodRecorder", Recorder)
    project = make_project()
    action = {"action": "create", "file_path": ".gitlab-ci.yml", "content": "theirs: {script: [x]}"}
    project.commits.create({"branch": "main", "commit_message": "[skip ci]", "actions": [action]})
    wanted = {"runner_type": "project_type", "project_id": project.id, "tag_list": ["builds", "other"]}
    runner = server.gl.user.runners.create({**wanted, "description": "theirs"})
    token = tmp_path / "token"
    token.write_text(server.token)
    options = ProvisionOptions(
        gitlab_url=server.url,
        gitlab_token_file=token,
        gitlab_ca_file=server.target.ca_file,
        gitlab_project=project.path_with_namespace,
    )
    run_id = f"rc-{uuid.uuid4().hex[:8]}"
    notes = Journal.begin(run_id, run_id, stack_dir(run_id))
    notes.place(GITLAB_PLACE, **gitlab.place(options))
    context = SimpleNamespace(
        run_id=run_id,
        options=options,
        profile=load_profile("seed"),
        artifacts=SimpleNamespace(images=lambda: ()),
        kube=Pods(runner.id),
        will_make=notes.will_make,
    )
    yield SimpleNamespace(context=context, project=project, runner=runner, journal=notes, run_id=run_id)
    notes.close()


def left(run: Any) -> tuple[set[str], set[str]]:
    """Branches of the project, and on which it has pipelines; a commit with [skip ci] has a skipped one."""
    branches = {it.name for it in run.project.branches.list(get_all=True)}
    return branches, {it.ref for it in run.project.pipelines.list(get_all=True)}


def test_it_is_named_by_the_run_asks_for_that_runner_and_goes(
    run: Any, server: Server, tmp_path: Path
) -> None:
    made = AcceptedBuild(run.context, RUNNER, WAY, tmp_path).make()
    assert left(run) == ({"main", run.run_id}, {"main", run.run_id})
    assert (made.runner_id, made.tag, made.name) == (run.runner.id, "builds", "one")
    text = run.project.files.get(file_path=".gitlab-ci.yml", ref=run.run_id).decode()
    job = yaml.safe_load(text)["build"]
    assert job["tags"] == ["builds"]
    assert job["script"][-1] == f"docker push $CI_REGISTRY_IMAGE/{run.run_id}:v1.0.0"
    assert b"theirs" in run.project.files.get(file_path=".gitlab-ci.yml", ref="main").decode()
    assert remove_from_gitlab(gitlab.external(run.context.options), run.run_id) == []
    assert left(run) == ({"main"}, {"main"})


def test_after_a_kill_reap_removes_it(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AcceptedBuild(run.context, RUNNER, WAY, tmp_path).make()
    run.journal.close()  # as the kernel does for a process that was killed
    (account,) = journal.accounts()[0]
    monkeypatch.setattr(type(account), "life", Life.STALE)
    assert reap.remove(account) == []
    assert left(run) == ({"main"}, {"main"})
    assert journal.accounts() == ([], [])


def test_a_runner_without_a_pod_is_sent_no_job(run: Any, tmp_path: Path) -> None:
    run.context.kube = Pods(1, phase="Pending")
    with pytest.raises(ProductFailure, match="has no pod that runs"):
        AcceptedBuild(run.context, RUNNER, WAY, tmp_path).make()
    assert left(run) == ({"main"}, {"main"})


def test_a_runner_that_takes_untagged_jobs_alone_is_asked_for_a_tag(
    run: Any, server: Server, tmp_path: Path
) -> None:
    wanted = {"runner_type": "project_type", "project_id": run.project.id, "run_untagged": True}
    run.context.kube = Pods(server.gl.user.runners.create(wanted).id)
    with pytest.raises(EnvironmentProblem, match="has no tag by which a job could be sent to it"):
        AcceptedBuild(run.context, RUNNER, WAY, tmp_path).make()
    assert left(run) == ({"main"}, {"main"})


@pytest.fixture
def another(run: Any, server: Server) -> Any:
    """A second runner of the project, with one of the same tags."""
    wanted = {"runner_type": "project_type", "project_id": run.project.id, "tag_list": ["builds"]}
    return server.gl.runners.get(server.gl.user.runners.create(wanted).id)


def test_the_job_asks_for_a_tag_that_no_other_runner_has(run: Any, another: Any, tmp_path: Path) -> None:
    assert AcceptedBuild(run.context, RUNNER, WAY, tmp_path).make().tag == "other"


def test_a_job_that_might_run_elsewhere_is_not_sent(run: Any, another: Any, tmp_path: Path) -> None:
    another.tag_list = ["other", "builds", "more"]
    another.save()
    with pytest.raises(EnvironmentProblem, match=r"is another runner's of \S+ too"):
        AcceptedBuild(run.context, RUNNER, WAY, tmp_path).make()
    assert left(run) == ({"main"}, {"main"})
    another.paused = True
    another.save()
    assert AcceptedBuild(run.context, RUNNER, WAY, tmp_path).make().tag == "builds"
