"""The job as it is handed to a runner (answer 201 of POST jobs/request)."""

from __future__ import annotations

import json
import re
from typing import Any

from embedded_gitlab import variables
from embedded_gitlab.context import Context
from embedded_gitlab.expansion import Variable
from embedded_gitlab.git_storage import ZERO_SHA
from embedded_gitlab.jobs import FAILURE_REASONS
from embedded_gitlab.store import Row

_DEFAULT_DEPTH = 20
"""GitLab's default for the shallow clone of new projects."""


def build(context: Context, job: Row, runner: Row) -> dict[str, Any]:
    """Everything a runner needs; facts/shape after gitlab-runner's common/network.go."""
    project = context.store.get("projects", job["project_id"])
    pipeline = context.store.get("pipelines", job["pipeline_id"])
    definition = json.loads(job["definition"])
    all_variables = variables.of_job(context, project, pipeline, job, runner)
    return {
        "id": job["id"],
        "token": job["token"],
        "allow_git_fetch": True,
        "job_info": {
            "id": job["id"],
            "name": job["name"],
            "stage": job["stage"],
            "project_id": project["id"],
            "project_name": project["path"],
            "project_full_name": project["full_path"],
            "time_in_queue_seconds": max(0.0, round(job["started_at"] - (job["queued_at"] or 0), 3)),
            "project_jobs_running_on_instance_runners_count": "0",
        },
        "git_info": _git_info(context, project, pipeline, job, all_variables),
        "runner_info": {"timeout": job["timeout"], "runner_session_url": None},
        "inputs": [],
        "variables": all_variables,
        "steps": _steps(definition, job["timeout"]),
        "image": _image(definition["image"]) if definition["image"] else None,
        "services": [_service(service) for service in definition["services"]],
        "artifacts": [],
        "cache": [],
        "credentials": _credentials(context, job),
        "dependencies": [],
        "hooks": [],
        "features": {
            "trace_sections": True,
            "token_mask_prefixes": ["glpat-", "glrt-", "glcbt-"],
            "failure_reasons": list(FAILURE_REASONS),
        },
    }


def _git_info(
    context: Context, project: Row, pipeline: Row, job: Row, all_variables: list[Variable]
) -> dict[str, Any]:
    ref = pipeline["ref"]
    given = {v["key"]: v["value"] for v in all_variables}.get("GIT_DEPTH", "")
    target = f"refs/tags/{ref}" if pipeline["tag"] else f"refs/remotes/origin/{ref}"
    source = f"refs/tags/{ref}" if pipeline["tag"] else f"refs/heads/{ref}"
    refspecs = [f"+refs/pipelines/{pipeline['id']}:refs/pipelines/{pipeline['id']}", f"+{source}:{target}"]
    depth = int(given) if re.fullmatch("[0-9]{1,9}", given) else _DEFAULT_DEPTH
    if depth == 0:
        refspecs = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*", refspecs[0]]
    return {
        "repo_url": variables.repository_url(context, project, job["token"]),
        "repo_object_format": "sha1",
        "ref": ref,
        "sha": pipeline["sha"],
        "before_sha": pipeline["before_sha"] or ZERO_SHA,
        "ref_type": "tag" if pipeline["tag"] else "branch",
        "refspecs": refspecs,
        "depth": depth,
        "protected": not pipeline["tag"] and ref == project["default_branch"],
    }


def _steps(definition: dict[str, Any], timeout: int) -> list[dict[str, Any]]:
    after = definition["after_script"]
    steps = [("script", [*definition["before_script"], *definition["script"]], "on_success", False)]
    steps += [("after_script", after, "always", True)] if after else []
    return [
        {"name": name, "script": lines, "timeout": timeout, "when": when, "allow_failure": allowed}
        for name, lines, when, allowed in steps
    ]


def _image(image: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": image["name"],
        "entrypoint": image["entrypoint"],
        "ports": [],
        "executor_opts": {},
        "pull_policy": image["pull_policy"],
    }


def _service(service: dict[str, Any]) -> dict[str, Any]:
    return {
        **_image(service),
        "alias": service["alias"],
        "command": service["command"],
        "variables": [variables.variable(key, value) for key, value in service["variables"].items()],
    }


def _credentials(context: Context, job: Row) -> list[dict[str, str]]:
    if not context.settings.registry_host:
        return []
    return [
        {
            "type": "registry",
            "url": context.settings.registry_host,
            "username": "gitlab-ci-token",
            "password": job["token"],
        }
    ]
