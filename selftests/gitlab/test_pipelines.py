"""What `.gitlab-ci.yml` makes of a commit, seen from the API and from a runner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gitlab
import pytest

from selftests.gitlab.conftest import commit_to
from selftests.gitlab.runner_client import Runner

FULL = """\
stages: [prepare, build]
variables:
  GREETING: hello
  LEVEL: file
build:
  stage: build
  image:
    name: docker:latest
    entrypoint: [""]
  tags: [{tag}]
  timeout: 1h 30m
  services:
    - name: docker:20.10.7-dind
      alias: docker
      command: ["--tls=false"]
      entrypoint: ["dockerd-entrypoint.sh"]
      variables:
        DOCKER_TLS_CERTDIR: ""
    - busybox:latest
  variables:
    LEVEL: job
  before_script:
    - echo before
  script:
    - echo one
    - - echo two
      - echo three
  after_script:
    - echo after
"""


def refused(project: Any, content: str) -> str:
    """The errors with which GitLab refuses a pipeline for ``content``."""
    commit_to(project, content)
    with pytest.raises(gitlab.GitlabCreateError) as caught:
        project.pipelines.create({"ref": "main"})
    assert caught.value.response_code == 400
    return str(caught.value.error_message)


def statuses(project: Any, pipeline: Any) -> dict[str, str]:
    """Job name → status."""
    return {job.name: job.status for job in project.pipelines.get(pipeline.id).jobs.list(get_all=True)}


def test_job_carries_all_that_the_file_says(runner: Runner, project: Any, tag: str) -> None:
    commit_to(project, FULL.format(tag=tag))
    project.pipelines.create({"ref": "main", "variables": [{"key": "EXTRA", "value": "x"}]})
    job = runner.take()
    assert (job["job_info"]["name"], job["job_info"]["stage"]) == ("build", "build")
    assert (job["image"]["name"], job["image"]["entrypoint"]) == ("docker:latest", [""])
    dind, busybox = job["services"]
    assert (dind["name"], dind["alias"], dind["command"]) == (
        "docker:20.10.7-dind",
        "docker",
        ["--tls=false"],
    )
    assert dind["entrypoint"] == ["dockerd-entrypoint.sh"]
    assert [(v["key"], v["value"]) for v in dind["variables"]] == [("DOCKER_TLS_CERTDIR", "")]
    assert (busybox["name"], busybox["alias"]) == ("busybox:latest", None)
    script, after = job["steps"]
    assert script["script"] == ["echo before", "echo one", "echo two", "echo three"]
    assert (after["name"], after["script"], after["when"]) == ("after_script", ["echo after"], "always")
    assert job["runner_info"]["timeout"] == 5400
    last = {entry["key"]: entry["value"] for entry in job["variables"]}
    assert (last["GREETING"], last["LEVEL"], last["EXTRA"]) == ("hello", "job", "x")
    assert job["features"]["trace_sections"] is True


def test_runners_maximum_timeout_caps_the_jobs(
    make_runner: Callable[..., Runner], project: Any, tag: str
) -> None:
    runner = make_runner(project, tag, maximum_timeout=600)
    commit_to(project, f"build:\n  tags: [{tag}]\n  timeout: 2 hours\n  script: [echo]\n")
    project.pipelines.create({"ref": "main"})
    assert runner.take()["runner_info"]["timeout"] == 600


def test_masked_variable_is_masked_for_the_runner(runner: Runner, project: Any, tag: str) -> None:
    project.variables.create({"key": "PASSWORD", "value": "abcdefgh12345", "masked": True})
    project.variables.create({"key": "SETTINGS", "value": "a=b", "variable_type": "file"})
    commit_to(project, f"build:\n  tags: [{tag}]\n  script: [echo]\n")
    project.pipelines.create({"ref": "main"})
    found = {entry["key"]: entry for entry in runner.take()["variables"]}
    assert found["PASSWORD"]["masked"]
    assert not found["PASSWORD"]["public"]
    assert found["SETTINGS"]["file"]


TWO_STAGES = """\
stages: [one, two]
default: {{tags: [{tag}]}}
a: {{stage: one, script: [echo]}}
b: {{stage: two, script: [echo]}}
"""


class TestStages:
    def test_second_stage_starts_when_the_first_has_passed(
        self, runner: Runner, project: Any, tag: str
    ) -> None:
        commit_to(project, TWO_STAGES.format(tag=tag))
        pipeline = project.pipelines.create({"ref": "main"})
        assert statuses(project, pipeline) == {"a": "pending", "b": "created"}
        runner.finish(runner.take())
        second = runner.take()
        assert second["job_info"]["name"] == "b"
        runner.finish(second)
        assert project.pipelines.get(pipeline.id).status == "success"

    def test_failure_skips_later_stages_but_for_on_failure_and_always(
        self, runner: Runner, project: Any, tag: str
    ) -> None:
        content = (
            "stages: [one, two]\n"
            f"default: {{tags: [{tag}]}}\n"
            "a: {stage: one, script: [echo]}\n"
            "b: {stage: two, script: [echo]}\n"
            "c: {stage: two, script: [echo], when: on_failure}\n"
            "d: {stage: two, script: [echo], when: always}\n"
        )
        commit_to(project, content)
        pipeline = project.pipelines.create({"ref": "main"})
        runner.finish(runner.take(), "failed", failure_reason="script_failure")
        assert statuses(project, pipeline) == {"a": "failed", "b": "skipped", "c": "pending", "d": "pending"}
        for _ in range(2):
            runner.finish(runner.take())
        assert project.pipelines.get(pipeline.id).status == "failed"

    def test_allowed_failure_passes(self, runner: Runner, project: Any, tag: str) -> None:
        content = (
            "stages: [one, two]\n"
            f"default: {{tags: [{tag}]}}\n"
            "a: {stage: one, script: [echo], allow_failure: true}\n"
            "b: {stage: two, script: [echo]}\n"
        )
        commit_to(project, content)
        pipeline = project.pipelines.create({"ref": "main"})
        runner.finish(runner.take(), "failed", failure_reason="script_failure")
        runner.finish(runner.take())
        assert project.pipelines.get(pipeline.id).status == "success"

    @pytest.mark.parametrize(("exit_code", "status"), [(3, "success"), (4, "failed")])
    def test_only_the_allowed_exit_code_passes(
        self, runner: Runner, project: Any, tag: str, exit_code: int, status: str
    ) -> None:
        commit_to(project, f"a: {{tags: [{tag}], script: [echo], allow_failure: {{exit_codes: [3]}}}}\n")
        pipeline = project.pipelines.create({"ref": "main"})
        runner.finish(runner.take(), "failed", failure_reason="script_failure", exit_code=exit_code)
        assert project.pipelines.get(pipeline.id).status == status

    def test_manual_job_waits_to_be_played(self, runner: Runner, project: Any, tag: str) -> None:
        content = f"default: {{tags: [{tag}]}}\na: {{script: [echo]}}\nb: {{script: [echo], when: manual}}\n"
        commit_to(project, content)
        pipeline = project.pipelines.create({"ref": "main"})
        assert statuses(project, pipeline) == {"a": "pending", "b": "manual"}
        runner.finish(runner.take())
        assert project.pipelines.get(pipeline.id).status == "success"
        manual = next(job for job in pipeline.jobs.list(get_all=True) if job.name == "b")
        project.jobs.get(manual.id).play()
        assert runner.take()["job_info"]["name"] == "b"

    def test_retry_makes_a_new_job_and_revives_what_was_skipped(
        self, runner: Runner, project: Any, tag: str
    ) -> None:
        commit_to(project, TWO_STAGES.format(tag=tag))
        pipeline = project.pipelines.create({"ref": "main"})
        first = runner.take()
        runner.finish(first, "failed", failure_reason="script_failure")
        project.jobs.get(first["id"]).retry()
        second = runner.take()
        assert second["id"] != first["id"]
        runner.finish(second)
        runner.finish(runner.take())
        assert project.pipelines.get(pipeline.id).status == "success"


class TestRules:
    @pytest.mark.parametrize(
        ("rules", "made"),
        [
            ("rules: [{if: '$CI_COMMIT_BRANCH == \"main\"'}]", True),
            ("rules: [{if: '$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH'}]", True),
            ("rules: [{if: '$CI_COMMIT_BRANCH =~ /^rel/'}]", False),
            ("rules: [{if: '$CI_COMMIT_BRANCH !~ /^rel/ && $CI_PIPELINE_SOURCE == \"api\"'}]", True),
            ("rules: [{if: '$NOT_SET'}, {when: never}]", False),
            ("rules: [{if: '$NOT_SET == null'}]", True),
            ("rules: [{if: '($NOT_SET || $CI) && $GREETING == \"hello\"'}]", True),
            ("only: [main]", True),
            ("only: [/^rel.*$/]", False),
            ("only: {refs: [branches]}", True),
            ("only: [tags]", False),
            ("only: [pushes]", False),
            ("rules: [{if: $CI, when: never}]", False),
        ],
    )
    def test_whether_a_job_is_part_of_the_pipeline(
        self, project: Any, tag: str, rules: str, made: bool
    ) -> None:
        content = f"variables: {{GREETING: hello}}\nalways: {{script: [echo], tags: [{tag}]}}\n"
        commit_to(project, f"{content}maybe:\n  script: [echo]\n  tags: [{tag}]\n  {rules}\n")
        pipeline = project.pipelines.create({"ref": "main"})
        assert ("maybe" in statuses(project, pipeline)) is made

    def test_rule_sets_when_allow_failure_and_variables(self, runner: Runner, project: Any, tag: str) -> None:
        content = (
            f"a:\n  tags: [{tag}]\n  script: [echo]\n"
            "  rules:\n"
            '    - if: $CI_COMMIT_BRANCH == "main"\n'
            "      allow_failure: true\n"
            "      variables: {FROM_RULE: 'yes'}\n"
        )
        commit_to(project, content)
        pipeline = project.pipelines.create({"ref": "main"})
        job = runner.take()
        assert {"FROM_RULE": "yes"}.items() <= {v["key"]: v["value"] for v in job["variables"]}.items()
        runner.finish(job, "failed", failure_reason="script_failure")
        assert project.pipelines.get(pipeline.id).status == "success"

    def test_no_job_at_all_makes_no_pipeline(self, project: Any) -> None:
        assert "rules" in refused(project, "a: {script: [echo], rules: [{when: never}]}\n").lower()
        assert project.pipelines.list(get_all=True) == [] or project.pipelines.list()[0].source == "push"


class TestErrors:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("a: {script: [echo], stage: nowhere}\n", "chosen stage nowhere does not exist"),
            ("a: {script: [echo], colour: red}\n", "colour"),
            ("a: {image: alpine}\n", "script"),
            ("a: {script: [echo], when: sometimes}\n", "when"),
            ("a: {script: [echo], when: never}\n", "when should be one of"),
            ("a: {script: [echo], timeout: soon}\n", "timeout"),
            ("a: {script: [echo], services: 5}\n", "services"),
            ("stages: build\na: {script: [echo]}\n", "stages config should be an array of strings"),
            ("- a\n- b\n", "Invalid configuration format"),
            ("a: {script: [echo]\n", "line"),
            (".hidden: {script: [echo]}\n", "visible job"),
        ],
    )
    def test_wrong_file_is_refused_with_gitlabs_words(self, project: Any, content: str, words: str) -> None:
        assert words in refused(project, content)

    @pytest.mark.parametrize(
        "keyword",
        ["artifacts: {paths: [a]}", "cache: {paths: [a]}", "needs: [b]", "retry: 2", "except: [main]"],
    )
    @pytest.mark.embedded_only
    def test_keyword_that_is_not_supported_is_named(self, project: Any, keyword: str) -> None:
        name = keyword.partition(":")[0]
        assert f"jobs:a:{name} is a keyword that this GitLab does not support" in refused(
            project, f"a:\n  script: [echo]\n  {keyword}\n"
        )

    @pytest.mark.parametrize("keyword", ["include: other.yml", "workflow: {name: x}"])
    @pytest.mark.embedded_only
    def test_global_keyword_that_is_not_supported_is_named(self, project: Any, keyword: str) -> None:
        assert keyword.partition(":")[0] in refused(project, f"{keyword}\na: {{script: [echo]}}\n")

    def test_missing_file_and_unknown_ref(self, make_project: Callable[..., Any]) -> None:
        project = make_project(initialize_with_readme=True)
        with pytest.raises(gitlab.GitlabCreateError, match=r"(?i)missing.*ci.*file"):
            project.pipelines.create({"ref": project.default_branch})
        with pytest.raises(gitlab.GitlabCreateError, match="Reference not found"):
            project.pipelines.create({"ref": "nowhere"})

    def test_push_of_a_wrong_file_makes_a_failed_pipeline_with_the_reason(self, project: Any) -> None:
        action = {
            "action": "create",
            "file_path": ".gitlab-ci.yml",
            "content": "a: {script: [x], colour: red}\n",
        }
        project.commits.create({"branch": "main", "commit_message": "Push", "actions": [action]})
        pipeline = project.pipelines.get(project.pipelines.list(get_all=True)[0].id)
        assert (pipeline.source, pipeline.status) == ("push", "failed")
        assert "colour" in pipeline.yaml_errors


def test_push_starts_a_pipeline_unless_the_message_says_skip(project: Any, tag: str) -> None:
    content = f"a: {{script: [echo], tags: [{tag}]}}\n"
    commit_to(project, content)
    assert [p.status for p in project.pipelines.list(get_all=True)] in ([], ["skipped"])
    action = {"action": "create", "file_path": "more.txt", "content": "x"}
    commit = project.commits.create({"branch": "main", "commit_message": "More", "actions": [action]})
    pipeline = project.pipelines.list(get_all=True)[0]
    assert (pipeline.source, pipeline.sha, pipeline.status) == ("push", commit.id, "pending")
