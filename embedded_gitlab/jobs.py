"""What happens to a job: handed out, updated, finished, canceled, played, retried, lost."""

from __future__ import annotations

import json
from collections.abc import Sequence

from embedded_gitlab import pipelines, tokens
from embedded_gitlab.context import Context
from embedded_gitlab.store import Row, now

FAILURE_REASONS = (
    "unknown_failure", "script_failure", "api_failure", "stuck_or_timeout_failure", "runner_system_failure",
    "missing_dependency_failure", "runner_unsupported", "stale_schedule", "job_execution_timeout",
    "archived_failure", "unmet_prerequisites", "scheduler_failure", "data_integrity_failure",
    "forward_deployment_failure", "user_blocked", "project_deleted", "ci_quota_exceeded",
    "trace_size_exceeded", "runner_provisioning_timeout", "runner_interrupted",
)  # fmt: skip
"""Any other reason from a runner becomes unknown_failure."""


def take(context: Context, runner: Row, manager: Row | None) -> Row | None:
    """Give the oldest pending job that ``runner`` may run to it, or None.

    The state is written before anything is answered: a restart in between loses no job to a second runner.
    """
    store = context.store
    with store.transaction():
        candidates = store.all(
            """SELECT j.* FROM jobs j JOIN projects p ON p.id = j.project_id WHERE j.status = 'pending' AND
               ((? = 'instance_type' AND p.shared_runners_enabled) OR j.project_id IN
                (SELECT project_id FROM runner_projects WHERE runner_id = ?)) ORDER BY j.id""",
            runner["runner_type"],
            runner["id"],
        )
        for job in candidates:
            if not pipelines.matches(runner, job):
                continue
            at = now()
            timeout = min(job["timeout"], runner["maximum_timeout"] or job["timeout"])
            store.update(
                "jobs",
                job["id"],
                status="running",
                runner_id=runner["id"],
                manager_id=manager["id"] if manager else None,
                started_at=at,
                touched_at=at,
                timeout=timeout,
            )
            pipelines.advance(context, job["pipeline_id"])
            return store.get("jobs", job["id"])
    return None


def finish(
    context: Context, job: Row, status: str, reason: str | None = None, exit_code: int | None = None
) -> None:
    """End a job. A canceling one ends as canceled, whatever the runner says."""
    if job["status"] == "canceling":
        status, reason = "canceled", None
    if status == "failed" and reason not in FAILURE_REASONS:
        reason = "unknown_failure"
    codes = json.loads(job["definition"])["allow_failure_exit_codes"]
    context.store.update(
        "jobs",
        job["id"],
        status=status,
        failure_reason=reason if status == "failed" else None,
        finished_at=now(),
        allow_failure=bool(job["allow_failure"]) or (status == "failed" and exit_code in codes),
    )
    pipelines.advance(context, job["pipeline_id"])


def cancel(context: Context, pipeline_id: int, jobs: Sequence[Row]) -> None:
    """Cancel jobs of a pipeline. A runner that can be told gently (cancel_gracefully) ends its job itself."""
    store = context.store
    with store.transaction():
        for job in jobs:
            manager = store.one("SELECT * FROM runner_managers WHERE id = ?", job["manager_id"])
            gentle = manager is not None and json.loads(manager["features"]).get("cancel_gracefully")
            if job["status"] == "running" and gentle:
                store.update("jobs", job["id"], status="canceling")
            elif job["status"] in pipelines.CANCELABLE:
                store.update("jobs", job["id"], status="canceled", finished_at=now())
        pipelines.advance(context, pipeline_id)


def play(context: Context, job: Row) -> Row:
    """Start a manual job; what was skipped after it may follow."""
    with context.store.transaction():
        context.store.update("jobs", job["id"], status="pending", queued_at=now())
        _revive(context, job["pipeline_id"], job["stage_index"])
    context.queue.tick(pipelines.runners_for(context, job))
    return context.store.get("jobs", job["id"])


def retry(context: Context, job: Row, user: Row) -> Row:
    """A new job in the place of a finished one. A manual one starts at once, as it was played before."""
    with context.store.transaction():
        new = _clone(context, job, user, played=True)
        _revive(context, job["pipeline_id"], job["stage_index"])
    return context.store.get("jobs", new)


def retry_all(context: Context, pipeline_id: int, user: Row) -> None:
    """New jobs for those that failed or were canceled; each waits for the stages before it, as at first."""
    with context.store.transaction():
        for job in context.store.all(
            """SELECT * FROM jobs WHERE pipeline_id = ? AND NOT retried AND status IN ('failed', 'canceled')
               ORDER BY id""",
            pipeline_id,
        ):
            _clone(context, job, user, played=False)
        _revive(context, pipeline_id, -1)


_KEPT = ("pipeline_id", "project_id", "name", "stage", "stage_index", "tag_list", "timeout")


def _clone(context: Context, job: Row, user: Row, *, played: bool) -> int:
    definition = {**json.loads(job["definition"]), "played": played}
    context.store.update("jobs", job["id"], retried=True)
    return context.store.insert(
        "jobs",
        **{key: job[key] for key in _KEPT},
        definition=json.dumps(definition),
        status="created",
        allow_failure=definition["allow_failure"],
        token=tokens.job_token(),
        user_id=user["id"],
        created_at=now(),
    )


def _revive(context: Context, pipeline_id: int, after: int) -> None:
    """Skipped jobs of later stages wait again, then all goes on (Ci::ResetSkippedJobsService)."""
    context.store.execute(
        """UPDATE jobs SET status = 'created'
           WHERE pipeline_id = ? AND stage_index > ? AND status = 'skipped' AND NOT retried""",
        pipeline_id,
        after,
    )
    pipelines.advance(context, pipeline_id)


def sweep(context: Context) -> None:
    """Fail jobs whose runner was lost, that outlived their timeout, or that nobody took for a day."""
    settings, at = context.settings, now()
    for job in context.store.all("SELECT * FROM jobs WHERE status IN ('running', 'canceling', 'pending')"):
        reason = None
        if job["status"] == "pending":
            if at - (job["queued_at"] or at) > settings.stuck_pending_s:
                reason = "stuck_or_timeout_failure"
        elif at - (job["touched_at"] or at) > settings.stuck_running_s:
            reason = "stuck_or_timeout_failure"
        elif at - (job["started_at"] or at) > job["timeout"] + settings.timeout_grace_s:
            reason = "job_execution_timeout"
        if reason:
            finish(context, job, "failed", reason)
