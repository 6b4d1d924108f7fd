"""Killed and started again on the same state; lost runners; timeouts that GitLab itself has to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import EnvironmentProblem
from harness.gitlab.client import GitLabTarget, connect
from harness.gitlab.embedded import EmbeddedGitLab
from selftests.gitlab.conftest import CI_FILE, Server, commit_to
from selftests.gitlab.runner_client import Runner
from selftests.gitlab.test_bad_input import started_job

pytestmark = pytest.mark.embedded_only


def test_no_job_is_lost_and_none_runs_twice(
    embedded: Callable[..., Server], tmp_path: Path, tag: str
) -> None:
    """Preconditions: one job runs, two are pending; the process is killed with SIGKILL and started again."""
    state = tmp_path / "gitlab"
    first = embedded(state_dir=state)
    port = int(first.url.rpartition(":")[2])
    project, runner, running = started_job(first, tag)
    assert runner.patch(running, b"before\n").status_code == 202
    for _ in range(2):
        project.pipelines.create({"ref": "main"})
    os.kill(EmbeddedGitLab.attach(state).pid, signal.SIGKILL)

    second = embedded(state_dir=state, port=port)
    assert second.token == first.token
    again = Runner(second.url, runner.token)
    assert again.patch(running, b"after\n", 7).status_code == 202
    assert again.finish(running, log=b"before\nafter\n").status_code == 200
    taken = [again.take() for _ in range(2)]
    assert len({running["id"], *(job["id"] for job in taken)}) == 3
    again.last_update = ""
    assert again.request().status_code == 204
    for job in taken:
        again.finish(job)
    found = second.gl.projects.get(project.id)
    assert {job.status for job in found.jobs.list(get_all=True)} == {"success"}
    assert found.jobs.get(running["id"]).trace() == b"before\nafter\n"


def wait_for_status(project: Any, job: dict[str, Any], status: str, timeout_s: float = 30) -> Any:
    end = time.monotonic() + timeout_s
    while (found := project.jobs.get(job["id"])).status != status:
        assert time.monotonic() < end, f"job is {found.status}, not {status}"
        time.sleep(0.2)
    return found


def test_job_of_a_lost_runner_fails(embedded: Callable[..., Server], tag: str) -> None:
    server = embedded("--stuck-after", "1")
    project, runner, job = started_job(server, tag)
    found = wait_for_status(project, job, "failed")
    assert found.failure_reason == "stuck_or_timeout_failure"
    assert project.pipelines.list(get_all=True)[0].status == "failed"
    assert runner.patch(job, b"late").status_code == 403


def test_job_beyond_its_timeout_fails_though_the_runner_goes_on(
    embedded: Callable[..., Server], tag: str
) -> None:
    server = embedded("--timeout-grace", "0")
    project = server.gl.projects.create({"name": "timeout"})
    wanted = {"runner_type": "project_type", "project_id": project.id, "tag_list": [tag]}
    runner = server.runner(server.gl.user.runners.create(wanted).token)
    commit_to(project, CI_FILE.format(tag=tag) + "  timeout: 1 second\n")
    project.pipelines.create({"ref": "main"})
    job = runner.take()
    assert job["runner_info"]["timeout"] == 1
    assert wait_for_status(project, job, "failed").failure_reason == "job_execution_timeout"


def test_silent_runner_goes_offline(embedded: Callable[..., Server], tag: str) -> None:
    server = embedded("--online-for", "3")
    _, runner, _ = started_job(server, tag)
    runner_id = server.gl.runners.list(get_all=True)[0].id
    assert server.gl.runners.get(runner_id).status == "online"
    end = time.monotonic() + 20
    while server.gl.runners.get(runner_id).status != "offline":
        assert time.monotonic() < end
        time.sleep(0.2)
    runner.request()
    assert server.gl.runners.get(runner_id).status == "online"


class TestProcess:
    @pytest.mark.parametrize(
        ("listen", "state", "code", "said"),
        [
            ("192.0.2.1:0", "state", 10, "can't listen on 192.0.2.1:0: Cannot assign requested address"),
            ("127.0.0.1:http", "state", 2, "--listen '127.0.0.1:http' is no ADDRESS:PORT"),
            ("127.0.0.1:65536", "state", 2, "--listen '127.0.0.1:65536' is no ADDRESS:PORT"),
            ("127.0.0.1:0", "file/state", 10, "can't keep state in file/state: Not a directory"),
            ("127.0.0.1:0", "garbage", 10, "can't keep state in garbage: file is not a database"),
        ],
    )
    def test_what_its_host_lacks_is_a_sentence(
        self, tmp_path: Path, listen: str, state: str, code: int, said: str
    ) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "garbage").mkdir()
        (tmp_path / "garbage/gitlab.sqlite3").write_text("garbage" * 1000)
        done = subprocess.run(
            [sys.executable, "-m", "embedded_gitlab", "--listen", listen, "--state", state],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        assert done.stderr.splitlines()[-1].endswith(said)
        assert "Traceback" not in done.stderr

    def test_credentials_are_random_and_for_the_owner_only(self, tmp_path: Path) -> None:
        tokens = set()
        for name in ("a", "b"):
            with EmbeddedGitLab("127.0.0.1", tmp_path / name) as process:
                tokens.add(process.token.reveal())
                assert (tmp_path / name / "administrator.json").stat().st_mode & 0o777 == 0o600
                assert (tmp_path / name / "registry-token.key").stat().st_mode & 0o777 == 0o600
                assert (tmp_path / name).stat().st_mode & 0o777 == 0o700
                command = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
                assert process.token.reveal() not in command
        assert len(tokens) == 2

    def test_another_process_attaches_and_stops_it(self, tmp_path: Path) -> None:
        process = EmbeddedGitLab("127.0.0.1", tmp_path / "it").start()
        attached = EmbeddedGitLab.attach(tmp_path / "it")
        assert (attached.url, attached.token) == (process.url, process.token)
        assert attached.healthy()
        EmbeddedGitLab.stop_at(tmp_path / "it")
        process.stop()
        with pytest.raises(EnvironmentProblem, match="no embedded GitLab"):
            EmbeddedGitLab.attach(tmp_path / "it")

    def test_address_that_is_not_ours(self, tmp_path: Path) -> None:
        with pytest.raises(EnvironmentProblem, match=r"did not start on 192\.0\.2\.1") as caught:
            EmbeddedGitLab("192.0.2.1", tmp_path / "it").start()
        assert "Cannot assign requested address" in caught.value.evidence

    def test_stops_quickly_while_a_request_is_held(self, tmp_path: Path, tag: str) -> None:
        process = EmbeddedGitLab("127.0.0.1", tmp_path / "it", long_poll_s=50).start()
        client = connect(GitLabTarget(process.url, process.token))
        client.auth()
        made = client.user.runners.create({"runner_type": "instance_type", "tag_list": [tag]})
        runner = Runner(process.url, made.token)
        runner.request()
        answers: list[int] = []
        held = threading.Thread(target=lambda: answers.append(runner.request().status_code))
        held.start()
        time.sleep(0.3)  # let the request be held
        begin = time.monotonic()
        process.stop()
        held.join(10)
        assert time.monotonic() - begin < 5
        assert answers == [204]
