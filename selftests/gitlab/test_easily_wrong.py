"""What a GitLab gets easily wrong, and gitlab-runner then takes amiss (seen with 16.0.1)."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.gitlab.embedded import EmbeddedGitLab
from selftests.gitlab.conftest import CI_FILE, Server, commit_to
from selftests.gitlab.runner_client import Runner


@pytest.mark.embedded_only
def test_no_403_on_jobs_request_while_starting(tmp_path: Path) -> None:
    """Three 403 silence a runner for an hour: a GitLab that starts refuses connections."""
    state = tmp_path / "gitlab"
    with EmbeddedGitLab("127.0.0.1", state, long_poll_s=0) as process:
        port, headers = process.url.rpartition(":")[2], {"PRIVATE-TOKEN": process.token.reveal()}
        wanted = {"runner_type": "instance_type", "tag_list": ["x"]}
        made = httpx.post(f"{process.url}/api/v4/user/runners", json=wanted, headers=headers, trust_env=False)
    answers: set[int] = set()
    again = EmbeddedGitLab("127.0.0.1", state, port=int(port), long_poll_s=0)
    starting = threading.Thread(target=again.start)
    starting.start()
    try:
        body, url = {"token": made.json()["token"]}, f"{process.url}/api/v4/jobs/request"
        for _ in range(600):
            try:
                answers.add(httpx.post(url, json=body, trust_env=False).status_code)
            except httpx.TransportError:
                answers.add(0)
            if not starting.is_alive() and 204 in answers:
                break
    finally:
        starting.join()
        again.stop()
    assert 204 in answers
    assert answers <= {0, 204}


def test_verify_is_json_with_an_id_that_is_not_zero(runner: Runner) -> None:
    """HTML, or id 0, and `gitlab-runner register` panics: "Failed to verify the runner"."""
    answer = runner.http.post("/runners/verify", json={"token": runner.token}, headers={"Accept": "*/*"})
    assert answer.headers["content-type"].split(";")[0] == "application/json"
    assert answer.json()["id"] > 0


def test_range_names_the_size_not_the_last_byte(runner: Runner, running_job: dict[str, Any]) -> None:
    """After 416 the runner goes on *from* N: with N as the last byte every recovery would lose a byte."""
    assert runner.patch(running_job, b"0123456789").headers["Range"] == "0-10"
    assert runner.patch(running_job, b"x", 99).headers["Range"] == "0-10"
    assert runner.patch(running_job, b"abc", 10).status_code == 202


def test_416_of_an_empty_log_sends_the_runner_back_to_0(runner: Runner, running_job: dict[str, Any]) -> None:
    answer = runner.patch(running_job, b"x", 5)
    assert (answer.status_code, answer.headers["Range"]) == (416, "0-0")


def test_canceled_wins_over_the_jobs_own_final_put(
    runner: Runner, running_job: dict[str, Any], project: Any
) -> None:
    project.jobs.get(running_job["id"]).cancel()
    runner.put(running_job, "failed", failure_reason="unknown_failure")
    assert project.jobs.get(running_job["id"]).status == "canceled"
    assert project.pipelines.list(get_all=True)[0].status == "canceled"


def test_every_refspec_of_the_job_can_be_fetched(running_job: dict[str, Any], tmp_path: Path) -> None:
    """`fatal: couldn't find remote ref refs/pipelines/N` fails a job before its script."""
    git = running_job["git_info"]
    assert any(spec.startswith("+refs/pipelines/") for spec in git["refspecs"])
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    fetch = ["git", "-C", str(tmp_path), "fetch", "-q", "--depth", str(git["depth"]), git["repo_url"]]
    done = subprocess.run([*fetch, *git["refspecs"]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        ["git", "-C", str(tmp_path), "cat-file", "-t", git["sha"]], capture_output=True, text=True
    )
    assert shown.stdout == "commit\n"


def test_git_gets_a_challenge_before_it_sends_credentials(server: Server, project: Any) -> None:
    """Without WWW-Authenticate git does not send the URL's credentials: could not read Username."""
    path = f"{project.http_url_to_repo}/info/refs?service=git-upload-pack"
    answer = server.http.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].lower().startswith("basic ")


def test_all_variables_of_the_project_come_in_the_payload(
    server: Server, running_job: dict[str, Any], project: Any
) -> None:
    """The runner adds none by itself."""
    values = {entry["key"]: entry["value"] for entry in running_job["variables"]}
    assert values["CI_PROJECT_PATH"] == project.path_with_namespace
    assert values["CI_PROJECT_ID"] == str(project.id)
    assert values["CI_SERVER_URL"] == server.url
    assert values["CI_API_V4_URL"] == f"{server.url}/api/v4"
    assert values["CI_JOB_ID"] == str(running_job["id"])
    assert values["CI_JOB_TOKEN"] == running_job["token"]
    assert values["CI_COMMIT_SHA"] == running_job["git_info"]["sha"]
    assert values["CI_COMMIT_BRANCH"] == values["CI_COMMIT_REF_NAME"] == values["CI_DEFAULT_BRANCH"] == "main"
    assert values["CI_PIPELINE_SOURCE"] == "api"
    assert {"CI", "GITLAB_CI", "CI_RUNNER_ID", "CI_JOB_URL", "CI_PIPELINE_URL", "CI_REPOSITORY_URL"} <= set(
        values
    )


def test_tokens_in_the_payload_are_masked_and_not_public(running_job: dict[str, Any]) -> None:
    """public:false keeps a variable out of the pod's environment."""
    token = running_job["token"]
    for entry in running_job["variables"]:
        if entry["value"] == token:
            assert entry["masked"], entry["key"]
        if token in entry["value"]:
            assert not entry["public"], entry["key"]


def test_final_state_without_exit_code_is_accepted(
    runner: Runner, running_job: dict[str, Any], project: Any
) -> None:
    """exit_code is absent when it is 0, and when no script ran."""
    assert runner.finish(running_job, "failed", failure_reason="script_failure").status_code == 200
    assert project.jobs.get(running_job["id"]).failure_reason == "script_failure"


def test_artifacts_upload_in_chunks_is_answered_at_once(
    server: Server, runner: Runner, running_job: dict[str, Any]
) -> None:
    """gitlab-runner streams multipart without a length; in the embedded GitLab artifacts are off."""

    def body() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n'
        yield b"PK\x05\x06".ljust(22, b"\0")  # an empty archive
        yield b"\r\n--b--\r\n"

    headers = {"JOB-TOKEN": running_job["token"], "Content-Type": "multipart/form-data; boundary=b"}
    path = f"/jobs/{running_job['id']}/artifacts?artifact_format=zip&artifact_type=archive"
    answer = runner.http.post(path, content=body(), headers=headers)
    if server.state_dir is None and answer.status_code == 405:
        pytest.skip("this GitLab has artifacts switched off")
    assert answer.status_code == (405 if server.state_dir else 201)
    assert isinstance(answer.json(), dict)


def test_containerd_may_fall_back_to_get(embedded: Callable[..., Server]) -> None:
    """containerd POSTs to /jwt/auth first and needs 404 (405, 401) there to try GET."""
    server = embedded(registry_host="registry.test")
    form = {"grant_type": "password", "service": "container_registry", "username": "u", "password": "p"}
    assert httpx.post(f"{server.url}/jwt/auth", data=form, trust_env=False).status_code == 404
    query = {"service": "container_registry", "scope": "repository:root/x:pull"}
    auth = ("root", server.token)
    assert httpx.get(f"{server.url}/jwt/auth", params=query, auth=auth, trust_env=False).status_code == 200


def test_job_goes_out_as_201_json(runner: Runner, project: Any, tag: str) -> None:
    """200, or 201 with another content type, counts as a failed request."""
    commit_to(project, CI_FILE.format(tag=tag))
    project.pipelines.create({"ref": "main"})
    answer = runner.request()
    while answer.status_code == 204:
        answer = runner.request()
    assert answer.status_code == 201
    assert answer.headers["content-type"].split(";")[0] == "application/json"
