"""How-to, "Testing the Runner" and "Running docker in a pod": what does not work, and why."""

from __future__ import annotations

import re

import pytest

from fixtures.pipeline import BuildMaker

pytestmark = pytest.mark.steps("runner-plain")


@pytest.mark.outcome("pipeline/seed-job-without-docker", needs=["runner/accepted"])
def test_the_how_to_s_job_alone_fails_at_docker_build(build_of: BuildMaker) -> None:
    """The how-to's job to the letter, without docker.sock, logs in and then finds no Docker daemon.

    How-to, "Running docker in a pod": "in this process the host's docker.sock has to be mounted".
    """
    build = build_of("plain", "how-to-job")
    job = build.finished()
    log = build.log
    assert job.status == "failed", f"the job is {job.status}"
    build.assert_said("Login Succeeded")
    no_daemon = build.assert_no_daemon()
    assert log.index("docker build") < log.index(no_daemon), "it failed before docker build"
    assert job.failure_reason == "script_failure", f"GitLab gives the reason {job.failure_reason}"


@pytest.mark.outcome("pipeline/failing-build", needs=["runner/accepted"])
def test_a_failing_build_gives_a_failed_job(build_of: BuildMaker) -> None:
    """A Dockerfile whose RUN fails gives a failed job and a failed pipeline, and the log shows the command.

    How-to, "Testing the Runner": the result is read from the pipeline page, and why from the job's log.
    """
    build = build_of("plain", "failing")
    job = build.finished()
    assert (job.status, build.pipeline.status) == ("failed", "failed"), (
        f"{job.status}, {build.pipeline.status}"
    )
    build.assert_said("about to fail")
    assert re.search(r"ERROR: Job failed: .*exit code \d+", build.log), build.log[-1000:]


@pytest.mark.outcome("pipeline/other-tag", needs=["runner/accepted"])
def test_a_job_with_another_tag_stays_pending(build_of: BuildMaker) -> None:
    """A job whose tag no runner has stays pending, though the project's runner has taken all others.

    How-to, "Testing the Runner": "tags: - jh" is what brings the job to this Runner.
    """
    build_of("plain", "how-to-job").finished()
    build_of("plain", "daemonless").finished()
    job = build_of("plain", "other-tag").job()
    assert job.status == "pending", f"the job is {job.status}"
    assert not job.attributes.get("runner"), f"runner {job.runner} has taken it"
