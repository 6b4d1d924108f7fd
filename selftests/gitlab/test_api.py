"""API v4 as python-gitlab uses it: objects, errors, pagination, scopes."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gitlab
import httpx
import pytest

from selftests.gitlab.conftest import CI_FILE, Server, commit_to, trust
from selftests.gitlab.runner_client import Runner

SHAPES = json.loads((Path(__file__).parent / "recordings" / "shapes.json").read_text())
TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


@pytest.fixture
def api(server: Server) -> Iterator[httpx.Client]:
    headers = {"PRIVATE-TOKEN": server.token}
    with httpx.Client(
        base_url=f"{server.url}/api/v4", headers=headers, verify=trust(server.target.ca_file), trust_env=False
    ) as client:
        yield client


@pytest.fixture
def token_with(server: Server) -> Iterator[Callable[[str], str]]:
    """Tokens of the administrator with one scope."""
    if not server.admin:
        pytest.skip("only an administrator can make tokens for users by the API")
    made: list[Any] = []

    def make(scope: str) -> str:
        user = server.gl.users.get(server.gl.user.id)
        made.append(user.personal_access_tokens.create({"name": f"contract {scope}", "scopes": [scope]}))
        return str(made[-1].token)

    yield make
    for token in made:
        server.gl.personal_access_tokens.delete(token.id)


class TestShapes:
    """Objects have the documented attributes with the documented types."""

    @staticmethod
    def check(kind: str, found: dict[str, Any]) -> None:
        for key, kinds in SHAPES[kind].items():
            assert key in found, f"{kind} has no {key}"
            value = found[key]
            allowed = tuple(TYPES[name] for name in kinds if name != "null")
            if value is None:
                assert "null" in kinds, f"{kind}.{key} is null"
            else:
                assert isinstance(value, allowed), f"{kind}.{key} is {type(value).__name__}, not {kinds}"

    def test_user(self, api: httpx.Client) -> None:
        found = api.get("/user").json()
        self.check("user", found)
        self.check("profile", api.get(f"/users/{found['id']}").json())

    def test_version(self, api: httpx.Client) -> None:
        self.check("version", api.get("/version").json())

    def test_project(self, api: httpx.Client, project: Any) -> None:
        self.check("project", api.get(f"/projects/{project.id}").json())

    def test_runner(self, api: httpx.Client, runner: Runner) -> None:
        runner.request()
        self.check("runner", api.get("/runners").json()[0])
        details = api.get(f"/runners/{runner.id}").json()
        self.check("runner_details", details)
        self.check("project_basic", details["projects"][0])
        self.check("runner_manager", api.get(f"/runners/{runner.id}/managers").json()[0])

    def test_pipeline_and_job(self, api: httpx.Client, project: Any, running_job: dict[str, Any]) -> None:
        base = f"/projects/{project.id}"
        pipeline = api.get(f"{base}/pipelines").json()[0]
        self.check("pipeline", pipeline)
        details = api.get(f"{base}/pipelines/{pipeline['id']}").json()
        self.check("pipeline_details", details)
        self.check("detailed_status", details["detailed_status"])
        assert details["web_url"].endswith(details["detailed_status"]["details_path"])
        job = api.get(f"{base}/jobs/{running_job['id']}").json()
        self.check("job", job)
        self.check("profile", job["user"])
        assert "exit_code" not in job, "GitLab tells it to GraphQL alone"

    def test_commit_branch_and_file(self, api: httpx.Client, project: Any) -> None:
        commit_to(project, "a: {script: [echo]}\n")
        base = f"/projects/{project.id}/repository"
        commit = api.get(f"{base}/commits/main").json()
        self.check("commit", commit)
        self.check("commit_detail", commit)
        assert commit["stats"] == {"additions": 1, "deletions": 0, "total": 1}
        made = commit_to(project, "b: {script: [echo]}\nc: {script: [echo]}\n").attributes
        self.check("commit_detail", made)
        assert made["stats"] == {"additions": 2, "deletions": 1, "total": 3}
        self.check("branch", api.get(f"{base}/branches/main").json())
        self.check("file", api.get(f"{base}/files/.gitlab-ci.yml", params={"ref": "main"}).json())

    def test_variable_and_token(self, api: httpx.Client, project: Any) -> None:
        project.variables.create({"key": "A", "value": "b"})
        self.check("variable", api.get(f"/projects/{project.id}/variables/A").json())
        self.check("personal_access_token", api.get("/personal_access_tokens/self").json())


class TestErrors:
    def test_no_token(self, server: Server) -> None:
        answer = server.http.get("/api/v4/user")
        assert (answer.status_code, answer.json()) == (401, {"message": "401 Unauthorized"})

    def test_wrong_token(self, server: Server) -> None:
        headers = {"PRIVATE-TOKEN": "glpat-AAAAAAAAAAAAAAAAAAAA"}
        answer = server.http.get("/api/v4/user", headers=headers)
        assert answer.status_code == 401

    def test_unknown_path(self, api: httpx.Client) -> None:
        answer = api.get("/no/such/path")
        assert (answer.status_code, answer.json()) == (404, {"error": "404 Not Found"})

    def test_unknown_objects(self, api: httpx.Client, project: Any) -> None:
        assert api.get("/projects/nobody%2Fnothing").json() == {"message": "404 Project Not Found"}
        assert api.get("/runners/999999999").json() == {"message": "404 Runner Not Found"}
        assert api.get(f"/projects/{project.id}/pipelines/999999999").status_code == 404
        assert api.get(f"/projects/{project.id}/jobs/999999999").status_code == 404

    def test_missing_parameter_is_named(self, api: httpx.Client, project: Any) -> None:
        answer = api.post(f"/projects/{project.id}/pipeline", json={})
        assert (answer.status_code, answer.json()) == (400, {"error": "ref is missing"})

    def test_name_that_is_taken(self, server: Server, project: Any) -> None:
        with pytest.raises(gitlab.GitlabCreateError, match="has already been taken") as caught:
            server.gl.projects.create({"name": project.name, "path": project.path})
        assert caught.value.response_code == 400

    def test_runner_without_tags_must_run_untagged_jobs(self, server: Server, project: Any) -> None:
        wanted = {"runner_type": "project_type", "project_id": project.id, "run_untagged": False}
        with pytest.raises(gitlab.GitlabCreateError, match="untagged") as caught:
            server.gl.user.runners.create(wanted)
        assert caught.value.response_code == 400

    def test_user_without_a_choice_of_password(self, server: Server) -> None:
        if not server.admin:
            pytest.skip("only an administrator can make users")
        wanted = {"username": "nobody-yet", "name": "Nobody", "email": "nobody-yet@example.com"}
        with pytest.raises(gitlab.GitlabCreateError, match="force_random_password") as caught:
            server.gl.users.create(wanted)
        assert caught.value.response_code == 400

    def test_value_that_can_not_be_masked(self, project: Any) -> None:
        with pytest.raises(gitlab.GitlabCreateError, match="is invalid"):
            project.variables.create({"key": "SHORT", "value": "abc", "masked": True})


class TestScopes:
    @pytest.mark.parametrize(
        ("scope", "method", "path", "status"),
        [
            ("read_user", "GET", "/user", 200),
            ("read_user", "GET", "/projects", 403),
            ("read_api", "GET", "/projects", 200),
            ("read_api", "POST", "/projects", 403),
            ("create_runner", "POST", "/projects", 403),
            ("read_registry", "GET", "/projects", 403),
        ],
    )
    def test_scope(
        self,
        server: Server,
        token_with: Callable[[str], str],
        scope: str,
        method: str,
        path: str,
        status: int,
    ) -> None:
        headers = {"PRIVATE-TOKEN": token_with(scope)}
        answer = server.http.request(method, f"/api/v4{path}", headers=headers)
        assert answer.status_code == status
        if status == 403:
            assert answer.json()["error"] == "insufficient_scope"
            assert "api" in answer.json()["scope"]

    def test_create_runner_is_enough_for_a_runner(
        self, server: Server, token_with: Callable[[str], str], project: Any
    ) -> None:
        client = server.as_user(token_with("create_runner"))
        body = {"runner_type": "project_type", "project_id": project.id, "tag_list": ["a"]}
        made = client.http_post("/user/runners", post_data=body)
        assert made["token"].startswith("glrt-")

    def test_every_token_may_ask_about_itself(self, server: Server, token_with: Callable[[str], str]) -> None:
        client = server.as_user(token_with("read_registry"))
        assert client.personal_access_tokens.get("self").scopes == ["read_registry"]

    def test_revoked_token(self, server: Server, token_with: Callable[[str], str]) -> None:
        client = server.as_user(token_with("api"))
        client.http_delete("/personal_access_tokens/self")
        with pytest.raises(gitlab.GitlabAuthenticationError):
            client.projects.list()


class TestForeignProjects:
    @pytest.fixture
    def stranger(self, server: Server) -> Iterator[gitlab.Gitlab]:
        """Another user without any rights."""
        if not server.admin:
            pytest.skip("only an administrator can make users")
        name = f"stranger-{uuid.uuid4().hex[:8]}"
        user = server.gl.users.create(
            {"username": name, "name": name, "email": f"{name}@example.com", "force_random_password": True}
        )
        token = user.personal_access_tokens.create({"name": "test", "scopes": ["api"]})
        yield server.as_user(token.token)
        user.delete()

    def test_private_project_does_not_exist_for_a_stranger(
        self, stranger: gitlab.Gitlab, project: Any
    ) -> None:
        with pytest.raises(gitlab.GitlabGetError) as caught:
            stranger.projects.get(project.id)
        assert caught.value.response_code == 404

    def test_public_project_is_read_only_for_a_stranger(
        self, stranger: gitlab.Gitlab, make_project: Callable[..., Any]
    ) -> None:
        public = make_project(visibility="public", initialize_with_readme=True)
        foreign = stranger.projects.get(public.id)
        with pytest.raises(gitlab.GitlabCreateError) as caught:
            foreign.pipelines.create({"ref": public.default_branch})
        assert caught.value.response_code in (400, 403)
        with pytest.raises(gitlab.GitlabDeleteError) as refused:
            foreign.delete()
        assert refused.value.response_code == 403

    def test_runner_of_a_foreign_project(self, stranger: gitlab.Gitlab, runner: Runner) -> None:
        with pytest.raises(gitlab.GitlabGetError) as caught:
            stranger.runners.get(runner.id)
        assert caught.value.response_code == 403


class TestLists:
    def test_pages(self, server: Server, make_project: Callable[..., Any]) -> None:
        names = {make_project().name for _ in range(3)}
        found = [project.name for project in server.gl.projects.list(owned=True, iterator=True, per_page=2)]
        assert names <= set(found)
        assert len(found) == len(set(found))

    def test_headers(self, api: httpx.Client, make_project: Callable[..., Any]) -> None:
        for _ in range(3):
            make_project()
        answer = api.get("/projects", params={"owned": True, "per_page": 2})
        assert answer.headers["X-Page"] == "1"
        assert answer.headers["X-Per-Page"] == "2"
        assert answer.headers["X-Next-Page"] == "2"
        assert int(answer.headers["X-Total"]) >= 3
        assert 'rel="next"' in answer.headers["Link"]
        following = api.get(answer.links["next"]["url"])
        assert following.json()[0]["id"] != answer.json()[0]["id"]

    @pytest.mark.parametrize("query", [{"page": 0}, {"page": "x"}, {"per_page": -1}])
    def test_wrong_page(self, api: httpx.Client, query: dict[str, Any]) -> None:
        assert api.get("/projects", params=query).status_code == 400

    def test_runners_by_tag_status_and_project(
        self, server: Server, project: Any, make_runner: Callable[..., Runner], tag: str
    ) -> None:
        runner = make_runner(project, tag)
        runner.request()
        assert [found.id for found in server.gl.runners.list(tag_list=tag, get_all=True)] == [runner.id]
        assert runner.id in [found.id for found in project.runners.list(status="online", get_all=True)]
        assert runner.id not in [found.id for found in project.runners.list(status="stale", get_all=True)]

    def test_jobs_by_scope(self, project: Any, running_job: dict[str, Any]) -> None:
        pipeline = project.pipelines.list(get_all=True)[0]
        assert [job.id for job in pipeline.jobs.list(scope=["running"], get_all=True)] == [running_job["id"]]
        assert pipeline.jobs.list(scope=["success"], get_all=True) == []


def test_job_token_knows_its_job(server: Server, running_job: dict[str, Any]) -> None:
    headers = {"JOB-TOKEN": running_job["token"]}
    answer = server.http.get("/api/v4/job", headers=headers)
    assert (answer.status_code, answer.json()["id"]) == (200, running_job["id"])
    assert server.http.get("/api/v4/projects", headers=headers).status_code in (
        401,
        403,
    )


def test_job_token_ends_with_its_job(server: Server, runner: Runner, running_job: dict[str, Any]) -> None:
    runner.finish(running_job)
    headers = {"JOB-TOKEN": running_job["token"]}
    assert server.http.get("/api/v4/job", headers=headers).status_code == 401


def test_variables_can_be_changed_and_removed(project: Any) -> None:
    project.variables.create({"key": "A", "value": "one"})
    project.variables.update("A", {"value": "two"})
    assert project.variables.get("A").value == "two"
    project.variables.delete("A")
    assert project.variables.list(get_all=True) == []


def test_files_one_by_one(project: Any) -> None:
    data = {"branch": "main", "commit_message": "One [skip ci]"}
    action = {"action": "create", "file_path": "a/b.txt", "content": "one"}
    project.commits.create({**data, "actions": [action]})
    assert project.files.get("a/b.txt", ref="main").decode() == b"one"
    made = project.commits.create({**data, "actions": [{**action, "action": "update", "content": "two"}]})
    assert project.files.raw("a/b.txt", ref="main") == b"two"
    assert project.commits.get("main").id == made.id


def test_python_gitlabs_command_line(server: Server, project: Any, tag: str, tmp_path: Path) -> None:
    """The `gitlab` command: the project, its pipelines, a job's log."""
    config = tmp_path / "python-gitlab.cfg"
    trusted = f"ssl_verify = {server.target.ca_file}\n" if server.target.ca_file else ""
    config.write_text(
        f"[global]\ndefault = it\n[it]\nurl = {server.url}\nprivate_token = {server.token}\n{trusted}"
    )
    config.chmod(0o600)

    def command(*arguments: str) -> Any:
        argv = [sys.executable, "-m", "gitlab", "--config-file", str(config), "-o", "json", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert command("current-user", "get")["username"] == server.gl.user.username
    assert command("project", "get", "--id", project.path_with_namespace)["id"] == project.id
    commit_to(project, CI_FILE.format(tag=tag))
    made = command("project-pipeline", "create", "--project-id", str(project.id), "--ref", "main")
    jobs = command(
        "project-pipeline-job", "list", "--project-id", str(project.id), "--pipeline-id", str(made["id"])
    )
    assert [job["status"] for job in jobs] == ["pending"]
