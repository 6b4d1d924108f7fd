"""The read-only page, for those who sign in; nothing of a log is taken for HTML."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from selftests.gitlab.conftest import Server
from selftests.gitlab.runner_client import Runner

pytestmark = pytest.mark.embedded_only


@pytest.fixture
def page(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, auth=("root", server.token), trust_env=False)


def test_project_pipeline_and_job(
    page: httpx.Client, project: Any, runner: Runner, running_job: dict[str, Any]
) -> None:
    runner.patch(
        running_job,
        b"section_start:1:a\r\x1b[0K\x1b[32;1m$ echo <b>hi</b>\x1b[0;m\n<script>alert(1)</script>\n",
    )
    assert project.path_with_namespace in page.get("/").text
    shown = page.get(f"/{project.path_with_namespace}").text
    assert "online" in shown
    job = project.jobs.get(running_job["id"])
    pipeline = page.get(job.pipeline["web_url"])
    assert (pipeline.status_code, f"#{job.id}: build" in pipeline.text) == (200, True)
    log = page.get(job.web_url).text
    assert "$ echo &lt;b&gt;hi&lt;/b&gt;" in log
    assert "<script>" not in log
    assert "section_start" not in log
    assert page.get(f"{job.web_url}/raw").content.startswith(b"section_start:1:a")


def test_nothing_without_signing_in(page: httpx.Client, project: Any, running_job: dict[str, Any]) -> None:
    for path in (
        "/",
        f"/{project.path_with_namespace}",
        f"/{project.path_with_namespace}/-/jobs/{running_job['id']}",
    ):
        answer = httpx.get(page.base_url.join(path), trust_env=False)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic ")


def test_nothing_can_be_changed(page: httpx.Client, project: Any) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert page.request(method, f"/{project.path_with_namespace}").status_code == 404


def test_other_projects_pipeline_is_not_shown(
    page: httpx.Client, project: Any, running_job: dict[str, Any]
) -> None:
    assert page.get(f"/{project.path_with_namespace}/-/jobs/{running_job['id'] + 1000}").status_code == 404
