"""Why a job stays pending: what GitLab shows of the runners that could take it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.diagnosis import Fact, Patience, Reason, as_error, classify, with_sentence
from harness.errors import EnvironmentProblem, HarnessError

if TYPE_CHECKING:
    from harness.gitlab.client import GitLabSession

_LOOK_EVERY_S = 5.0


class PendingJobs:
    """Looks now and then at the runners of a pipeline's pending jobs, and says when waiting is of no use."""

    def __init__(self, session: GitLabSession, pipeline: Any) -> None:
        self._session = session
        self._pipeline = pipeline
        self._patience = Patience()
        self._next_s = 0.0
        self._why: Reason | None = None

    def final(self, jobs: list[Any], now: float) -> Reason | None:
        """Why no runner will take one of ``jobs``; None while one may. ``now``: seconds, monotonic."""
        waiting = [job for job in jobs if job.status == "pending"]
        if not waiting:
            self._why = None
        elif now >= self._next_s:
            self._next_s = now + _LOOK_EVERY_S
            self._why = classify(fact for job in waiting for fact in self._facts(job))
        return self._patience.final(self._why, now)

    def _facts(self, job: Any) -> list[Fact]:
        tags = set(job.attributes.get("tag_list") or [])
        where = f"job {job.name} of pipeline {self._pipeline.id}"
        listed = self._session.project().runners.list(get_all=True)
        shown = [self._session.gl.runners.get(it.id) for it in listed]
        fitting = [it for it in shown if tags <= set(it.tag_list or [])]
        told = [f"pending: runner {it.id}: {it.status}, paused: {it.paused}" for it in fitting]
        return [
            Fact("pending", where, text, subject=where)
            for text in told or [f"pending: no runner of the project has the tags {sorted(tags)}"]
        ]

    def still(self, jobs: list[Any], final: Reason | None, waited_s: float) -> HarnessError:
        """That the pipeline has not finished, and why."""
        evidence = "\n".join(self._session.explain_job(job) for job in jobs)
        told = f"pipeline {self._pipeline.id} is still {self._pipeline.status} after {waited_s:.0f} s"
        why = final or self._why
        if why is not None:
            return as_error(with_sentence(why, f"{told}; {why.sentence}"), evidence=evidence)
        states = ", ".join(f"{job.name} {job.status}" for job in jobs)
        return EnvironmentProblem(f"{told}: {states}", "see what its jobs wait for below", evidence=evidence)
