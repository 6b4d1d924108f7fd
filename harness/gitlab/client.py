"""The suite's own hands in GitLab: a project for the run, runners, commits, pipelines, logs, and tidying up.

Works alike on gitlab.com, jihulab.com, self-managed GitLab and the embedded one.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gitlab
import requests

from harness.errors import LeftoversError
from harness.gitlab.errors import FAULTS, explain, gitlab_errors
from harness.gitlab.pending import PendingJobs
from harness.gitlab.target import GitLabTarget, check, connect
from harness.patience import patience
from harness.redact import Secret, redact, register

__all__ = ["FINISHED", "GitLabSession", "GitLabTarget", "Made", "RunnerToken", "check", "connect"]

FINISHED = ("success", "failed", "canceled", "skipped")
_POLL_S = 1.0
_TRACE_TAIL_CHARS = 3000
_SKIP_CI = "[skip ci]"


@dataclass(frozen=True)
class RunnerToken:
    """A runner as GitLab made it; the token is shown by GitLab this once."""

    id: int
    token: Secret


@dataclass
class Made:
    """What a run has made in a GitLab, as plain data: enough for another process to remove it."""

    project_id: int | None = None
    own_project: bool = False
    runners: list[int] = field(default_factory=list)
    branches: list[str] = field(default_factory=list)
    pipelines: list[int] = field(default_factory=list)


class GitLabSession:
    """A run's dealings with one GitLab. Leaving it removes exactly what it made.

    >>> with GitLabSession(target, "rc-0a1b2c3d") as session:
    ...     runner = session.create_runner(tags=["jh"], description="how-to")
    ...     session.commit_files({".gitlab-ci.yml": "…"}, "Build the image")
    ...     pipeline = session.follow_pipeline(session.start_pipeline("main"), timeout_s=300)
    """

    def __init__(
        self,
        target: GitLabTarget,
        run_id: str,
        *,
        made: Made | None = None,
        save: Callable[[Made], None] | None = None,
        will_make: Callable[[str, str], None] = lambda kind, name: None,
    ) -> None:
        """``made`` takes over what an earlier process made; ``save`` is called after everything made.

        ``will_make`` is told kind and name before something is made.
        """
        self._will_make = will_make
        self.target, self.run_id, self.made = target, run_id, made or Made()
        self._save = save or (lambda _: None)
        self._project: Any = None
        self.gl = connect(target)

    def __enter__(self) -> GitLabSession:
        self.gl = check(self.target)
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    # -- the project ---------------------------------------------------------------------------------------

    def project(self) -> Any:
        """The project of the run: the one that was named, or a private one made at the first call."""
        if self._project is not None:
            return self._project
        with self._doing("getting the run's project"):
            if self.made.project_id is not None:
                self._project = self.gl.projects.get(self.made.project_id)
            elif self.target.project:
                self._project = self.gl.projects.get(self.target.project)
                self._note(project_id=self._project.id)
            else:
                self._project = self._create_project()
        return self._project

    def _create_project(self) -> Any:
        wanted = {
            "name": self.run_id,
            "path": self.run_id,
            "visibility": "private",
            "description": f"Made by runner-conformance, run {self.run_id}. Safe to delete.",
        }
        self._will_make("project", self.run_id)
        try:
            project = self.gl.projects.create(wanted)
        except FAULTS:
            # The answer may be lost while GitLab has made it; the run's id makes sure that it is ours.
            owned = self.gl.projects.list(owned=True, search=self.run_id, get_all=True)
            found = [it for it in owned if it.path == self.run_id]
            if not found:
                raise
            project = self.gl.projects.get(found[0].id)
        self._note(project_id=project.id, own_project=True)
        return project

    @property
    def registry_image(self) -> str | None:
        """``CI_REGISTRY_IMAGE`` of the project; None where the project has no container registry."""
        attributes = self.project().attributes
        if attributes.get("container_registry_access_level", "enabled") == "disabled":
            return None
        prefix = attributes.get("container_registry_image_prefix")
        return str(prefix) if prefix else None

    @property
    def image(self) -> str | None:
        """What this run's images are called: in a project of the user's, below a name of its own."""
        image = self.registry_image
        return image if image is None or self.made.own_project else f"{image}/{self.run_id}"

    def will_push(self) -> None:
        """Before images are pushed, by the run or by its jobs."""
        if image := self.image:
            self._will_make("images", image)

    # -- runners -------------------------------------------------------------------------------------------

    def create_runner(self, *, tags: list[str], description: str, run_untagged: bool = False) -> RunnerToken:
        """A project runner, as "New project runner" in the project's settings makes it."""
        wanted = {
            "runner_type": "project_type",
            "project_id": self.project().id,
            "description": f"{description} ({self.run_id})",
            "tag_list": tags,
            "run_untagged": run_untagged,
        }
        self._will_make("runner", str(wanted["description"]))
        with self._doing("creating a project runner"):
            made = self.gl.user.runners.create(wanted)
        self.made.runners.append(made.id)
        self._save(self.made)
        return RunnerToken(made.id, register(made.token))

    def runner_status(self, runner_id: int) -> str:
        """``online``, ``offline``, ``stale`` or ``never_contacted``."""
        with self._doing(f"asking for runner {runner_id}"):
            return str(self.gl.runners.get(runner_id).status)

    # -- commits and pipelines -----------------------------------------------------------------------------

    def commit_files(self, files: Mapping[str, str | bytes], message: str, branch: str | None = None) -> str:
        """All ``files`` in one commit; its id. No pipeline starts by itself.

        ``branch`` None: the default branch of our own project, or ``<run id>`` in a project of the user's.
        """
        branch = branch or self.branch
        project = self.project()
        with self._doing(f"committing to {branch}"):
            existing = self._branch_exists(branch)
            actions = [
                self._action(path, content, branch, existing) for path, content in sorted(files.items())
            ]
            data: dict[str, Any] = {
                "branch": branch,
                "commit_message": f"{message}\n\n{_SKIP_CI}",
                "actions": actions,
            }
            if not existing and not self._empty():
                project.refresh()  # an empty project had no default branch yet when it was made
                data["start_branch"] = project.default_branch
                for action in actions:
                    action["action"] = self._kind(action["file_path"], project.default_branch)
            if not existing:
                self._will_make("branch", branch)
            commit = project.commits.create(data)
        if not existing and branch not in self.made.branches:
            self.made.branches.append(branch)
            self._save(self.made)
        return str(commit.id)

    @property
    def branch(self) -> str:
        """Where ``commit_files`` commits unless told otherwise."""
        if self.made.own_project or (self.made.project_id is None and not self.target.project):
            return self.project().default_branch or "main"
        return self.run_id

    def _empty(self) -> bool:
        return not self.project().branches.list(per_page=1, get_all=False)

    def _branch_exists(self, branch: str) -> bool:
        try:
            self.project().branches.get(branch)
        except gitlab.GitlabGetError as error:
            if error.response_code == 404:
                return False
            raise
        return True

    def _action(self, path: str, content: str | bytes, branch: str, existing: bool) -> dict[str, Any]:
        raw = content.encode() if isinstance(content, str) else content
        return {
            "action": self._kind(path, branch) if existing else "create",
            "file_path": path,
            "content": base64.b64encode(raw).decode(),
            "encoding": "base64",
        }

    def _kind(self, path: str, branch: str) -> str:
        try:
            self.project().files.get(file_path=path, ref=branch)
        except gitlab.GitlabGetError as error:
            if error.response_code == 404:
                return "create"
            raise
        return "update"

    def start_pipeline(self, ref: str | None = None, variables: Mapping[str, str] | None = None) -> Any:
        """Start a pipeline on a branch. Raises UsageError or EnvironmentProblem with GitLab's words."""
        given = [{"key": key, "value": value} for key, value in (variables or {}).items()]
        self._will_make("pipeline", f"on {ref or self.branch}")
        with self._doing(f"starting a pipeline on {ref or self.branch}"):
            pipeline = self.project().pipelines.create({"ref": ref or self.branch, "variables": given})
        self.made.pipelines.append(pipeline.id)
        self._save(self.made)
        return pipeline

    def follow_pipeline(
        self,
        pipeline: Any,
        timeout_s: float,
        until: Callable[[Any], bool] = lambda pipeline: pipeline.status in FINISHED,
        progress: Callable[[str], None] = lambda line: None,
    ) -> Any:
        """Follow a pipeline until ``until`` says so; the pipeline with its last state.

        Ends at once when it has finished. Raises HarnessError when no runner will take a job (paused,
        removed), or after ``timeout_s``, with what every job waits for.
        """
        timeout_s *= patience()
        end, said, pending = time.monotonic() + timeout_s, "", PendingJobs(self, pipeline)
        while True:
            with self._doing(f"following pipeline {pipeline.id}"):
                pipeline.refresh()
                jobs = self.jobs(pipeline)
            states = ", ".join(f"{job.name} {job.status}" for job in jobs)
            line = f"pipeline {pipeline.id} {pipeline.status}: {states}"
            if line != said:
                progress(line)
                said = line
            if until(pipeline) or pipeline.status in FINISHED:
                return pipeline
            now = time.monotonic()
            final = pending.final(jobs, now)
            if final is not None or now > end:
                raise pending.still(jobs, final, timeout_s + now - end)
            time.sleep(_POLL_S)

    def jobs(self, pipeline: Any) -> list[Any]:
        """The jobs of a pipeline in the order in which they were defined."""
        return sorted(pipeline.jobs.list(get_all=True), key=lambda job: int(job.id))

    def explain_job(self, job: Any) -> str:
        """A job's state, and why it is so: its failure, its log's end, or the runners that don't come."""
        lines = [f"job {job.name} ({job.id}): {job.status}"]
        if reason := job.attributes.get("failure_reason"):
            lines.append(f"  failure reason: {reason}")
        if job.status == "pending":
            tags = job.attributes.get("tag_list") or []
            lines.append(f"  waits for a runner with tags {tags}; runners of the project:")
            for runner in self.project().runners.list(get_all=True):
                lines.append(
                    f"  - {runner.id} {runner.description!r}: {runner.status}, paused: {runner.paused}"
                )
        elif job.status not in ("created", "manual", "skipped"):
            lines.append(redact(self.trace(job)[-_TRACE_TAIL_CHARS:]))
        return "\n".join(lines)

    def trace(self, job: Any) -> str:
        """A job's log so far, as GitLab keeps it (with its control characters)."""
        with self._doing(f"reading the log of job {job.id}"):
            content = self.project().jobs.get(job.id, lazy=True).trace()
        return content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content or "")

    # -- the container registry ----------------------------------------------------------------------------

    def registry_tags(self, project: Any = None) -> dict[str, list[str]]:
        """Repository path → tags, as GitLab lists them."""
        project = project or self.project()
        with self._doing("listing the registry's repositories"):
            return {
                repository.path: sorted(tag.name for tag in repository.tags.list(get_all=True))
                for repository in project.repositories.list(get_all=True)
            }

    # -- tidying up ----------------------------------------------------------------------------------------

    def remove(self) -> None:
        """Remove exactly what was made, as far as it is still there. Raises LeftoversError for what stays."""
        made, left = self.made, list[str]()
        self._removed_all("runner", made.runners, self.gl.runners, left)
        if made.own_project and made.project_id is not None:
            if self._removed(f"project {made.project_id}", self._remove_project, left):
                self.made = Made(runners=made.runners)
        elif made.project_id is not None:
            self._remove_from_users_project(left)
        self._project = None
        self._save(self.made)
        if left:
            raise LeftoversError(
                f"could not remove everything from {self.target.url}",
                "remove it by hand",
                evidence="\n".join(left),
            )

    def _remove_from_users_project(self, left: list[str]) -> None:
        project = self.gl.projects.get(self.made.project_id, lazy=True)
        self._removed_all("pipeline", self.made.pipelines, project.pipelines, left)
        self._removed_all("branch", self.made.branches, project.branches, left)

    def _removed_all(self, kind: str, ids: list[Any], manager: Any, left: list[str]) -> None:
        for one in list(ids):
            if self._removed(f"{kind} {one}", partial(manager.delete, one), left):
                ids.remove(one)

    def _remove_project(self) -> None:
        project = self.gl.projects.get(self.made.project_id)
        for repository in project.repositories.list(get_all=True) if self.registry_image else []:
            with contextlib.suppress(gitlab.GitlabError):
                repository.delete()  # GitLab refuses to delete a project at once whose registry has tags
        project.delete()
        with contextlib.suppress(gitlab.GitlabGetError):
            # Newer GitLabs only mark it; a second request removes it for good.
            marked = self.gl.projects.get(self.made.project_id)
            if marked.attributes.get("marked_for_deletion_on"):
                path = marked.path_with_namespace
                self.gl.http_delete(f"/projects/{marked.id}", permanently_remove=True, full_path=path)

    def _removed(self, what: str, remove: Callable[[], object], left: list[str]) -> bool:
        try:
            remove()
        except gitlab.GitlabError as error:
            if error.response_code != 404:
                left.append(f"{what}: {explain(error, f'removing {what}', self.target.url).message}")
                return False
        except requests.exceptions.RequestException as error:
            left.append(f"{what}: {explain(error, f'removing {what}', self.target.url).message}")
            return False
        return True

    def _note(self, **changes: object) -> None:
        for name, value in changes.items():
            setattr(self.made, name, value)
        self._save(self.made)

    def _doing(self, what: str) -> contextlib.AbstractContextManager[None]:
        return gitlab_errors(what, self.target.url)
