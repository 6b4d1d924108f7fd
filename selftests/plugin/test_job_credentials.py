"""How a job shows its credentials depends on the builder: docker and buildah log in, kaniko does not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fixtures.pipeline import Build
from fixtures.steps.runner_setups import script_of

DIGEST = f"sha256:{'0' * 63}1"
KANIKO = f"""$ mkdir -p /kaniko/.docker
INFO[0002] Pushing image to registry.example.com/group/demo:v1.0.0
INFO[0003] Pushed registry.example.com/group/demo@{DIGEST}
v1.0.0: digest: {DIGEST}
Job succeeded
"""
KANIKO_REFUSED = """error checking push permissions -- make sure you entered the correct tag name, and that \
you are authenticated correctly, and try again: checking push permission \
for "registry.example.com/group/demo:v1.0.0"
ERROR: Job failed: command terminated with exit code 1
"""
BUILDAH = f"Login Succeeded!\nv1.0.0: digest: {DIGEST}\n"


@dataclass
class Session:
    """A GitLab that holds one job's log."""

    log: str

    def jobs(self, pipeline: Any) -> list[Any]:
        return [type("Job", (), {"id": 1, "name": "build"})]

    def project(self) -> Any:
        job = type("Job", (), {"id": 1, "name": "build", "status": "success"})
        jobs = type("Jobs", (), {"get": staticmethod(lambda number: job)})
        pipelines = type("Pipelines", (), {"get": staticmethod(lambda number: number)})
        return type("Project", (), {"jobs": jobs, "pipelines": pipelines})

    def trace(self, job: Any) -> str:
        return self.log


def build(ci_file: str, log: str) -> Build:
    made = Build(None, None, 1, Path(), script_of(ci_file))  # type: ignore[arg-type]
    made.__dict__["session"] = Session(log)
    return made


@pytest.mark.parametrize(
    ("ci_file", "log"), [("gitlab-ci-kaniko.yml", KANIKO), ("gitlab-ci-buildah.yml", BUILDAH)]
)
def test_a_job_is_judged_by_what_its_own_flow_does(ci_file: str, log: str) -> None:
    build(ci_file, log).assert_authenticated()


@pytest.mark.parametrize(
    ("ci_file", "log", "lacking"),
    [
        ("gitlab-ci-kaniko.yml", KANIKO_REFUSED, "doesn't say which digest was pushed"),
        ("gitlab-ci-buildah.yml", KANIKO, "lacks 'Login Succeeded'"),
        ("gitlab-ci-dind.yml", KANIKO, "lacks 'Login Succeeded'"),
    ],
)
def test_what_a_flow_owes_is_missed(ci_file: str, log: str, lacking: str) -> None:
    with pytest.raises(AssertionError, match=lacking):
        build(ci_file, log).assert_authenticated()
