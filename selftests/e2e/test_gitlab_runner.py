"""A gitlab-runner, a real node and the embedded GitLab: registered, online, jobs, cancel, timeout.

The runner is the lab's unless GITLAB_RUNNER names another program. It runs beside the node, as in the
recordings. Needs root and a bundle (RUNNER_CONFORMANCE_BUNDLE, else one is built). RUNNER_CONFORMANCE_NODE
may name the state directory of a node that runs already.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.bundle import Bundle
from harness.cluster import ClusterOptions, K3sCluster
from harness.gitlab.client import GitLabSession, GitLabTarget
from harness.gitlab.embedded import EmbeddedGitLab

STANDIN = Path(__file__).parents[2] / "lab" / "standins" / "gitlab_runner"
NODE = os.environ.get("RUNNER_CONFORMANCE_NODE")
HELPER_IMAGE = (
    "registry.gitlab.com/gitlab-org/ci-cd/gitlab-runner-ubi-images/gitlab-runner-helper-ocp:v16.0.1"
)
JOB_S = 240
TAG = "jh"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@dataclass(frozen=True)
class RegisteredRunner:
    session: GitLabSession
    runner_id: int
    command: subprocess.CompletedProcess[str]


def runner_command(*arguments: str) -> list[str]:
    """How the runner under test is started."""
    if program := os.environ.get("GITLAB_RUNNER"):
        return [program, *arguments]
    start = f"import sys; sys.path.insert(0, {str(STANDIN)!r}); from glrunner.cli import main"
    return [sys.executable, "-c", start + "; sys.exit(main(sys.argv[1:]))", *arguments]


@pytest.fixture(scope="module")
def node(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[K3sCluster]:
    if NODE:
        yield K3sCluster.attach(Path(NODE))
        return
    bundle = Bundle.open(bundle_dir)
    options = ClusterOptions(
        run_id=f"rc-{uuid.uuid4().hex[:8]}",
        name="gitlab-runner",
        k3s=bundle.file("k3s"),
        state_dir=tmp_path_factory.mktemp("node") / "state",
        registry_program=bundle.file("registry"),
        storage=bundle.storage,
    )
    cluster = K3sCluster(options)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def registered(node: K3sCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegisteredRunner]:
    """A GitLab on the host side of the node, and a runner that has registered and runs."""
    directory = tmp_path_factory.mktemp("registered")
    config, environment = directory / "config.toml", {**os.environ, "KUBECONFIG": str(node.kubeconfig)}
    with EmbeddedGitLab(node.host_ip, directory / "gitlab", long_poll_s=5) as process:
        target = GitLabTarget(process.url, process.token, embedded=True)
        with GitLabSession(target, f"rc-{uuid.uuid4().hex[:8]}") as session:
            made = session.create_runner(tags=[TAG], description="e2e")
            registered = subprocess.run(
                runner_command(
                    "register", "--non-interactive", "--url", process.url, "--token", made.token.reveal(),
                    "--executor", "kubernetes", "--config", str(config), "--kubernetes-image", "alpine",
                    "--kubernetes-namespace", "default", "--kubernetes-helper-image", HELPER_IMAGE,
                ),
                env=environment, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            with (directory / "runner.log").open("wb") as log:
                runner = subprocess.Popen(
                    runner_command("run", "--config", str(config)), env=environment, stdout=log, stderr=log
                )
            try:
                yield RegisteredRunner(session, made.id, registered)
            finally:
                runner.terminate()
                runner.wait(30)
                print((directory / "runner.log").read_text())


@pytest.fixture
def run_job(registered: RegisteredRunner) -> Callable[..., tuple[Any, str]]:
    """Commit a pipeline with one job, follow it; the job and its log."""

    def run(content: str, act: Callable[[Any], None] = lambda pipeline: None) -> tuple[Any, str]:
        session = registered.session
        session.commit_files({".gitlab-ci.yml": content.replace("TAG", TAG)}, "Job")
        pipeline = session.start_pipeline()
        act(pipeline)
        session.follow_pipeline(pipeline, JOB_S)
        job = session.project().jobs.get(session.jobs(pipeline)[0].id)
        return job, session.trace(job)

    return run


def wait_for_log(registered: RegisteredRunner, pipeline: Any, text: str) -> Any:
    """Wait until the log of the pipeline's job holds ``text``."""
    end = time.monotonic() + JOB_S
    while True:
        job = registered.session.jobs(pipeline)[0]
        if text in (log := registered.session.trace(job)):
            return registered.session.project().jobs.get(job.id)
        assert time.monotonic() < end, f"{text!r} is not in the log of a {job.status} job:\n{log}"
        time.sleep(1)


def test_registers_and_appears_online(registered: RegisteredRunner) -> None:
    assert registered.command.returncode == 0, registered.command.stderr
    end = time.monotonic() + 60
    while registered.session.runner_status(registered.runner_id) != "online":
        assert time.monotonic() < end
        time.sleep(0.5)


def test_service_and_masked_variable(
    registered: RegisteredRunner, run_job: Callable[..., tuple[Any, str]]
) -> None:
    variables = registered.session.project().variables
    variables.create({"key": "PASSWORD", "value": "sesame-open-1234", "masked": True})
    job, log = run_job(
        "build:\n  image: alpine:latest\n  tags: [TAG]\n"
        "  services:\n"
        "    - name: alpine:latest\n      alias: greeter\n"
        '      entrypoint: ["sh", "-c"]\n'
        '      command: ["while true; do echo greetings | nc -l -p 9000; done"]\n'
        "  script:\n"
        "    - for i in 1 2 3 4 5 6 7 8 9; do nc greeter 9000 && break; sleep 1; done\n"
        '    - echo "the password is $PASSWORD"\n'
        '    - test "${#PASSWORD}" = 16 && echo "it has 16 characters"\n'
    )
    assert job.status == "success", log
    assert "greetings" in log
    assert "the password is [MASKED]" in log
    assert "sesame-open-1234" not in log
    assert "it has 16 characters" in log
    assert job.runner["id"] == registered.runner_id


def test_cancel(registered: RegisteredRunner, run_job: Callable[..., tuple[Any, str]]) -> None:
    """The script stops, and the job stays canceled."""

    def cancel(pipeline: Any) -> None:
        wait_for_log(registered, pipeline, "tick 3").cancel()

    job, log = run_job(
        "build:\n  image: alpine:latest\n  tags: [TAG]\n  script:\n"
        "    - for i in $(seq 1 600); do echo tick $i; sleep 1; done\n",
        cancel,
    )
    time.sleep(8)  # the runner's last words would come now
    assert registered.session.project().jobs.get(job.id).status == "canceled"
    assert "tick 100" not in log


def test_timeout(run_job: Callable[..., tuple[Any, str]]) -> None:
    job, log = run_job(
        "build:\n  image: alpine:latest\n  tags: [TAG]\n  timeout: 20 seconds\n  script: [sleep 600]\n"
    )
    assert (job.status, job.failure_reason) == ("failed", "job_execution_timeout")
    assert "execution took longer than 20s seconds" in log


def test_script_that_fails(run_job: Callable[..., tuple[Any, str]]) -> None:
    job, log = run_job("build:\n  image: alpine:latest\n  tags: [TAG]\n  script: [exit 3]\n")
    assert (job.status, job.failure_reason) == ("failed", "script_failure")
    assert "exit code 3" in log
