"""What no client may do: hold up others, get in, reach what isn't its own, fill the memory."""

from __future__ import annotations

import gzip
import os
import select
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gitlab
import httpx
import pytest

from bench.gitlab import peak_mib
from harness.gitlab.embedded import EmbeddedGitLab
from selftests.gitlab.conftest import Server, commit_to
from selftests.gitlab.runner_client import INFO, Runner
from selftests.gitlab.test_bad_input import MIB, raw, started_job

LONG_ID = "9" * 5000


@pytest.fixture
def stranger(server: Server) -> Iterator[tuple[gitlab.Gitlab, Any]]:
    """Another user, and a project of theirs."""
    if not server.admin:
        pytest.skip("only an administrator can make users")
    name = f"stranger-{uuid.uuid4().hex[:8]}"
    user = server.gl.users.create(
        {"username": name, "name": name, "email": f"{name}@example.com", "force_random_password": True}
    )
    client = server.as_user(user.personal_access_tokens.create({"name": "test", "scopes": ["api"]}).token)
    client.auth()
    yield client, client.projects.create({"name": "theirs"})
    user.delete()


class TestCharacters:
    @pytest.mark.parametrize("path", ["runners/verify", "runners", "jobs/request", "projects"])
    @pytest.mark.parametrize("value", ['"\\ud800"', '"\\udfff x"', '{"a": "\\ud800"}', '["\\ud834"]'])
    def test_lone_surrogate_is_no_character(self, server: Server, path: str, value: str) -> None:
        body = f'{{"token": {value}, "name": {value}, "system_id": "s"}}'
        headers = {"Content-Type": "application/json", "PRIVATE-TOKEN": server.token}
        assert server.http.post(f"/api/v4/{path}", content=body, headers=headers).status_code == 400

    def test_surrogate_as_bytes_is_none_either(self, server: Server) -> None:
        body, kind = b'{"token": "\xed\xa0\x80"}', {"Content-Type": "application/json"}
        assert server.http.post("/api/v4/runners/verify", content=body, headers=kind).status_code == 400

    @pytest.mark.parametrize("charset", ["no-such", "utf-16", "rot13"])
    def test_charset_that_is_none(self, server: Server, charset: str) -> None:
        kind = f"multipart/form-data; boundary=b; charset={charset}"
        body = b'--b\r\nContent-Disposition: form-data; name="token"\r\n\r\nx\r\n--b--\r\n'
        answer = server.http.post("/api/v4/runners/verify", content=body, headers={"Content-Type": kind})
        assert answer.status_code in (400, 403)


class TestIds:
    @pytest.mark.parametrize("digits", ["9" * 18, "9" * 19, "9" * 20, LONG_ID])
    @pytest.mark.parametrize(
        "path", ["projects/{}", "runners/{}", "users/{}", "projects/{}/jobs/1", "projects/{}/variables"]
    )
    def test_id_beyond_all_ids_is_not_found(self, server: Server, path: str, digits: str) -> None:
        answer = server.http.get(f"/api/v4/{path.format(digits)}", headers={"PRIVATE-TOKEN": server.token})
        assert answer.status_code == 404

    def test_first_digits_of_an_id_are_not_the_id(self, server: Server, project: Any) -> None:
        digits = str(project.id).zfill(18) + "7"
        answer = server.http.get(f"/api/v4/projects/{digits}", headers={"PRIVATE-TOKEN": server.token})
        assert answer.status_code == 404

    @pytest.mark.parametrize("value", ["9" * 30, "1_0", "\uff11", " 1", 10**30, 1.5, True, [1]])
    def test_number_that_is_none(self, server: Server, project: Any, value: Any) -> None:
        answer = server.http.post(
            f"/api/v4/projects/{project.id}/runners",
            json={"runner_id": value},
            headers={"PRIVATE-TOKEN": server.token},
        )
        assert answer.status_code in (400, 404)

    @pytest.mark.embedded_only
    @pytest.mark.parametrize("kind", ["jobs", "pipelines"])
    def test_long_id_on_the_page(self, server: Server, project: Any, kind: str) -> None:
        path = f"/{project.path_with_namespace}/-/{kind}/{LONG_ID}"
        assert server.http.get(path, auth=("root", server.token)).status_code == 404


class TestRefs:
    BAD = ("@", "HEAD", "a//b", "/a", "a/", "a.", ".a", "a/.b", "a.lock/b", "a@{b", "a\\b", "a\x7f", "a:b",
           "a?", "a*", "a[", "a^", "refs/heads/x", "refs/tags/x", "-x", "a b", "../x", "x" * 300)  # fmt: skip

    @pytest.mark.parametrize("name", BAD)
    def test_name_that_git_refuses(self, project: Any, name: str) -> None:
        action = {"action": "create", "file_path": "a", "content": "x"}
        with pytest.raises(gitlab.GitlabCreateError) as caught:
            project.commits.create({"branch": name, "commit_message": "x", "actions": [action]})
        assert caught.value.response_code == 400
        assert project.branches.list(get_all=True) == []

    @pytest.mark.parametrize("name", ["a/b", "A.b", "ünïcode", "a@b", "a-b_c", "{a}"])
    def test_name_that_git_takes(self, project: Any, name: str) -> None:
        commit_to(project, "a: {script: [x]}\n", branch=name)
        assert [branch.name for branch in project.branches.list(get_all=True)] == [name]

    def test_branch_below_a_branch(self, project: Any) -> None:
        commit_to(project, "a: {script: [x]}\n")
        for name in ("main/below", "main/below/it"):
            action = {"action": "create", "file_path": "a", "content": "x"}
            wanted = {"branch": name, "start_branch": "main", "commit_message": "x", "actions": [action]}
            with pytest.raises(gitlab.GitlabCreateError) as caught:
                project.commits.create(wanted)
            assert caught.value.response_code == 400

    def test_author_can_not_write_the_commit(self, project: Any) -> None:
        """A line break in a name would add lines to the commit's header."""
        action = {"action": "create", "file_path": "a", "content": "x"}
        made = project.commits.create(
            {"branch": "main", "commit_message": "x [skip ci]", "actions": [action],
             "author_name": "A\nparent 1", "author_email": "a>\n@example.com"}
        )  # fmt: skip
        assert (made.parent_ids, made.author_name) == ([], "Aparent 1")


class TestWhoMayAssign:
    def test_stranger_takes_no_runner_of_others(
        self, stranger: tuple[gitlab.Gitlab, Any], runner: Runner, project: Any, tag: str
    ) -> None:
        _, theirs = stranger
        with pytest.raises(gitlab.GitlabCreateError) as caught:
            theirs.runners.create({"runner_id": runner.id})
        assert (caught.value.response_code, "No access granted" in str(caught.value)) == (403, True)
        commit_to(theirs, f"a: {{script: [x], tags: [{tag}]}}\n")
        theirs.pipelines.create({"ref": "main"})
        assert runner.request().status_code == 204

    def test_owner_assigns_their_own_unless_it_is_locked(self, stranger: tuple[gitlab.Gitlab, Any]) -> None:
        client, theirs = stranger
        second = client.projects.create({"name": "second"})
        wanted = {"runner_type": "project_type", "project_id": theirs.id, "tag_list": ["t"]}
        made = client.user.runners.create(wanted)
        second.runners.create({"runner_id": made.id})
        with pytest.raises(gitlab.GitlabDeleteError, match="more than one project"):
            client.runners.delete(made.id)
        locked = client.user.runners.create({**wanted, "locked": True})
        with pytest.raises(gitlab.GitlabCreateError, match="Runner is locked"):
            second.runners.create({"runner_id": locked.id})


class TestProtocol:
    def test_router_discovery_is_what_an_older_gitlab_answers(self, server: Server, runner: Runner) -> None:
        """gitlab-runner 19 asks for it; where there is none it asks for jobs as before."""
        answer = runner.http.get("/runners/router/discovery", headers={"Runner-Token": runner.token})
        if server.state_dir is None and answer.status_code != 404:
            pytest.skip("this GitLab has a job router")
        assert (answer.status_code, answer.json()) == (404, {"error": "404 Not Found"})

    def test_interrupted_runner_says_so(
        self, runner: Runner, running_job: dict[str, Any], project: Any
    ) -> None:
        """gitlab-runner 19 on SIGTERM."""
        runner.finish(running_job, "failed", failure_reason="runner_interrupted")
        job = project.jobs.get(running_job["id"])
        assert (job.status, job.failure_reason) == ("failed", "runner_interrupted")
        assert "runner_interrupted" in running_job["features"]["failure_reasons"]

    @pytest.mark.embedded_only
    def test_stamps_are_left_out_on_the_page(
        self, server: Server, runner: Runner, running_job: dict[str, Any], project: Any
    ) -> None:
        """gitlab-runner 18.7 and later begin each line with time and stream; the raw log keeps them."""
        line = b"2026-11-25T10:00:00.123456Z 01O hello\n2026-11-25T10:00:00.223456Z 01E+world\n"
        runner.patch(running_job, line)
        path = f"/{project.path_with_namespace}/-/jobs/{running_job['id']}"
        assert "<pre>hello\nworld\n</pre>" in server.http.get(path, auth=("root", server.token)).text
        assert project.jobs.get(running_job["id"]).trace() == line

    @pytest.mark.embedded_only
    def test_inputs_are_refused_by_name(self, project: Any) -> None:
        commit_to(project, "a: {script: [x]}\n")
        with pytest.raises(gitlab.GitlabCreateError, match="inputs is a parameter that this GitLab"):
            project.pipelines.create({"ref": "main", "inputs": {"a": "b"}})

    @pytest.mark.parametrize("length", [255, 256])
    def test_name_of_a_job_is_limited(self, project: Any, length: int) -> None:
        commit_to(project, f"{'n' * length}: {{script: [x]}}\n")
        if length == 255:
            project.pipelines.create({"ref": "main"})
            return
        with pytest.raises(gitlab.GitlabCreateError, match="name is too long"):
            project.pipelines.create({"ref": "main"})


def test_depth_of_very_many_digits(runner: Runner, project: Any, tag: str) -> None:
    commit_to(project, f"a: {{script: [x], tags: [{tag}], variables: {{GIT_DEPTH: '{LONG_ID}'}}}}\n")
    project.pipelines.create({"ref": "main"})
    assert runner.take()["git_info"]["depth"] == 20


@pytest.mark.embedded_only
class TestPatience:
    """Clients that stop are given up, and meanwhile nobody waits for them."""

    @pytest.fixture
    def hasty(self, embedded: Callable[..., Server]) -> Server:
        return embedded("--client-timeout", "1")

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            (b"", 0),
            (b"GET /api/v4/version HTTP/1.1\r\nHost: x\r\n", 0),
            (b"P", 0),
            (b"POST /api/v4/runners/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n"
             b"Content-Type: application/json\r\n\r\n{", 408),
            (b"GET /api/v4/version HTTP/1.1\r\nHost: x\r\n\r\nGET /api/v4/ver", 401),
        ],
        ids=["nothing", "half a head", "a byte", "half a body", "half a second head"],
    )  # fmt: skip
    def test_request_that_stops(self, hasty: Server, sent: bytes, status: int) -> None:
        host, _, port = hasty.url.rpartition("//")[2].partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(sent)
            begin, received = time.monotonic(), b""
            while piece := connection.recv(65536):  # until it is closed
                received += piece
            assert time.monotonic() - begin < 10
            assert (int(received.split()[1]) if received else 0) == status

    def test_head_that_trickles(self, hasty: Server) -> None:
        host, _, port = hasty.url.rpartition("//")[2].partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            begin = time.monotonic()
            while not select.select([connection], [], [], 0.1)[0]:  # readable: it was closed
                assert time.monotonic() - begin < 8
                connection.sendall(b"G")

    def test_many_that_stop_hold_up_nobody(self, hasty: Server) -> None:
        host, _, port = hasty.url.rpartition("//")[2].partition(":")
        stopped = [socket.create_connection((host, int(port)), timeout=20) for _ in range(100)]
        for connection in stopped:
            connection.sendall(b"GET / HTTP/1.1\r\nHost")
        begin = time.monotonic()
        assert hasty.http.get("/api/v4/version").status_code == 401
        assert time.monotonic() - begin < 1
        for connection in stopped:
            connection.close()

    def test_connections_are_bounded(self, embedded: Callable[..., Server]) -> None:
        server = embedded()
        host, _, port = server.url.rpartition("//")[2].partition(":")
        pid = EmbeddedGitLab.attach(server.state_dir or Path()).pid
        opened = [socket.create_connection((host, int(port)), timeout=20) for _ in range(600)]
        time.sleep(1)  # until they are accepted
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 560
        for connection in opened:
            connection.close()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                assert httpx.get(f"{server.url}/api/v4/version", trust_env=False).status_code == 401
                return
            except httpx.TransportError:
                time.sleep(0.2)
        raise AssertionError("nobody gets in any more")


@pytest.mark.embedded_only
class TestMemory:
    def test_bodies_of_all_requests_are_bounded(self, embedded: Callable[..., Server]) -> None:
        """Twenty clients with 9 MiB each, that all stop before the end."""
        server = embedded()
        pid = EmbeddedGitLab.attach(server.state_dir or Path()).pid
        before = peak_mib(pid)
        head = (
            f"POST /api/v4/projects HTTP/1.1\nHost: x\nPRIVATE-TOKEN: {server.token}\n"
            f"Content-Type: application/json\nContent-Length: {9 * MIB + 1}"
        )
        stopped = []
        for _ in range(20):
            try:
                stopped.append(raw(server, head, b"x" * (9 * MIB)))
            except OSError:
                continue  # refused while it sent: 429
        assert server.http.get("/api/v4/version").status_code == 401
        assert peak_mib(pid) - before < 150
        for connection in stopped:
            connection.close()

    def test_packed_body_of_git_is_unpacked_in_pieces(self, embedded: Callable[..., Server]) -> None:
        server = embedded()
        project = server.gl.projects.create({"name": "public", "visibility": "public"})
        commit_to(project, "a: {script: [x]}\n")
        pid = EmbeddedGitLab.attach(server.state_dir or Path()).pid
        bomb = gzip.compress(b"0" * (200 * MIB), 9)
        before = peak_mib(pid)
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/x-git-upload-pack-request"}
        path = f"/{project.path_with_namespace}.git/git-upload-pack"
        answer = server.http.post(path, content=bomb, headers=headers)
        assert answer.status_code in (200, 400)
        assert peak_mib(pid) - before < 30

    @pytest.mark.parametrize("fields", [5000, 200_000])
    def test_form_of_very_many_fields(self, server: Server, fields: int) -> None:
        headers = {"PRIVATE-TOKEN": server.token, "Content-Type": "application/x-www-form-urlencoded"}
        body = "&".join(f"a{i}=b" for i in range(fields))
        begin = time.monotonic()
        answer = server.http.post("/api/v4/projects", content=body, headers=headers)
        assert (answer.status_code, "declared format" in answer.text) == (400, True)
        assert time.monotonic() - begin < 5

    def test_commit_of_very_many_files(self, server: Server, project: Any) -> None:
        actions = [{"action": "create", "file_path": f"f{i}", "content": ""} for i in range(50_000)]
        begin = time.monotonic()
        with pytest.raises(gitlab.GitlabCreateError) as caught:
            project.commits.create({"branch": "main", "commit_message": "x", "actions": actions})
        assert caught.value.response_code == 400
        assert time.monotonic() - begin < 5


class TestJobToken:
    PATHS = ("projects", "projects/{own}", "projects/{own}/variables", "projects/{other}", "runners", "user",
             "projects/{own}/jobs", "projects/{own}/pipelines", "personal_access_tokens/self")  # fmt: skip

    @pytest.mark.embedded_only
    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("header", ["JOB-TOKEN", "PRIVATE-TOKEN"])
    def test_opens_nothing_of_the_api_but_its_job(
        self,
        server: Server,
        make_project: Callable[..., Any],
        running_job: dict[str, Any],
        project: Any,
        path: str,
        header: str,
    ) -> None:
        found = path.format(own=project.id, other=make_project().id)
        answer = server.http.get(f"/api/v4/{found}", headers={header: running_job["token"]})
        assert answer.status_code in (401, 403)

    @pytest.mark.embedded_only
    def test_reads_no_other_project_and_writes_none(
        self, server: Server, make_project: Callable[..., Any], running_job: dict[str, Any], project: Any
    ) -> None:
        credentials = ("gitlab-ci-token", running_job["token"])
        own = f"/{project.path_with_namespace}.git/info/refs"
        assert server.http.get(f"{own}?service=git-upload-pack", auth=credentials).status_code == 200
        assert server.http.get(f"{own}?service=git-receive-pack", auth=credentials).status_code == 403
        for visibility in ("private", "internal"):
            other = make_project(visibility=visibility)
            path = f"/{other.path_with_namespace}.git/info/refs?service=git-upload-pack"
            assert server.http.get(path, auth=credentials).status_code in (403, 404)

    @pytest.mark.parametrize("end", ["success", "canceled"])
    def test_ends_with_the_job(
        self, server: Server, runner: Runner, running_job: dict[str, Any], project: Any, end: str
    ) -> None:
        path = f"/{project.path_with_namespace}.git/info/refs?service=git-upload-pack"
        credentials = ("gitlab-ci-token", running_job["token"])
        assert server.http.get(path, auth=credentials).status_code == 200
        if end == "success":
            runner.finish(running_job)
        else:
            project.jobs.get(running_job["id"]).cancel()
        assert server.http.get(path, auth=credentials).status_code == 401


@pytest.mark.embedded_only
def test_no_route_answers_without_credentials(server: Server) -> None:
    """Each route of the application, without credentials: 4xx, or the sign-in of the page."""
    from embedded_gitlab import app as application
    from embedded_gitlab.git_http import ROUTES as GIT
    from embedded_gitlab.web import ROUTES as WEB

    api = [module.ROUTES for module in (application.runner_protocol, application.runners, application.users,
           application.projects, application.repository, application.pipeline_api,
           application.registry_api)]  # fmt: skip
    asked = 0
    for prefix, routes in [("/api/v4", route) for route in api] + [("", GIT), ("", WEB)]:
        for route in routes:
            path = prefix + route.path.replace("{project:path}", "root/x").replace("{", "").replace("}", "")
            for method in route.methods or ():
                answer = server.http.request(method, path, json={})
                assert 400 <= answer.status_code < 500, (method, path, answer.status_code)
                asked += 1
    assert asked > 80


@pytest.mark.embedded_only
def test_state_is_whole_after_a_kill_in_the_middle_of_work(
    embedded: Callable[..., Server], tmp_path: Path, tag: str
) -> None:
    """Preconditions: killed while commits, pipelines and logs are written, five times over."""
    state, project_id, port = tmp_path / "gitlab", 0, 0
    for turn in range(5):
        server = embedded(state_dir=state, port=port)
        port = int(server.url.rpartition(":")[2])
        if turn == 0:
            project, _, _ = started_job(server, tag)
            project_id = project.id
        pid = EmbeddedGitLab.attach(state).pid
        body = {"branch": "main", "commit_message": "x", "actions": []}
        headers = {"PRIVATE-TOKEN": server.token}
        with httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=20) as http:
            for count in range(5 + turn):
                action = {"action": "create", "file_path": f"{turn}-{count}", "content": "x" * 1000}
                url = f"/api/v4/projects/{project_id}/repository/commits"
                assert http.post(url, json={**body, "actions": [action]}).status_code == 201
            head = f"POST {url} HTTP/1.1\nHost: x\nPRIVATE-TOKEN: {server.token}\nContent-Length: 100000"
            sending = raw(server, f"{head}\nContent-Type: application/json", b'{"branch": ')
            os.kill(pid, signal.SIGKILL)
            sending.close()
    last = embedded(state_dir=state, port=port)
    found = last.gl.projects.get(project_id)
    files = {entry["path"] for entry in found.repository_tree(ref="main", iterator=True, recursive=True)}
    assert {f"{turn}-{count}" for turn in range(5) for count in range(5 + turn)} <= files
    assert found.commits.get("main").title == "x"
    pipelines = found.pipelines.list(get_all=True)
    assert len(pipelines) == len({p.iid for p in pipelines}) == 37
    assert all(p.jobs.list(get_all=True) for p in pipelines if p.status != "skipped")


def test_info_of_every_runner_is_taken(runner: Runner) -> None:
    """What gitlab-runner 19 reports beside 16's."""
    info = {
        **INFO,
        "version": "19.3.0",
        "labels": {"a": "b"},
        "features": {**INFO["features"], "job_inputs": True},
    }
    assert runner.request(info=info).status_code == 204
