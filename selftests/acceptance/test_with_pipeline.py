"""The how-to's build on somebody's Runner is the one change, and all of it goes, also after a kill."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.steps.runner_setups import FILES
from selftests.acceptance.accepting import ROOT, begin, end, environment
from selftests.acceptance.lab import PROJECT, Lab, project_of, run_registry, second_runner

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="making a node needs root"),
    pytest.mark.acceptance,
]

TESTS = ("tests/s06_pipeline", "tests/s09_daemonless")
BUILD = {f"daemonless/build/{it}" for it in ("succeeds", "our-runner", "pod", "pushed", "content")}
JOB_TIMEOUT_S = 120
OPTIONS = ("--with-pipeline", f"--gitlab-project={PROJECT}", "--runner=ci/builder")


@pytest.fixture(scope="module")
def builder(lab: Lab) -> Iterator[int]:
    """A Runner whose jobs trust the CA of the GitLab's registry; its number in GitLab."""
    if not lab.registry_ca.exists():
        run_registry(lab)
    mount = (FILES / "registry-ca.toml").read_text().replace("@REGISTRY@", lab.cluster.node_ip)
    config = f"[[runners]]\n  [runners.kubernetes]\n    [runners.kubernetes.volumes]\n{mount}"
    with second_runner(lab, "ci", "builder", config=config) as number:
        create = "kubectl -n ci create secret generic registry-ca"
        lab.shell.types(f"{create} --from-file=ca.crt={lab.registry_ca}")
        yield number


def inventory(lab: Lab) -> dict[str, list[str]]:
    """What there is in the project that a build could leave."""
    project = project_of(lab)
    images = [
        f"{it.path}:{tag.name}"
        for it in project.repositories.list(get_all=True)
        for tag in it.tags.list(get_all=True)
    ]
    return {
        "branches and tags": refs(lab),
        "pipelines": sorted(f"{it.id} {it.ref}" for it in project.pipelines.list(get_all=True)),
        "images": sorted(images),
    }


def refs(lab: Lab) -> list[str]:
    """The project's branches and tags, as git lists them."""
    login = base64.b64encode(f"oauth2:{lab.token_file.read_text()}".encode()).decode()
    header = {"GIT_CONFIG_KEY_0": "http.extraHeader", "GIT_CONFIG_VALUE_0": f"Authorization: Basic {login}"}
    listed = subprocess.run(
        ["git", "ls-remote", "--refs", f"{lab.gitlab_url}/{PROJECT}.git"],
        env={**os.environ, "GIT_CONFIG_COUNT": "1", **header},
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(line.split()[1] for line in listed.stdout.splitlines())


def running_job(lab: Lab, run: subprocess.Popen[str]) -> Any:
    """The run's one job, once a runner has it."""
    project, until = project_of(lab), time.monotonic() + JOB_TIMEOUT_S
    while time.monotonic() < until and run.poll() is None:
        for job in project.jobs.list(get_all=True):
            if job.attributes.get("runner"):
                return job
        time.sleep(0.1)
    raise AssertionError(f"no runner took a job; the run is at {run.poll()}")


def test_the_build_runs_on_their_runner_and_leaves_nothing(lab: Lab, builder: int, tmp_path: Path) -> None:
    before = inventory(lab)
    run = begin(lab, tmp_path, *OPTIONS, tests=TESTS)
    try:
        job = running_job(lab, run)
        during = inventory(lab)
    finally:
        ended = end(run, tmp_path)
    assert ended.code == 0, ended.output[-6000:]
    assert ended.document["verdict"]["text"] == "CONFORMS (rehearsal)"
    assert ended.with_status("passed") >= BUILD, ended.output[-6000:]
    assert job.runner["id"] == builder
    assert f"a branch, a pipeline and images named by {job.ref} are made in {PROJECT}" in ended.output
    assert f"refs/heads/{job.ref}" in during["branches and tags"]
    assert inventory(lab) == before


def test_reap_removes_what_a_killed_build_left(lab: Lab, builder: int, tmp_path: Path) -> None:
    before = inventory(lab)
    run = begin(lab, tmp_path, *OPTIONS, tests=TESTS)
    try:
        ref = running_job(lab, run).ref
    finally:
        run.kill()
        run.wait()
    left = inventory(lab)
    assert f"refs/heads/{ref}" in left["branches and tags"]
    assert any(ref in it for it in left["pipelines"])
    assert any(ref in it for it in left["images"])
    where = (f"--kubeconfig={lab.kubeconfig}", "--context=theirs", f"--gitlab-url={lab.gitlab_url}")
    secrets = (f"--gitlab-token-file={lab.token_file}", f"--gitlab-ca-file={lab.registry_ca}")
    reap = [sys.executable, "-m", "harness.cli", "reap", *where, *secrets]
    done = subprocess.run(reap, cwd=ROOT, env=environment(lab), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert inventory(lab) == before, done.stdout
    assert not list((lab.directory / "home").rglob("*.json*"))
