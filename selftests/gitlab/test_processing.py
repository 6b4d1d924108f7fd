"""Pipelines go on as GitLab's do: stages, retries, cancels, statuses, variables, and who hears of a job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import gitlab
import pytest

from embedded_gitlab.pipelines import composite
from selftests.gitlab.conftest import Server, commit_to
from selftests.gitlab.runner_client import INFO, Runner
from selftests.gitlab.test_pipelines import refused, statuses

STAGES = """\
stages: [one, two, three]
default: {{tags: [{tag}]}}
a: {{stage: one, script: [echo]}}
b: {{stage: two, script: [echo]}}
c: {{stage: three, script: [echo]}}
"""


def started(project: Any, content: str) -> Any:
    commit_to(project, content)
    return project.pipelines.create({"ref": "main"})


def by_name(project: Any, pipeline: Any) -> dict[str, Any]:
    """Job name → job as the API of jobs has it."""
    found = project.pipelines.get(pipeline.id).jobs.list(get_all=True)
    return {job.name: project.jobs.get(job.id) for job in found}


class TestRetry:
    def test_retried_pipeline_goes_stage_by_stage(self, runner: Runner, project: Any, tag: str) -> None:
        """Preconditions: b and c were canceled. Expected: c waits for b."""
        pipeline = started(project, STAGES.format(tag=tag))
        runner.finish(runner.take())
        pipeline.cancel()
        assert statuses(project, pipeline) == {"a": "success", "b": "canceled", "c": "canceled"}
        project.pipelines.get(pipeline.id).retry()
        assert statuses(project, pipeline) == {"a": "success", "b": "pending", "c": "created"}
        runner.finish(runner.take())
        assert runner.take()["job_info"]["name"] == "c"

    def test_retried_first_stage_holds_the_second(self, runner: Runner, project: Any, tag: str) -> None:
        pipeline = started(project, STAGES.format(tag=tag))
        for _ in range(2):
            runner.finish(runner.take())
        runner.finish(runner.take(), "failed", failure_reason="script_failure")
        jobs = by_name(project, pipeline)
        jobs["a"].retry()
        jobs["c"].retry()
        assert statuses(project, pipeline) == {"a": "pending", "b": "success", "c": "created"}

    def test_played_job_is_retried_at_once_and_in_a_pipeline_waits_again(
        self, runner: Runner, project: Any, tag: str
    ) -> None:
        pipeline = started(
            project, f"a: {{script: [x], tags: [{tag}], when: manual, allow_failure: false}}\n"
        )
        by_name(project, pipeline)["a"].play()
        runner.finish(runner.take(), "failed", failure_reason="script_failure")
        by_name(project, pipeline)["a"].retry()
        assert statuses(project, pipeline) == {"a": "pending"}
        runner.finish(runner.take(), "failed", failure_reason="script_failure")
        project.pipelines.get(pipeline.id).retry()
        assert statuses(project, pipeline) == {"a": "manual"}


class TestCanceled:
    def test_nothing_starts_after_a_canceled_job(self, runner: Runner, project: Any, tag: str) -> None:
        content = STAGES.format(tag=tag).replace("stage: two,", "stage: two, when: always,")
        pipeline = started(project, content.replace("stage: three,", "stage: three, when: on_failure,"))
        by_name(project, pipeline)["a"].cancel()
        assert statuses(project, pipeline) == {"a": "canceled", "b": "skipped", "c": "skipped"}
        assert project.pipelines.get(pipeline.id).status == "canceled"

    def test_failed_and_canceled_is_failed(self, runner: Runner, project: Any, tag: str) -> None:
        content = f"default: {{tags: [{tag}]}}\na: {{script: [x]}}\nb: {{script: [x]}}\n"
        pipeline = started(project, content)
        runner.finish(runner.take(), "failed", failure_reason="script_failure")
        by_name(project, pipeline)["b"].cancel()
        assert statuses(project, pipeline) == {"a": "failed", "b": "canceled"}
        assert project.pipelines.get(pipeline.id).status == "failed"

    def test_manual_job_is_not_canceled(self, project: Any) -> None:
        pipeline = started(project, "a: {script: [x]}\nb: {script: [x], when: manual}\n")
        pipeline.cancel()
        assert statuses(project, pipeline) == {"a": "canceled", "b": "manual"}
        with pytest.raises(gitlab.GitlabJobCancelError):
            by_name(project, pipeline)["b"].cancel()

    def test_canceling_holds_the_next_stage(self, runner: Runner, project: Any, tag: str) -> None:
        pipeline = started(
            project, STAGES.format(tag=tag).replace("stage: two,", "stage: two, when: always,")
        )
        gentle = {**INFO, "features": {**INFO["features"], "cancel_gracefully": True}}
        job = runner.request(info=gentle).json()
        by_name(project, pipeline)["a"].cancel()
        assert statuses(project, pipeline) == {"a": "canceling", "b": "created", "c": "created"}
        runner.finish(job, "success")
        assert statuses(project, pipeline)["a"] == "canceled"

    def test_played_job_revives_what_was_skipped(self, runner: Runner, project: Any, tag: str) -> None:
        content = STAGES.format(tag=tag) + "gate: {stage: one, script: [x], when: manual}\n"
        pipeline = started(project, content)
        runner.finish(runner.take(), "failed", failure_reason="script_failure")
        assert statuses(project, pipeline)["b"] == "skipped"
        by_name(project, pipeline)["a"].retry()
        runner.finish(runner.take())
        by_name(project, pipeline)["gate"].play()
        assert runner.take()["job_info"]["name"] in ("b", "gate")


@pytest.mark.embedded_only
@pytest.mark.parametrize(
    ("jobs", "together"),
    [
        ("success failed", "failed"),
        ("success failed?", "success"),
        ("success canceled?", "success"),
        ("success canceled", "canceled"),
        ("canceled skipped manual?", "canceled"),
        ("failed canceled", "failed"),
        ("failed canceled skipped", "failed"),
        ("success created", "running"),
        ("created", "created"),
        ("created manual?", "created"),
        ("pending created skipped", "pending"),
        ("pending success", "running"),
        ("running canceling", "running"),
        ("canceling success", "canceling"),
        ("canceling created", "running"),
        ("manual created", "manual"),
        ("manual success", "manual"),
        ("manual? success", "success"),
        ("manual?", "skipped"),
        ("skipped", "skipped"),
        ("", None),
    ],
)
def test_composite_status(jobs: str, together: str | None) -> None:
    """Gitlab::Ci::Status::Composite; ``?`` marks a job that is allowed to fail."""
    rows = [{"status": word.rstrip("?"), "allow_failure": "?" in word} for word in jobs.split()]
    assert composite(rows) == together


class TestVariables:
    def test_one_precedence_for_rules_and_the_job(self, runner: Runner, project: Any, tag: str) -> None:
        """Given at the start > the project's > the job's > the file's (doc: CI/CD variable precedence)."""
        project.variables.create({"key": "PROJECT", "value": "project"})
        content = (
            "variables: {FILE: file, JOB: file, PROJECT: file, GIVEN: file}\n"
            f"a:\n  tags: [{tag}]\n  script: [x]\n"
            "  variables: {JOB: job, PROJECT: job, GIVEN: job}\n"
            "  rules:\n"
            '    - if: $FILE == "file" && $JOB == "job" && $PROJECT == "project" && $GIVEN == "given"\n'
        )
        commit_to(project, content)
        given = [{"key": "GIVEN", "value": "given"}]
        project.pipelines.create({"ref": "main", "variables": given})
        values = {v["key"]: v["value"] for v in runner.take()["variables"]}
        wanted = {"FILE": "file", "JOB": "job", "PROJECT": "project", "GIVEN": "given"}
        assert wanted.items() <= values.items()

    def test_expanded_by_the_server(self, runner: Runner, project: Any, tag: str) -> None:
        project.variables.create({"key": "A", "value": "job"})
        project.variables.create({"key": "RAW", "value": "$A", "raw": True})
        project.variables.create({"key": "FILE", "value": "$A", "variable_type": "file"})
        content = (
            "variables: {B: $A-two, C: $B-three, D: '${RAW} %A% $FILE', E: '$$A %% $E', F: $F}\n"
            f"a: {{tags: [{tag}], script: [x]}}\n"
        )
        started(project, content)
        values = {v["key"]: v["value"] for v in runner.take()["variables"]}
        assert (values["B"], values["C"]) == ("job-two", "job-two-three")
        assert (values["RAW"], values["FILE"]) == ("$A", "job")
        assert values["D"] == "${RAW} job $FILE"
        assert (values["E"], values["F"]) == ("$$A %% $E", "$F")

    def test_status_of_the_job_is_the_runners_to_set(self, running_job: dict[str, Any]) -> None:
        """The real runner keeps the first one it gets: after_script would always see `running`."""
        assert "CI_JOB_STATUS" not in {v["key"] for v in running_job["variables"]}

    @pytest.mark.embedded_only
    def test_variables_that_grow_without_measure(self, project: Any) -> None:
        lines = ["variables:", f"  A0: {'x' * 1000}"]
        lines += [f"  A{i}: $A{i - 1}$A{i - 1}" for i in range(1, 40)]
        begin = time.monotonic()
        assert "1 MiB" in refused(project, "\n".join([*lines, "a: {script: [x]}", ""]))
        assert time.monotonic() - begin < 5


class TestPatterns:
    @pytest.mark.parametrize(
        ("expression", "holds"),
        [
            ("$REF =~ $PATTERN", True),
            ("$REF =~ $PLAIN", True),
            ("$NONE =~ $PATTERN", False),
            ("$REF =~ $NONE", False),
            ("$REF !~ $NONE", True),
            ('$EMPTY || "x"', False),
            ("$EMPTY && $REF", True),
            ("$BLANK", False),
            ('$REF == "Main" || $REF == "other" && $NONE', True),
            ('($REF == "Main" || $REF == "other") && $NONE', False),
            ("$REF =~ /^MAIN$/i && $REF !~ /MAIN/", True),
            ("$REF =~ /a\\/b|ain/", True),
            ("/abc/", True),
            ("null == $NONE", True),
        ],
    )
    def test_expression(self, project: Any, expression: str, holds: bool) -> None:
        values = {"REF": "Main", "PATTERN": "/^main$/i", "PLAIN": "the Main one", "EMPTY": "", "BLANK": " "}
        lines = ["variables:", *(f"  {key}: '{value}'" for key, value in values.items())]
        lines += ["always: {script: [x]}", "maybe:", "  script: [x]", "  rules:", f"    - if: {expression!r}"]
        pipeline = started(project, "\n".join(lines).replace('"x"', '"x"') + "\n")
        assert ("maybe" in statuses(project, pipeline)) is holds

    @pytest.mark.embedded_only
    def test_pattern_that_makes_others_backtrack(self, project: Any) -> None:
        """Preconditions: a pattern that takes Python's engine years. Expected: an answer at once."""
        content = (
            f"variables: {{LONG: {'a' * 5000}!}}\nalways: {{script: [x]}}\n"
            "a:\n  script: [x]\n  rules: [{if: $LONG =~ /^(a+)+$/}]\n"
        )
        begin = time.monotonic()
        assert "a" not in statuses(project, started(project, content))
        assert time.monotonic() - begin < 5

    @pytest.mark.parametrize("expression", ["$A" + " && $A" * 60, "(" * 60 + "$A" + ")" * 60, "!$A", "true"])
    def test_expression_that_gitlab_does_not_take(self, project: Any, expression: str) -> None:
        content = f"a:\n  script: [x]\n  rules: [{{if: '{expression}'}}]\n"
        assert "invalid expression syntax" in refused(project, content)


class TestOffers:
    """A waiting runner hears at once of whatever changes who may take a job."""

    def waiting(self, server: Server, runner: Runner, change: Callable[[], object]) -> float:
        """Seconds from ``change`` to the job; the runner's request is held while it is made."""
        runner.request()
        taken: list[float] = []
        asking = threading.Thread(target=lambda: (runner.take(60), taken.append(time.monotonic())))
        asking.start()
        time.sleep(0.5)  # let the request be held
        begin = time.monotonic()
        change()
        asking.join(70)
        assert taken, "the job was not handed out"
        return taken[0] - begin

    @pytest.fixture
    def held(self, embedded: Callable[..., Server]) -> Server:
        return embedded(long_poll_s=30.0)

    @pytest.mark.embedded_only
    def test_shared_runners_switched_on(self, held: Server, tag: str) -> None:
        project = held.gl.projects.create({"name": "shared", "shared_runners_enabled": False})
        made = held.gl.user.runners.create({"runner_type": "instance_type", "tag_list": [tag]})
        started(project, f"a: {{script: [x], tags: [{tag}]}}\n")

        def switch() -> None:
            project.shared_runners_enabled = True
            project.save()

        assert self.waiting(held, held.runner(made.token), switch) < 10

    @pytest.mark.embedded_only
    def test_runner_assigned(self, held: Server, tag: str) -> None:
        first, second = (held.gl.projects.create({"name": name}) for name in ("first", "second"))
        wanted = {"runner_type": "project_type", "project_id": first.id, "tag_list": [tag]}
        made = held.gl.user.runners.create(wanted)
        started(second, f"a: {{script: [x], tags: [{tag}]}}\n")
        change = lambda: second.runners.create({"runner_id": made.id})  # noqa: E731
        assert self.waiting(held, held.runner(made.token), change) < 10

    @pytest.mark.embedded_only
    def test_tags_changed(self, held: Server, tag: str) -> None:
        project = held.gl.projects.create({"name": "tags"})
        wanted = {"runner_type": "project_type", "project_id": project.id, "tag_list": ["other"]}
        made = held.gl.user.runners.create(wanted)
        started(project, f"a: {{script: [x], tags: [{tag}]}}\n")

        def change() -> None:
            shown = held.gl.runners.get(made.id)
            shown.tag_list = [tag]
            shown.save()

        assert self.waiting(held, held.runner(made.token), change) < 10
