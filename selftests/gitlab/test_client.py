"""The suite's own side: checks before anything is made, retries, following, removing just what was made."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gitlab
import pytest
import uvicorn

import harness.gitlab.patient
from harness.errors import EnvironmentProblem, LeftoversError, UsageError
from harness.gitlab.certificates import issue
from harness.gitlab.client import GitLabSession, GitLabTarget, Made
from harness.gitlab.target import check
from harness.redact import register
from selftests.gitlab.conftest import CI_FILE, Server
from selftests.gitlab.flaky import Fault, flaky_proxy


@pytest.fixture
def run_id() -> str:
    return f"rc-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def session(server: Server, run_id: str) -> Iterator[GitLabSession]:
    with GitLabSession(server.target, run_id) as opened:
        yield opened


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.gitlab.patient, "_FIRST_PAUSE_S", 0.01)


def exists(server: Server, project_id: int) -> bool:
    try:
        found = server.gl.projects.get(project_id)
    except gitlab.GitlabGetError:
        return False
    return not found.attributes.get("marked_for_deletion_on")


class TestCheck:
    def test_good_token(self, server: Server) -> None:
        assert check(server.target).user.username == server.gl.user.username

    def test_wrong_token(self, server: Server) -> None:
        target = dataclasses.replace(server.target, token=register("glpat-AAAAAAAAAAAAAAAAAAAA"))
        with pytest.raises(UsageError, match="refuses the token"):
            check(target)

    def test_missing_scope_is_named_before_anything_is_made(self, server: Server, run_id: str) -> None:
        if not server.admin:
            pytest.skip("only an administrator can make tokens for users by the API")
        user = server.gl.users.get(server.gl.user.id)
        weak = user.personal_access_tokens.create({"name": "weak", "scopes": ["read_api", "read_user"]})
        before = len(server.gl.projects.list(get_all=True))
        target = dataclasses.replace(server.target, token=register(weak.token))
        with (
            pytest.raises(UsageError, match=r"lacks the scope 'api' \(it has: read_api, read_user\)"),
            GitLabSession(target, run_id) as opened,
        ):
            opened.project()
        assert len(server.gl.projects.list(get_all=True)) == before

    def test_project_that_does_not_exist(self, server: Server) -> None:
        target = dataclasses.replace(server.target, project="nobody/nothing")
        with pytest.raises(UsageError, match=r"looking for project nobody/nothing at .* it is not in GitLab"):
            check(target)

    def test_nothing_listens(self, server: Server) -> None:
        with pytest.raises(EnvironmentProblem, match="can't be reached"):
            check(GitLabTarget("http://127.0.0.1:9", server.target.token))

    @pytest.mark.parametrize("url", ["gitlab.example.com", "", "ftp://x"])
    def test_no_url(self, server: Server, url: str) -> None:
        with pytest.raises(UsageError, match="is no URL of a GitLab"):
            check(GitLabTarget(url, server.target.token))

    def test_something_else_listens(self, server: Server) -> None:
        def page(method: str, path: str, before: int) -> Fault:
            return Fault(404)

        with flaky_proxy(server.target, page) as (url, _), pytest.raises(UsageError, match="not in GitLab"):
            check(dataclasses.replace(server.target, url=url))

    def test_token_is_in_no_message(self, server: Server) -> None:
        token = "glpat-SECRETsecretSECRET12"
        with pytest.raises(UsageError) as caught:
            check(dataclasses.replace(server.target, token=register(token)))
        assert token not in str(caught.value) + repr(caught.value)


class TestPatience:
    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 0])
    def test_read_is_repeated(self, server: Server, status: int) -> None:
        def twice(method: str, path: str, before: int) -> Fault | None:
            return Fault(status) if before < 2 else None

        with flaky_proxy(server.target, twice) as (url, seen):
            assert check(dataclasses.replace(server.target, url=url)).user is not None
        assert seen.count("GET /api/v4/user") == 3

    def test_retry_after_is_kept(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        slept: list[float] = []
        monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)

        def once(method: str, path: str, before: int) -> Fault | None:
            return Fault(429, headers={"Retry-After": "7"}) if before < 1 else None

        with flaky_proxy(server.target, once) as (url, _):
            check(dataclasses.replace(server.target, url=url))
        assert 7.0 in slept

    def test_end_of_patience_says_what_gitlab_says(self, server: Server) -> None:
        with (
            flaky_proxy(server.target, lambda *_: Fault(503)) as (url, _),
            pytest.raises(EnvironmentProblem, match="answers with an error of its own: HTTP 503"),
        ):
            check(dataclasses.replace(server.target, url=url))

    @pytest.mark.parametrize("status", [500, 502, 504, 0])
    def test_project_is_made_once_though_the_answer_is_lost(
        self, server: Server, run_id: str, status: int
    ) -> None:
        def lose(method: str, path: str, before: int) -> Fault | None:
            return Fault(status, after=True) if (method, path) == ("POST", "/api/v4/projects") else None

        with (
            flaky_proxy(server.target, lose) as (url, seen),
            GitLabSession(dataclasses.replace(server.target, url=url), run_id) as opened,
        ):
            project = opened.project()
            assert project.path == run_id
            assert seen.count("POST /api/v4/projects") == 1
        assert not exists(server, project.id)

    def test_post_that_was_not_begun_is_repeated(self, server: Server, run_id: str) -> None:
        def busy(method: str, path: str, before: int) -> Fault | None:
            return Fault(429) if method == "POST" and before < 2 else None

        with (
            flaky_proxy(server.target, busy) as (url, seen),
            GitLabSession(dataclasses.replace(server.target, url=url), run_id) as opened,
        ):
            opened.project()
        assert seen.count("POST /api/v4/projects") == 3

    def test_removal_whose_answer_is_lost_is_done(self, server: Server, run_id: str) -> None:
        def lose(method: str, path: str, before: int) -> Fault | None:
            return Fault(502, after=True) if method == "DELETE" and before < 1 else None

        with (
            flaky_proxy(server.target, lose) as (url, _),
            GitLabSession(dataclasses.replace(server.target, url=url), run_id) as opened,
        ):
            project = opened.project()
        assert not exists(server, project.id)


class TestOwnProject:
    def test_whole_way(self, server: Server, session: GitLabSession, run_id: str, tag: str) -> None:
        """Project, runner, commit, pipeline, log - and nothing of it afterwards."""
        token = session.create_runner(tags=[tag], description="way")
        assert session.runner_status(token.id) == "never_contacted"
        session.commit_files({".gitlab-ci.yml": CI_FILE.format(tag=tag), "a.bin": b"\x00\xff"}, "First")
        session.commit_files({".gitlab-ci.yml": CI_FILE.format(tag=tag), "b.txt": "b"}, "Second")
        assert session.project().files.raw("a.bin", ref="main") == b"\x00\xff"
        pipeline = session.start_pipeline(variables={"A": "b"})
        runner = server.runner(token.token.reveal())

        def work() -> None:
            job = runner.take()
            runner.patch(job, b"hello\n")
            runner.finish(job, log=b"hello\n")

        working = threading.Thread(target=work)
        working.start()
        lines: list[str] = []
        done = session.follow_pipeline(pipeline, 60, progress=lines.append)
        working.join()
        assert done.status == "success"
        assert lines[-1] == f"pipeline {done.id} success: build success"
        assert session.trace(session.jobs(done)[0]) == "hello\n"
        assert session.runner_status(token.id) == "online"
        sources = [
            found.source
            for found in session.project().pipelines.list(get_all=True)
            if found.status != "skipped"
        ]
        assert sources == ["api"]
        project = session.project()
        session.remove()
        assert not exists(server, project.id)
        assert session.made == Made()

    def test_end_of_a_wait_names_what_is_waited_for(self, session: GitLabSession, tag: str) -> None:
        session.create_runner(tags=["another"], description="other")
        session.commit_files({".gitlab-ci.yml": CI_FILE.format(tag=tag)}, "First")
        with pytest.raises(EnvironmentProblem, match="is still pending after 0 s") as caught:
            session.follow_pipeline(session.start_pipeline(), 0)
        assert f"waits for a runner with tags ['{tag}']" in caught.value.evidence
        assert "never_contacted" in caught.value.evidence

    def test_refused_pipeline_comes_with_gitlabs_reason(self, session: GitLabSession) -> None:
        session.commit_files({".gitlab-ci.yml": "a: {script: [x], colour: red}\n"}, "Wrong")
        with pytest.raises(EnvironmentProblem, match="contains unknown keys: colour"):
            session.start_pipeline()

    def test_another_process_removes_what_was_made(self, server: Server, run_id: str) -> None:
        saved: list[dict[str, Any]] = []
        first = GitLabSession(server.target, run_id, save=lambda made: saved.append(dataclasses.asdict(made)))
        first.gl = check(server.target)
        project = first.project()
        first.create_runner(tags=["x"], description="x")
        GitLabSession(server.target, run_id, made=Made(**saved[-1])).remove()
        assert not exists(server, project.id)

    def test_removing_twice_is_fine(self, session: GitLabSession) -> None:
        session.project()
        session.remove()
        session.remove()

    def test_what_stays_is_named(self, server: Server, run_id: str) -> None:
        def refuse(method: str, path: str, before: int) -> Fault | None:
            return Fault(403) if method == "DELETE" else None

        with flaky_proxy(server.target, refuse) as (url, _):
            opened = GitLabSession(dataclasses.replace(server.target, url=url), run_id).__enter__()
            project = opened.project()
            with pytest.raises(LeftoversError) as caught:
                opened.remove()
        assert f"project {project.id}" in caught.value.evidence
        server.gl.projects.delete(project.id)


class TestUsersProject:
    def test_only_what_was_made_goes(
        self, server: Server, make_project: Callable[..., Any], run_id: str, tag: str
    ) -> None:
        theirs = make_project(initialize_with_readme=True)
        theirs.variables.create({"key": "THEIRS", "value": "x"})
        target = dataclasses.replace(server.target, project=theirs.path_with_namespace)
        with GitLabSession(target, run_id) as opened:
            runner = opened.create_runner(tags=[tag], description="x")
            opened.commit_files({".gitlab-ci.yml": CI_FILE.format(tag=tag)}, "Ours")
            assert opened.branch == run_id
            pipeline = opened.start_pipeline()
            assert pipeline.ref == run_id
        assert exists(server, theirs.id)
        assert [branch.name for branch in theirs.branches.list(get_all=True)] == [theirs.default_branch]
        assert [found.key for found in theirs.variables.list(get_all=True)] == ["THEIRS"]
        assert pipeline.id not in [found.id for found in theirs.pipelines.list(get_all=True)]
        with pytest.raises(gitlab.GitlabGetError):
            server.gl.runners.get(runner.id)


def test_custom_authority_is_asked_for(tmp_path: Path, server: Server) -> None:
    """A certificate that nobody trusts: the error says which option helps."""
    made = issue("127.0.0.1", "test")
    for name, text in (("tls.crt", made.certificate), ("tls.key", made.key), ("ca.crt", made.authority)):
        (tmp_path / name).write_text(text)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"message": "401 Unauthorized"}'})

    files = {"ssl_certfile": tmp_path / "tls.crt", "ssl_keyfile": tmp_path / "tls.key"}
    config = uvicorn.Config(application, port=0, lifespan="off", log_level="critical", **files)
    tls = uvicorn.Server(config)
    thread = threading.Thread(target=tls.run)
    thread.start()
    try:
        while not tls.started:
            time.sleep(0.01)
        url = f"https://127.0.0.1:{tls.servers[0].sockets[0].getsockname()[1]}"
        with pytest.raises(EnvironmentProblem, match="is not trusted") as caught:
            check(GitLabTarget(url, server.target.token))
        assert "--gitlab-ca-file" in caught.value.hint
        with pytest.raises(UsageError, match="refuses the token"):
            check(GitLabTarget(url, server.target.token, ca_file=tmp_path / "ca.crt"))
    finally:
        tls.should_exit = tls.force_exit = True  # else it waits 30 s for the farewell of a client that left
        thread.join()
