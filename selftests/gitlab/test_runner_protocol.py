"""The runner protocol, as GitLab documents it: registering, asking for jobs, logs, final states, cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from selftests.gitlab.conftest import CI_FILE, Server, commit_to, trust
from selftests.gitlab.runner_client import INFO, Runner

HOLD_S = 30
"""More than any wait of these tests for something that comes by itself."""


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = HOLD_S) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not seen within {timeout_s} s: {what}"
        time.sleep(0.1)


class TestRegistering:
    def test_token_of_a_new_runner_has_the_prefix_and_length_that_runners_need(self, runner: Runner) -> None:
        assert runner.token.startswith("glrt-")
        assert len(runner.token) >= 25

    def test_verify_answers_json_with_the_runners_id(self, runner: Runner) -> None:
        answer = runner.http.post("/runners/verify", json={"token": runner.token, "system_id": "s_1"})
        assert answer.status_code == 200
        assert answer.headers["content-type"].split(";")[0] == "application/json"
        assert answer.json()["id"] == runner.id != 0
        assert answer.json()["token"] == runner.token

    def test_verify_refuses_an_unknown_token(self, runner: Runner) -> None:
        answer = runner.http.post("/runners/verify", json={"token": "glrt-AAAAAAAAAAAAAAAAAAAA"})
        assert (answer.status_code, answer.json()) == (403, {"message": "403 Forbidden"})

    def test_verify_needs_a_token(self, runner: Runner) -> None:
        answer = runner.http.post("/runners/verify", json={})
        assert (answer.status_code, answer.json()["error"]) == (400, "token is missing")

    def test_registration_token_makes_a_runner_of_its_project(self, server: Server, project: Any) -> None:
        token = server.gl.projects.get(project.id).attributes.get("runners_token")
        if not token:
            pytest.skip("this GitLab has registration tokens switched off")
        with httpx.Client(
            base_url=f"{server.url}/api/v4", verify=trust(server.target.ca_file), trust_env=False
        ) as http:
            wanted = {
                "token": token,
                "description": "legacy",
                "tag_list": "a,b",
                "run_untagged": False,
                "info": INFO,
            }
            answer = http.post("/runners", json=wanted)
            if answer.status_code == 410:
                pytest.skip("this GitLab has registration tokens switched off")
            assert answer.status_code == 201
            made = answer.json()
            assert made["token"]
            assert not made["token"].startswith("glrt-")
            shown = server.gl.runners.get(made["id"])
            assert (shown.description, sorted(shown.tag_list), shown.run_untagged) == (
                "legacy",
                ["a", "b"],
                False,
            )
            assert [p["id"] for p in shown.projects] == [project.id]
            assert http.request("DELETE", "/runners", json={"token": made["token"]}).status_code == 204
            assert http.post("/runners/verify", json={"token": made["token"]}).status_code == 403

    def test_wrong_registration_token_is_forbidden(self, runner: Runner) -> None:
        answer = runner.http.post("/runners", json={"token": "GR1348941AAAAAAAAAAAAAAAAAAAA"})
        assert answer.status_code in (403, 410)

    def test_unregistering_a_manager_keeps_the_runner(self, server: Server, runner: Runner) -> None:
        runner.http.post("/runners/verify", json={"token": runner.token, "system_id": "r_gone"})
        body = {"token": runner.token, "system_id": "r_gone"}
        assert runner.http.request("DELETE", "/runners/managers", json=body).status_code == 204
        assert runner.http.post("/runners/verify", json={"token": runner.token}).status_code == 200

    def test_reset_token_makes_the_old_one_worthless(self, runner: Runner) -> None:
        answer = runner.http.post("/runners/reset_authentication_token", json={"token": runner.token})
        assert answer.status_code == 201
        assert answer.json()["token"].startswith("glrt-")
        assert runner.request().status_code == 403
        runner.token = answer.json()["token"]
        assert runner.request().status_code == 204


class TestAskingForJobs:
    def test_without_a_job_204_and_a_queue_value(self, runner: Runner) -> None:
        answer = runner.request()
        assert answer.status_code == 204
        assert answer.headers["X-GitLab-Last-Update"]
        assert answer.content == b""

    def test_unknown_token_is_forbidden(self, server: Server) -> None:
        answer = server.runner("glrt-AAAAAAAAAAAAAAAAAAAA").request()
        assert (answer.status_code, answer.json()) == (403, {"message": "403 Forbidden"})

    def test_queue_value_stays_while_nothing_changes(self, runner: Runner) -> None:
        first = runner.request().headers["X-GitLab-Last-Update"]
        assert runner.request().headers["X-GitLab-Last-Update"] == first

    def test_job_is_handed_out_once(self, runner: Runner, running_job: dict[str, Any]) -> None:
        runner.last_update = ""
        assert runner.request().status_code == 204

    def test_job_goes_only_to_a_runner_with_all_its_tags(
        self, make_runner: Callable[..., Runner], project: Any, tag: str
    ) -> None:
        wrong, right = (
            make_runner(project, f"{tag}-other", run_untagged=True),
            make_runner(project, tag, "more"),
        )
        commit_to(project, CI_FILE.format(tag=tag))
        project.pipelines.create({"ref": "main"})
        assert wrong.request().status_code == 204
        assert right.take()["job_info"]["name"] == "build"

    def test_untagged_job_needs_run_untagged(
        self, make_runner: Callable[..., Runner], project: Any, tag: str
    ) -> None:
        strict = make_runner(project, tag, run_untagged=False)
        willing = make_runner(project, tag, run_untagged=True)
        commit_to(project, "build:\n  script: [echo hi]\n")
        if project.shared_runners_enabled:
            project.shared_runners_enabled = False
            project.save()
        project.pipelines.create({"ref": "main"})
        assert strict.request().status_code == 204
        assert willing.take()["job_info"]["name"] == "build"

    def test_paused_runner_gets_nothing_until_it_is_resumed(
        self, server: Server, runner: Runner, project: Any, tag: str
    ) -> None:
        shown = server.gl.runners.get(runner.id)
        shown.paused = True
        shown.save()
        commit_to(project, CI_FILE.format(tag=tag))
        project.pipelines.create({"ref": "main"})
        assert runner.request().status_code == 204
        shown.paused = False
        shown.save()
        assert runner.take()["job_info"]["name"] == "build"

    def test_waiting_runner_gets_a_new_job_soon(
        self, server: Server, runner: Runner, project: Any, tag: str
    ) -> None:
        """Preconditions: the runner's request is open. Expected: the job within a second of its pipeline."""
        commit_to(project, CI_FILE.format(tag=tag))
        runner.request()
        taken: list[float] = []
        asking = threading.Thread(target=lambda: (runner.take(), taken.append(time.monotonic())))
        asking.start()
        time.sleep(0.3)  # let the request arrive and be held
        begin = time.monotonic()
        project.pipelines.create({"ref": "main"})
        asking.join(HOLD_S)
        assert taken, "the job was not handed out"
        assert taken[0] - begin < (1.0 if server.state_dir else HOLD_S)

    def test_locked_runner_of_another_project_gets_nothing(
        self, make_project: Callable[..., Any], make_runner: Callable[..., Runner], project: Any, tag: str
    ) -> None:
        foreign = make_runner(make_project(), tag, locked=True)
        commit_to(project, CI_FILE.format(tag=tag))
        project.pipelines.create({"ref": "main"})
        assert foreign.request().status_code == 204


class TestRunnerState:
    def test_status_goes_from_never_contacted_to_online(self, server: Server, runner: Runner) -> None:
        assert server.gl.runners.get(runner.id).status == "never_contacted"
        runner.request()
        wait_until(lambda: server.gl.runners.get(runner.id).status == "online", "runner online")
        assert server.gl.runners.get(runner.id).contacted_at

    def test_versions_and_managers_are_reported(self, server: Server, runner: Runner) -> None:
        runner.request()
        second = server.runner(runner.token, system_id="r_second")
        second.request(info={**INFO, "version": "17.5.0"})
        managers = server.gl.http_list(f"/runners/{runner.id}/managers", get_all=True)
        found = {entry["system_id"]: entry for entry in managers}
        assert set(found) == {"s_contract", "r_second"}
        assert found["s_contract"]["version"] == "16.0.1"
        assert found["r_second"]["version"] == "17.5.0"
        assert {entry["status"] for entry in managers} == {"online"}


class TestLog:
    def test_pieces_are_appended_and_their_size_answered(
        self, runner: Runner, running_job: dict[str, Any], project: Any
    ) -> None:
        first, second = runner.patch(running_job, b"hello\n"), runner.patch(running_job, b"world\n", 6)
        assert (first.status_code, first.headers["Range"]) == (202, "0-6")
        assert (second.status_code, second.headers["Range"]) == (202, "0-12")
        assert second.headers["Job-Status"] == "running"
        assert int(second.headers["X-GitLab-Trace-Update-Interval"]) > 0
        assert project.jobs.get(running_job["id"]).trace() == b"hello\nworld\n"

    def test_gap_is_416_with_the_size_and_changes_nothing(
        self, runner: Runner, running_job: dict[str, Any], project: Any
    ) -> None:
        runner.patch(running_job, b"hello\n")
        answer = runner.patch(running_job, b"late\n", 50)
        assert (answer.status_code, answer.headers["Range"]) == (416, "0-6")
        assert runner.patch(running_job, b"again\n", 6).status_code == 202
        assert project.jobs.get(running_job["id"]).trace() == b"hello\nagain\n"

    def test_same_piece_sent_twice_is_there_once(
        self, runner: Runner, running_job: dict[str, Any], project: Any
    ) -> None:
        runner.patch(running_job, b"hello\n")
        assert runner.patch(running_job, b"hello\n").status_code == 202
        assert project.jobs.get(running_job["id"]).trace() == b"hello\n"

    def test_content_range_is_required(self, runner: Runner, running_job: dict[str, Any]) -> None:
        path, headers = f"/jobs/{running_job['id']}/trace", {"JOB-TOKEN": running_job["token"]}
        assert runner.http.patch(path, content=b"x", headers=headers).status_code == 400

    def test_wrong_job_token_is_forbidden(
        self, runner: Runner, running_job: dict[str, Any], project: Any
    ) -> None:
        answer = runner.patch({**running_job, "token": "glcbt-64_AAAAAAAAAAAAAAAAAAAA"}, b"evil\n")
        assert answer.status_code == 403
        assert not project.jobs.get(running_job["id"]).trace()

    def test_job_that_does_not_exist_is_forbidden_not_404(self, runner: Runner) -> None:
        assert runner.patch({"id": 999999999, "token": "x"}, b"x").status_code == 403


class TestFinalState:
    @pytest.mark.parametrize(
        ("state", "extra", "status", "reason"),
        [
            ("success", {}, "success", None),
            ("failed", {"failure_reason": "script_failure", "exit_code": 3}, "failed", "script_failure"),
            ("failed", {"failure_reason": "runner_system_failure"}, "failed", "runner_system_failure"),
            ("failed", {"failure_reason": "job_execution_timeout"}, "failed", "job_execution_timeout"),
            ("failed", {"failure_reason": "no such reason"}, "failed", "unknown_failure"),
        ],
    )
    def test_state_and_reason(
        self,
        runner: Runner,
        running_job: dict[str, Any],
        project: Any,
        state: str,
        extra: dict[str, Any],
        status: str,
        reason: str | None,
    ) -> None:
        answer = runner.finish(running_job, state, **extra)
        assert answer.status_code == 200
        job = project.jobs.get(running_job["id"])
        assert (job.status, job.attributes.get("failure_reason")) == (status, reason)
        wait_until(lambda: project.pipelines.list(get_all=True)[0].status == status, f"pipeline {status}")

    def test_running_is_a_sign_of_life(
        self, runner: Runner, running_job: dict[str, Any], project: Any
    ) -> None:
        assert runner.put(running_job, "running").status_code == 200
        assert project.jobs.get(running_job["id"]).status == "running"

    def test_second_final_state_is_refused_and_changes_nothing(
        self, runner: Runner, running_job: dict[str, Any], project: Any
    ) -> None:
        runner.finish(running_job, "success")
        answer = runner.put(running_job, "failed", failure_reason="script_failure")
        assert answer.status_code == 403
        assert answer.headers["Job-Status"] == "success"
        assert project.jobs.get(running_job["id"]).status == "success"

    def test_log_after_the_end_is_refused(
        self, runner: Runner, running_job: dict[str, Any], project: Any
    ) -> None:
        runner.patch(running_job, b"hello\n")
        runner.finish(running_job, "success", b"hello\n")
        assert runner.patch(running_job, b"late\n", 6).status_code == 403
        wait_until(lambda: project.jobs.get(running_job["id"]).trace() == b"hello\n", "the log as it was")


class TestCancel:
    def test_pending_job_is_canceled_and_never_handed_out(
        self, runner: Runner, project: Any, tag: str
    ) -> None:
        commit_to(project, CI_FILE.format(tag=tag))
        pipeline = project.pipelines.create({"ref": "main"})
        pipeline.cancel()
        wait_until(lambda: project.pipelines.get(pipeline.id).status == "canceled", "pipeline canceled")
        assert runner.request().status_code == 204

    def test_running_job_hears_of_it_and_stays_canceled(
        self, runner: Runner, running_job: dict[str, Any], project: Any
    ) -> None:
        """A runner without cancel_gracefully: 403 and Job-Status, and the job stays canceled."""
        project.jobs.get(running_job["id"]).cancel()
        answer = runner.patch(running_job, b"x")
        assert answer.status_code == 403
        assert answer.headers["Job-Status"] == "canceled"
        assert runner.put(running_job, "failed", failure_reason="unknown_failure").status_code == 403
        assert project.jobs.get(running_job["id"]).status == "canceled"

    def test_runner_that_can_cancel_gently_gets_to_end_the_job(
        self, server: Server, make_runner: Callable[..., Runner], project: Any, tag: str
    ) -> None:
        runner = make_runner(project, tag)
        info = {**INFO, "version": "17.11.0", "features": {**INFO["features"], "cancel_gracefully": True}}
        commit_to(project, CI_FILE.format(tag=tag))
        project.pipelines.create({"ref": "main"})
        job = runner.request(info=info).json()
        project.jobs.get(job["id"]).cancel()
        assert project.jobs.get(job["id"]).status == "canceling"
        answer = runner.patch(job, b"after_script\n")
        assert (answer.status_code, answer.headers["Job-Status"]) == (202, "canceling")
        assert (
            runner.finish(job, "failed", b"after_script\n", failure_reason="script_failure").status_code
            == 200
        )
        assert project.jobs.get(job["id"]).status == "canceled"
