"""Pipelines: made from the file at a commit, driven stage by stage as their jobs end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from embedded_gitlab import tokens, variables
from embedded_gitlab.ci_config import CiConfig, ConfigError, JobDefinition, parse
from embedded_gitlab.ci_expression import ExpressionError, evaluate, pattern
from embedded_gitlab.context import Context
from embedded_gitlab.store import Row, now

CI_FILE = ".gitlab-ci.yml"
FINISHED = ("success", "failed", "canceled", "skipped")
ALIVE = ("created", "pending", "running", "canceling", "manual")
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
    try:
        config = parse(file[2])
    except ConfigError as error:
        if source == "push":
            return _insert(context, project, user, name, sha, tag, source, before_sha, errors=error.errors)
        raise PipelineRefused(*error.errors) from None
    if source == "push" and _says_skip(context, project, sha):
        return _insert(context, project, user, name, sha, tag, source, before_sha, skipped=True)
    extra = [
        variables.variable(
            str(v["key"]), v["value"], public=False, file=v.get("variable_type") == "file", raw=False
        )
        for v in given
    ]
    with context.store.transaction():
        pipeline = _insert(context, project, user, name, sha, tag, source, before_sha, config, extra)
        _add_jobs(context, project, pipeline, user, config)
        context.git.set_ref(project["id"], f"refs/pipelines/{pipeline['id']}", sha)
    advance(context, pipeline["id"])
    return context.store.get("pipelines", pipeline["id"])


def _says_skip(context: Context, project: Row, sha: str) -> bool:
    commit = context.git.commit_info(project["id"], sha)
    return commit is not None and any(mark in commit.message.lower() for mark in _SKIP_MARKS)


def _insert(
    context: Context,
    project: Row,
    user: Row,
    ref: str,
    sha: str,
    tag: bool,
    source: str,
    before_sha: str,
    config: CiConfig | None = None,
    extra: Sequence[Mapping[str, Any]] = (),
    *,
    errors: Sequence[str] = (),
    skipped: bool = False,
) -> Row:
    store, at = context.store, now()
    iid = store.get("projects", project["id"])["next_iid"]
    store.update("projects", project["id"], next_iid=iid + 1)
    status = "failed" if errors else "skipped" if skipped else "created"
    new = store.insert(
        "pipelines",
        project_id=project["id"],
        iid=iid,
        ref=ref,
        tag=tag,
        sha=sha,
        before_sha=before_sha,
        source=source,
        status=status,
        yaml_errors="; ".join(errors) or None,
        user_id=user["id"],
        stages=json.dumps(config.stages if config else []),
        variables=json.dumps(list(extra)),
        created_at=at,
        updated_at=at,
        finished_at=at if errors else None,
    )
    return store.get("pipelines", new)


def _add_jobs(context: Context, project: Row, pipeline: Row, user: Row, config: CiConfig) -> None:
    known = {
        v["key"]: v["value"]
        for v in [
            *variables.of_pipeline(context, project, pipeline),
            *(variables.variable(k, v) for k, v in config.variables.items()),
            *variables.of_project(context, project, pipeline),
            *json.loads(pipeline["variables"]),
        ]
    }
    added = 0
    for job in config.jobs:
        chosen = _choose(job, {**known, **job.variables}, pipeline)
        if chosen is None:
            continue
        definition = asdict(chosen)
        definition["variables"] = {**config.variables, **chosen.variables}
        _insert_job(context, project, pipeline, user, config.stages.index(job.stage), definition)
        added += 1
    if not added:
        raise PipelineRefused(
            "Pipeline will not run for the selected trigger. The rules configuration prevented any jobs from "
            "being added to the pipeline."
        )


def _choose(job: JobDefinition, known: Mapping[str, str], pipeline: Row) -> JobDefinition | None:
    """The job with its matching rule applied, or None when it isn't part of this pipeline."""
    from dataclasses import replace

    if job.only is not None and not any(_only_matches(entry, pipeline) for entry in job.only):
        return None
    if job.rules is None:
        return None if job.when == "never" else job
    for rule in job.rules:
        try:
            if "if" in rule and not evaluate(str(rule["if"]), known):
                continue
        except ExpressionError as error:
            raise PipelineRefused(f"jobs:{job.name}:rules:rule if {error}") from None
        when = rule.get("when", "on_success")
        if when == "never":
            return None
        extra = {str(k): str(v) for k, v in (rule.get("variables") or {}).items()}
        return replace(
            job,
            when=when,
            allow_failure=rule.get("allow_failure", job.allow_failure),
            variables={**job.variables, **extra},
        )
    return None


def _only_matches(entry: str, pipeline: Row) -> bool:
    kinds = {
        "branches": not pipeline["tag"],
        "tags": bool(pipeline["tag"]),
        "pushes": "push",
        "api": "api",
        "web": "web",
    }
    if entry in kinds:
        kind = kinds[entry]
        return kind if isinstance(kind, bool) else pipeline["source"] == kind
    if len(entry) > 2 and entry[0] == "/":
        text, _, flags = entry[1:].rpartition("/")
        return pattern(text, flags).search(pipeline["ref"]) is not None
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
        by_stage: dict[int, list[Row]] = {}
        for job in jobs:
            by_stage.setdefault(job["stage_index"], []).append(job)
        failed = False
        for _, stage in sorted(by_stage.items()):
            for job in stage:
                if job["status"] == "created":
                    job["status"] = _start(context, job, failed)
                    if job["status"] == "pending":
                        woken.update(runners_for(context, job))
            if any(not _passable(job) for job in stage):
                break
            failed = failed or any(
                job["status"] in ("failed", "canceled") and not job["allow_failure"] for job in stage
            )
        _set_status(context, pipeline_id, jobs)
    context.queue.tick(woken)


def _start(context: Context, job: Row, failed: bool) -> str:
    when = json.loads(job["definition"])["when"]
    runs = {"on_success": not failed, "on_failure": failed, "always": True, "manual": not failed}[when]
    status = ("manual" if when == "manual" else "pending") if runs else "skipped"
    context.store.update("jobs", job["id"], status=status, queued_at=now() if status == "pending" else None)
    return status


def _passable(job: Row) -> bool:
    """Whether the next stage need not wait for this job."""
    return job["status"] in FINISHED or (job["status"] == "manual" and bool(job["allow_failure"]))


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


def _set_status(context: Context, pipeline_id: int, jobs: Sequence[Row]) -> None:
    store, at = context.store, now()
    status = composite(jobs)
    pipeline = store.get("pipelines", pipeline_id)
    if status == pipeline["status"]:
        return
    started = pipeline["started_at"] or (at if status == "running" else None)
    finished = at if status in FINISHED else None
    store.update(
        "pipelines", pipeline_id, status=status, updated_at=at, started_at=started, finished_at=finished
    )


def composite(jobs: Sequence[Row]) -> str:
    """The status of a pipeline (or stage) from its jobs, as GitLab composes it."""
    seen = {
        "success" if job["status"] in ("failed", "canceled") and job["allow_failure"] else job["status"]
        for job in jobs
        if not (job["status"] == "manual" and job["allow_failure"])
    } or {"skipped"}
    if seen <= {"skipped"}:
        return "skipped"
    if seen <= {"success", "skipped"}:
        return "success"
    if seen <= {"created"}:
        return "created"
    if seen <= {"success", "skipped", "failed", "canceled"}:
        return "canceled" if "canceled" in seen else "failed"
    if seen <= {"pending", "created", "skipped"}:
        return "pending"
    if "canceling" in seen:
        return "canceling"
    if seen & {"running", "pending"} or (
        seen & {"success", "failed"} and "created" in seen and "manual" not in seen
    ):
        return "running"
    return "manual" if "manual" in seen else "running"
