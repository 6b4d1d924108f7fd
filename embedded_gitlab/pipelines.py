"""Pipelines: made from the file at a commit, driven stage by stage as their jobs end.

After GitLab's Ci::CreatePipelineService, Ci::PipelineProcessing::AtomicProcessingService,
Ci::ProcessBuildService and Gitlab::Ci::Status::Composite.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from embedded_gitlab import tokens, variables
from embedded_gitlab.ci_config import CiConfig, ConfigError, JobDefinition, parse
from embedded_gitlab.ci_expression import ExpressionError, Pattern, evaluate
from embedded_gitlab.context import Context
from embedded_gitlab.expansion import ExpansionError, expanded, substituted
from embedded_gitlab.store import Row, now

CI_FILE = ".gitlab-ci.yml"
FINISHED = ("success", "failed", "canceled", "skipped")
CANCELABLE = ("created", "pending", "running")
_STARTS_AFTER = {
    "on_success": ("success", "skipped"),
    "manual": ("success", "skipped"),
    "on_failure": ("failed",),
    "always": ("success", "failed", "skipped"),
}
"""When → the statuses of all earlier stages together after which a job starts; after others it is skipped."""
_SKIP_MARKS = ("[ci skip]", "[skip ci]", "[ci-skip]", "[skip-ci]")


class PipelineRefused(ValueError):
    """No pipeline was made; ``errors`` are GitLab's words."""

    def __init__(self, *errors: str) -> None:
        super().__init__("; ".join(errors))
        self.errors = list(errors)


def create(
    context: Context,
    project: Row,
    user: Row,
    ref: str,
    source: str,
    given: Sequence[Mapping[str, Any]] = (),
    before_sha: str = "",
) -> Row:
    """Make a pipeline for a branch or tag. Raises PipelineRefused, and then nothing was made."""
    found = context.git.resolve(project["id"], ref)
    if found is None:
        raise PipelineRefused("Reference not found")
    name, sha, tag = found
    file = context.git.file(project["id"], sha, CI_FILE)
    if file is None:
        raise PipelineRefused("Missing CI config file")
    new: Row = {"ref": name, "sha": sha, "tag": tag, "source": source, "before_sha": before_sha}
    try:
        config = parse(file[2])
    except ConfigError as error:
        if source == "push":
            return _insert(context, project, user, new, status="failed", yaml_errors=str(error))
        raise PipelineRefused(*error.errors) from None
    if source == "push" and _says_skip(context, project, sha):
        return _insert(context, project, user, new, status="skipped")
    with context.store.transaction():
        stages, extra = json.dumps(config.stages), json.dumps(list(given))
        pipeline = _insert(context, project, user, new, status="created", stages=stages, variables=extra)
        _add_jobs(context, project, pipeline, user, config)
        context.git.set_ref(project["id"], f"refs/pipelines/{pipeline['id']}", sha)
    advance(context, pipeline["id"])
    return context.store.get("pipelines", pipeline["id"])


def _says_skip(context: Context, project: Row, sha: str) -> bool:
    commit = context.git.commit_info(project["id"], sha)
    return commit is not None and any(mark in commit.message.lower() for mark in _SKIP_MARKS)


def _insert(context: Context, project: Row, user: Row, new: Row, **columns: object) -> Row:
    store, at = context.store, now()
    iid = store.get("projects", project["id"])["next_iid"]
    store.update("projects", project["id"], next_iid=iid + 1)
    values = {"stages": "[]", "variables": "[]", "created_at": at, "updated_at": at, **new, **columns}
    values |= {"project_id": project["id"], "iid": iid, "user_id": user["id"]}
    values["finished_at"] = at if columns["status"] == "failed" else None
    return store.get("pipelines", store.insert("pipelines", **values))


def _add_jobs(context: Context, project: Row, pipeline: Row, user: Row, config: CiConfig) -> None:
    scope, added = variables.scope(context, project, pipeline, user), 0
    for job in config.jobs:
        job = replace(job, variables={**config.variables, **job.variables})
        known = variables.values(scope.of_job(asdict(job)))
        chosen = _choose(job, known, pipeline)
        if chosen is None:
            continue
        try:
            expanded(scope.of_job(asdict(chosen)))
        except ExpansionError as error:
            raise PipelineRefused(f"{job.name}: {error}") from None
        tags = [substituted(tag, known) for tag in chosen.tags]
        definition = asdict(replace(chosen, tags=tags))
        _insert_job(context, project, pipeline, user, config.stages.index(job.stage), definition)
        added += 1
    if not added:
        raise PipelineRefused(
            "Pipeline will not run for the selected trigger. The rules configuration prevented any jobs from "
            "being added to the pipeline."
        )


def _choose(job: JobDefinition, known: Mapping[str, str], pipeline: Row) -> JobDefinition | None:
    """The job with its matching rule applied, or None when it isn't part of this pipeline."""
    if job.only is not None and not any(_only_matches(entry, pipeline) for entry in job.only):
        return None
    if job.rules is None:
        return job
    for rule in job.rules:
        try:
            if rule["if"] is not None and not evaluate(rule["if"], known):
                continue
        except ExpressionError:
            continue  # as in GitLab: it was valid without values, and doesn't hold with them
        if rule["when"] == "never":
            return None
        return replace(
            job,
            when=rule["when"],
            allow_failure=job.allow_failure if rule["allow_failure"] is None else rule["allow_failure"],
            allow_failure_exit_codes=job.allow_failure_exit_codes if rule["allow_failure"] is None else [],
            variables={**job.variables, **rule["variables"]},
        )
    return None


def _only_matches(entry: str, pipeline: Row) -> bool:
    kinds = {"branches": not pipeline["tag"], "tags": bool(pipeline["tag"])}
    sources = {"pushes": "push", "api": "api", "web": "web"}
    if entry in kinds:
        return kinds[entry]
    if entry in sources:
        return bool(pipeline["source"] == sources[entry])
    if entry.startswith("/"):
        return Pattern(entry).matches(pipeline["ref"])
    return bool(entry == pipeline["ref"])


def _insert_job(
    context: Context, project: Row, pipeline: Row, user: Row, stage_index: int, definition: Mapping[str, Any]
) -> int:
    return context.store.insert(
        "jobs",
        pipeline_id=pipeline["id"],
        project_id=project["id"],
        name=definition["name"],
        stage=definition["stage"],
        stage_index=stage_index,
        status="created",
        definition=json.dumps(definition),
        tag_list=json.dumps(definition["tags"]),
        allow_failure=definition["allow_failure"],
        timeout=definition["timeout"] or project["build_timeout"],
        token=tokens.job_token(),
        user_id=user["id"],
        created_at=now(),
    )


def advance(context: Context, pipeline_id: int) -> None:
    """Start what may start now, skip what may not any more, and set the pipeline's status."""
    store = context.store
    woken: set[int] = set()
    with store.transaction():
        jobs = store.all(
            "SELECT * FROM jobs WHERE pipeline_id = ? AND NOT retried ORDER BY stage_index, id", pipeline_id
        )
        for stage in sorted({job["stage_index"] for job in jobs}):
            earlier = composite([job for job in jobs if job["stage_index"] < stage]) or "success"
            if earlier not in FINISHED:
                break
            for job in jobs:
                if job["stage_index"] == stage and job["status"] == "created":
                    job["status"] = _start(context, job, earlier)
                    if job["status"] == "pending":
                        woken.update(runners_for(context, job))
        _set_status(context, pipeline_id, composite(jobs) or "success")
    context.queue.tick(woken)


def _start(context: Context, job: Row, earlier: str) -> str:
    definition = json.loads(job["definition"])
    waits = definition["when"] == "manual" and not definition.get("played")
    runs = earlier in _STARTS_AFTER[definition["when"]]
    status = ("manual" if waits else "pending") if runs else "skipped"
    context.store.update("jobs", job["id"], status=status, queued_at=now() if status == "pending" else None)
    return status


def runners_for(context: Context, job: Row) -> list[int]:
    """Every runner that may take ``job``."""
    rows = context.store.all(
        """SELECT r.* FROM runners r WHERE NOT r.paused AND (r.runner_type = 'instance_type' OR r.id IN
           (SELECT runner_id FROM runner_projects WHERE project_id = ?))""",
        job["project_id"],
    )
    return [row["id"] for row in rows if matches(row, job)]


def matches(runner: Row, job: Row) -> bool:
    """Whether a runner's tags permit a job: all of the job's tags, or ``run_untagged`` for a job without."""
    wanted = set(json.loads(job["tag_list"]))
    return wanted <= set(json.loads(runner["tag_list"])) if wanted else bool(runner["run_untagged"])


def _set_status(context: Context, pipeline_id: int, status: str) -> None:
    store, at = context.store, now()
    pipeline = store.get("pipelines", pipeline_id)
    if status == pipeline["status"]:
        return
    started = pipeline["started_at"] or (at if status == "running" else None)
    finished = at if status in FINISHED else None
    store.update(
        "pipelines", pipeline_id, status=status, updated_at=at, started_at=started, finished_at=finished
    )


def composite(jobs: Sequence[Row]) -> str | None:
    """The status of several jobs together, as GitLab composes it; None where there are none."""
    seen = {_weight(job) for job in jobs}
    passed = {"success", "passed with warnings", "ignored"}
    for status, alone in (
        ("skipped", {"skipped", "ignored"}),
        ("success", passed | {"skipped"}),
        ("created", passed - {"success"} | {"created"}),
        ("canceled", passed | {"skipped", "canceled"}),
        ("pending", passed - {"success"} | {"skipped", "created", "pending"}),
    ):
        if seen and seen <= alone:
            return status
    for among, status in (
        ("running", "running"), ("pending", "running"), ("manual", "manual"), ("created", "running"),
        ("canceling", "canceling"),
    ):  # fmt: skip
        if among in seen:
            return status
    return "failed" if seen else None


def _weight(job: Row) -> str:
    if job["allow_failure"] and job["status"] in ("failed", "canceled"):
        return "passed with warnings"
    return "ignored" if job["allow_failure"] and job["status"] == "manual" else str(job["status"])
