"""Bad input: the answer is GitLab's own, and the state is what it was."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import gitlab
import pytest

from selftests.gitlab.conftest import CI_FILE, Server, commit_to
from selftests.gitlab.runner_client import Runner

MIB = 1024 * 1024


def raw(server: Server, head: str, body: bytes = b"") -> socket.socket:
    """An open connection after a request was sent as it is; ``Host: x`` becomes the server's own."""
    parts = urlsplit(server.url)
    host, tls = parts.hostname or "", parts.scheme == "https"
    connection = socket.create_connection((host, parts.port or (443 if tls else 80)), timeout=10)
    if tls:
        context = ssl.create_default_context(cafile=server.target.ca_file)
        connection = context.wrap_socket(connection, server_hostname=host)
    head = head.replace("Host: x\n", f"Host: {parts.netloc}\n")
    connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    return connection


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "../evil",
            "/etc/passwd",
            "a/../../b",
            ".git/config",
            "a/.GIT/hooks/x",
            "a//b",
            ".",
            "a\x00b",
            "a\nb",
            "",
        ],
    )
    def test_file_outside_the_tree_is_refused(self, project: Any, path: str) -> None:
        action = {"action": "create", "file_path": path, "content": "x"}
        with pytest.raises(gitlab.GitlabCreateError) as caught:
            project.commits.create({"branch": "main", "commit_message": "x", "actions": [action]})
        assert caught.value.response_code == 400
        assert project.branches.list(get_all=True) == []

    @pytest.mark.parametrize(
        "branch", ["../x", "-x", "a..b", "a b", "a~1", "refs/heads/x", ".lock", "x.lock", ""]
    )
    def test_branch_name_that_git_refuses(self, project: Any, branch: str) -> None:
        action = {"action": "create", "file_path": "a", "content": "x"}
        with pytest.raises(gitlab.GitlabCreateError) as caught:
            project.commits.create({"branch": branch, "commit_message": "x", "actions": [action]})
        assert caught.value.response_code == 400

    @pytest.mark.parametrize("path", ["../x", "a/b", "-x", "x.git", "x.atom", "..", "a\x00b", "a b"])
    def test_project_path_that_is_refused(self, server: Server, path: str) -> None:
        with pytest.raises(gitlab.GitlabCreateError) as caught:
            server.gl.projects.create({"name": "Name", "path": path})
        assert caught.value.response_code == 400

    @pytest.mark.parametrize(
        "path",
        [
            "/..%2f..%2fetc/passwd.git/info/refs?service=git-upload-pack",
            "/root/../../x.git/info/refs?service=git-upload-pack",
            "/root%00/x.git/info/refs?service=git-upload-pack",
            "/root/x.git/info/refs?service=git-upload-archive",
            "/root/x.git/info/refs?service=../../bin/sh",
        ],
    )
    def test_repository_that_is_none(self, server: Server, path: str) -> None:
        with raw(server, f"GET {path} HTTP/1.1\nHost: x\nConnection: close") as connection:
            status = int(connection.makefile("rb").readline().split()[1])
        assert status in (400, 401, 404)

    @pytest.mark.parametrize("path", ["projects/%00", "projects/1%0a", "runners/abc", "projects/1/jobs/-1"])
    def test_ids_that_are_none(self, server: Server, path: str) -> None:
        with raw(
            server, f"GET /api/v4/{path} HTTP/1.1\nHost: x\nPRIVATE-TOKEN: {server.token}\nConnection: close"
        ) as c:
            status = int(c.makefile("rb").readline().split()[1])
        assert status in (400, 404)


class TestBodies:
    @pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000])
    def test_malformed_json(self, server: Server, body: bytes) -> None:
        headers = {"PRIVATE-TOKEN": server.token, "Content-Type": "application/json"}
        answer = server.http.post("/api/v4/projects", content=body, headers=headers)
        assert answer.status_code == 400

    def test_wrong_types(self, server: Server, project: Any) -> None:
        headers = {"PRIVATE-TOKEN": server.token}
        base = f"/api/v4/projects/{project.id}"
        for path, body in (
            ("repository/commits", {"branch": "main", "commit_message": "x", "actions": "no list"}),
            ("repository/commits", {"branch": "main", "commit_message": "x", "actions": [5]}),
            ("repository/commits", {"branch": ["main"], "commit_message": "x", "actions": []}),
            ("pipeline", {"ref": {"a": 1}}),
            ("pipeline", {"ref": "main", "variables": "x"}),
            ("variables", {"key": "A B", "value": "x"}),
            ("runners", {"runner_id": "x"}),
        ):
            answer = server.http.post(f"{base}/{path}", json=body, headers=headers)
            assert answer.status_code == 400, (path, body, answer.text)

    def test_job_request_larger_than_workhorse_takes(self, runner: Runner) -> None:
        answer = runner.request(info={"name": "x" * 40_000})
        assert answer.status_code == 413
        assert runner.request().status_code == 204

    def test_api_body_beyond_the_limit(self, embedded: Callable[..., Server]) -> None:
        server = embedded()
        headers = {"PRIVATE-TOKEN": server.token, "Content-Type": "application/json"}
        answer = server.http.post("/api/v4/projects", content=b"x" * (11 * MIB), headers=headers)
        assert answer.status_code == 413

    @pytest.mark.parametrize("info", [None, [], "x", {"features": "x"}, {"version": 5}])
    def test_odd_info_of_a_runner(self, runner: Runner, info: Any) -> None:
        body = {"token": runner.token, "system_id": "s_odd", "info": info}
        assert runner.http.post("/jobs/request", json=body).status_code == 204

    @pytest.mark.parametrize("system_id", [5, "x" * 1000, {"a": 1}])
    def test_odd_system_id(self, server: Server, runner: Runner, system_id: Any) -> None:
        body = {"token": runner.token, "system_id": system_id}
        assert runner.http.post("/jobs/request", json=body).status_code in (204, 400)
        assert server.gl.http_list(f"/runners/{runner.id}/managers", get_all=True) == []


class TestConfiguration:
    @pytest.mark.parametrize(
        "content",
        [
            "a: &a [*a]\n",
            "x: &x [1,1]\n"
            + "".join(f"x{i}: &x{i} [*x{i - 1 or ''},*x{i - 1 or ''}]\n" for i in range(1, 30)),
            "a: !!python/object/apply:os.system ['touch /tmp/evil']\n",
            "a: {script: " + "[" * 50 + "echo" + "]" * 50 + "}\n",
            "\x01: x\n",
            "a: {script: [echo]}\n" * 2 + "b: [",
            "",
        ],
        ids=["cycle", "bomb", "python", "deep", "control", "cut", "empty"],
    )
    def test_hostile_yaml(self, project: Any, content: str) -> None:
        commit_to(project, content)
        begin = time.monotonic()
        with pytest.raises(gitlab.GitlabCreateError) as caught:
            project.pipelines.create({"ref": "main"})
        assert caught.value.response_code == 400
        assert time.monotonic() - begin < 10

    def test_expression_that_is_none(self, project: Any) -> None:
        commit_to(project, "a:\n  script: [echo]\n  rules: [{if: '$A == == $B'}]\n")
        with pytest.raises(gitlab.GitlabCreateError, match="a:rules:rule if invalid expression syntax"):
            project.pipelines.create({"ref": "main"})


class TestLogs:
    def test_log_beyond_the_limit_fails_the_job(self, embedded: Callable[..., Server], tag: str) -> None:
        server = embedded("--trace-limit-mib", "2")
        project, runner, job = started_job(server, tag)
        assert runner.patch(job, b"x" * MIB).status_code == 202
        assert runner.patch(job, b"y" * MIB, MIB).status_code == 403
        found = project.jobs.get(job["id"])
        assert (found.status, found.failure_reason) == ("failed", "trace_size_exceeded")
        assert found.trace() == b"x" * MIB

    def test_declared_size_is_enough_to_refuse(self, embedded: Callable[..., Server], tag: str) -> None:
        server = embedded("--trace-limit-mib", "2")
        _, _, job = started_job(server, tag)
        head = (
            f"PATCH /api/v4/jobs/{job['id']}/trace HTTP/1.1\nHost: x\nJOB-TOKEN: {job['token']}\n"
            f"Content-Range: 0-{10**9}\nContent-Length: {10**9}"
        )
        with raw(server, head, b"only a few bytes") as connection:
            assert b"403" in connection.makefile("rb").readline()

    @pytest.mark.parametrize("span", ["", "x", "-5", "5", "0--5", "99999999999999999999-1"])
    def test_odd_content_range(
        self, runner: Runner, running_job: dict[str, Any], project: Any, span: str
    ) -> None:
        answer = runner.patch(running_job, b"x", **{"Content-Range": span})
        assert answer.status_code in (400, 416, 202)
        assert project.jobs.get(running_job["id"]).trace() in (b"", b"x")

    def test_job_token_in_the_log_is_blotted_out(
        self, runner: Runner, running_job: dict[str, Any], project: Any
    ) -> None:
        line = f"token: {running_job['token']}\n".encode()
        assert runner.patch(running_job, line).status_code == 202
        log = project.jobs.get(running_job["id"]).trace()
        assert running_job["token"].encode() not in log
        assert len(log) == len(line)


class TestClients:
    def test_client_that_sends_half_a_piece_of_log(
        self, server: Server, runner: Runner, running_job: dict[str, Any], project: Any
    ) -> None:
        head = (
            f"PATCH /api/v4/jobs/{running_job['id']}/trace HTTP/1.1\nHost: x\n"
            f"JOB-TOKEN: {running_job['token']}\nContent-Range: 0-99\nContent-Length: 100"
        )
        raw(server, head, b"half").close()
        assert runner.patch(running_job, b"whole\n").status_code == 202
        assert project.jobs.get(running_job["id"]).trace() == b"whole\n"

    def test_client_that_never_reads(self, embedded: Callable[..., Server], tag: str) -> None:
        """A reader that stalls holds up nobody else."""
        server = embedded()
        project, runner, job = started_job(server, tag)
        for count in range(8):
            runner.patch(job, b"x" * MIB, count * MIB)
        path = f"/api/v4/projects/{project.id}/jobs/{job['id']}/trace"
        stalled = [
            raw(server, f"GET {path} HTTP/1.1\nHost: x\nPRIVATE-TOKEN: {server.token}") for _ in range(20)
        ]
        begin = time.monotonic()
        assert runner.put(job, "running").status_code == 200
        assert time.monotonic() - begin < 5
        for connection in stalled:
            connection.close()

    def test_job_is_not_given_to_a_runner_that_hung_up(
        self, embedded: Callable[..., Server], tag: str
    ) -> None:
        """Preconditions: a held request whose client has gone. Expected: the next one gets the job."""
        server = embedded(long_poll_s=30.0)  # held all through the test
        project = server.gl.projects.create({"name": "hang-up"})
        made = server.gl.user.runners.create(
            {"runner_type": "project_type", "project_id": project.id, "tag_list": [tag]}
        )
        runner = server.runner(made.token)
        last = runner.request().headers["X-GitLab-Last-Update"]
        body = f'{{"token": "{made.token}", "last_update": "{last}"}}'.encode()
        head = "POST /api/v4/jobs/request HTTP/1.1\nHost: x\nContent-Type: application/json\n"
        head += f"Content-Length: {len(body)}"
        raw(server, head, body).close()
        time.sleep(0.2)  # let the hang-up arrive
        commit_to(project, CI_FILE.format(tag=tag))
        project.pipelines.create({"ref": "main"})
        assert runner.take()["job_info"]["name"] == "build"


def started_job(server: Server, tag: str) -> tuple[Any, Runner, dict[str, Any]]:
    """A project, a runner and a job that it runs."""
    project = server.gl.projects.create({"name": "started"})
    wanted = {"runner_type": "project_type", "project_id": project.id, "tag_list": [tag]}
    runner = server.runner(server.gl.user.runners.create(wanted).token)
    commit_to(project, CI_FILE.format(tag=tag))
    project.pipelines.create({"ref": "main"})
    return project, runner, runner.take()
