"""The gitlab-runner stand-in: registration template, duplicate variables, releases, stamps of the log."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

STANDIN = Path(__file__).parents[2] / "lab/standins/gitlab_runner"


@pytest.fixture(scope="module", autouse=True)
def runner() -> Iterator[None]:
    """Its package, found as in the image."""
    sys.path.insert(0, str(STANDIN))
    yield
    sys.path.remove(str(STANDIN))
    for name in [it for it in sys.modules if it.partition(".")[0] == "glrunner"]:
        del sys.modules[name]


def module(name: str) -> ModuleType:
    return importlib.import_module(f"glrunner.{name}")


def read(tmp_path: Path, kubernetes: str) -> Any:
    """What is taken of a template with these lines in its `[runners.kubernetes]`."""
    path = tmp_path / "template.toml"
    path.write_text(f"[[runners]]\n[runners.kubernetes]\n{kubernetes}")
    return module("template").read(str(path))["kubernetes"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('privileged = "true"', "privileged has string for boolean"),
        ("cpu_request = 1", "cpu_request has int64 for string"),
        ('poll_timeout = "180"', "poll_timeout has string for integer"),
        ("poll_timeout = true", "poll_timeout has bool for integer"),
        ('image_pull_secrets = "one"', "image_pull_secrets has string for slice"),
        ("allowed_images = [1]", "allowed_images has int64 for string"),
        ("pull_policy = 3", "pull_policy has int64 for slice"),
        ("[runners.kubernetes.pod_labels]\nteam = 1", "pod_labels.team has int64 for string"),
        (
            '[runners.kubernetes.volumes.host_path]\nname = "docker"',
            "volumes.host_path has map[string]interface {} for slice",
        ),
        (
            '[[runners.kubernetes.volumes.host_path]]\nname = "docker"\nread_only = "yes"',
            "volumes.host_path.read_only has string for boolean",
        ),
    ],
)
def test_a_value_of_another_type_ends_the_registration(tmp_path: Path, line: str, said: str) -> None:
    key, _, types = said.partition(" has ")
    found, _, wanted = types.partition(" for ")
    with pytest.raises(Exception, match="couldn't load configuration template file: ") as caught:
        read(tmp_path, line)
    assert f'(last key "runners.kubernetes.{key}")' in str(caught.value)
    assert f"TOML value has type {found}; destination has type {wanted}" in str(caught.value)


def test_the_line_of_the_mistake_is_said(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"toml: line 5 \(last key"):
        read(tmp_path, 'image = "alpine"\n\nprivileged = "true"\n')


def test_a_table_where_the_configuration_wants_another_shape_is_a_mismatch(tmp_path: Path) -> None:
    with pytest.raises(
        Exception, match=r"type mismatch for common\.KubernetesVolumes: expected table but found bool"
    ):
        read(tmp_path, "volumes = true")


@pytest.mark.parametrize(
    "unknown",
    ["privilegd = true", "[runners.kubernets]\nprivileged = true", "[runners.kubernetes.volume]\na = 1"],
)
def test_a_key_that_it_does_not_know_is_dropped_without_a_word(tmp_path: Path, unknown: str) -> None:
    assert read(tmp_path, f'image = "alpine"\n{unknown}') == {"image": "alpine"}


def test_a_list_of_tables_for_free_keys_is_dropped(tmp_path: Path) -> None:
    lines = 'image = "alpine"\n[[runners.kubernetes.pod_annotations]]\nteam = "one"'
    assert read(tmp_path, lines) == {"image": "alpine"}


def test_one_pull_policy_becomes_a_list(tmp_path: Path) -> None:
    assert read(tmp_path, 'pull_policy = "always"') == {"pull_policy": ["always"]}
    assert read(tmp_path, 'pull_policy = ["always", "never"]') == {"pull_policy": ["always", "never"]}


def test_a_lists_items_are_not_added_to_those_that_are_set(tmp_path: Path) -> None:
    target = {"kubernetes": {"image_pull_secrets": ["mine"], "pod_labels": {"a": "1"}}}
    lines = 'image_pull_secrets = ["yours"]\n[runners.kubernetes.pod_labels]\na = "2"\nb = "3"'
    module("config").merge(target, {"kubernetes": read(tmp_path, lines)})
    assert target == {"kubernetes": {"image_pull_secrets": ["mine"], "pod_labels": {"a": "1", "b": "3"}}}


def test_the_templates_token_is_not_taken_and_a_missing_template_is_an_empty_one(tmp_path: Path) -> None:
    template = module("template")
    path = tmp_path / "template.toml"
    path.write_text('[[runners]]\ntoken = "secret"\nlimit = 3\n')
    assert template.read(str(path)) == {"limit": 3}
    with pytest.raises(template.TemplateError, match="exactly one"):
        template.read(str(tmp_path / "none"))


def test_of_a_variable_given_twice_the_first_is_overwritten_and_the_last_is_seen() -> None:
    variables = module("variables")
    twice = variables.Variables(
        [
            variables.Variable("CI_JOB_STATUS", "running", public=True),
            variables.Variable("CI_JOB_STATUS", "running", public=True),
        ]
    )
    exported = module("shell").exports(twice, "failed").splitlines()
    assert exported == ["export CI_JOB_STATUS=failed", "export CI_JOB_STATUS=running"]
    once = variables.Variables([variables.Variable("CI_JOB_STATUS", "running", public=True)])
    assert module("shell").exports(once, "failed").splitlines() == ["export CI_JOB_STATUS=failed"]


@pytest.mark.parametrize(
    ("version", "stamps", "interrupted"),
    [("16.0.1", False, False), ("18.6.9", False, False), ("18.7.0", True, False), ("19.4.0", True, True)],
)
def test_what_came_with_a_release_is_there_from_it_on(
    tmp_path: Path, version: str, stamps: bool, interrupted: bool
) -> None:
    path = tmp_path / "release.toml"
    path.write_text(f'version = "{version}"\nrevision = "0a1b2c3d"\n')
    found = module("release").load(path)
    assert (found.stamps, found.reports_interruption) == (stamps, interrupted)


def test_stamped_lines_have_time_stream_and_continuation() -> None:
    at = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
    stamps = module("stamps").Stamps(lambda: at)
    head = b"2026-01-31T12:00:00.123456Z "
    assert stamps.stamped(b"one\ntwo\n", 0) == head + b"00O one\n" + head + b"00O two\n"
    mark = b"section_start:1:step_script\r\x1b[0K"
    assert stamps.stamped(mark, 0) == head + b"00O " + mark + b"\n"
    assert stamps.stamped(b"out\n", 1) == head + b"01O out\n"
    assert stamps.stamped(b"title\nnext\n", 0) == head + b"00O+title\n" + head + b"00O next\n"


def trace_of(variables: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch, version: str) -> bytes:
    """The log of a job with these variables, of a runner of that version, after one line."""
    trace, release = module("trace"), module("release")
    monkeypatch.setattr(trace, "RELEASE", release.Release(version, "0a1b2c3d"))
    job = {"id": 1, "token": "t", "variables": variables}
    made = trace.Trace(None, job, {"_short": "abc"}, lambda: None)
    made.mask(["hidden"], [])
    made.write("it is hidden\n")
    return bytes(made._buffer)


@pytest.mark.parametrize(
    ("version", "flag", "stamped"),
    [
        ("16.0.1", None, False), ("16.0.1", "true", False), ("17.0.0", None, False), ("17.0.0", "true", True),
        ("19.4.0", None, True), ("19.4.0", "false", False),
    ],
)  # fmt: skip
def test_the_log_is_stamped_by_release_and_flag(
    monkeypatch: pytest.MonkeyPatch, version: str, flag: str | None, stamped: bool
) -> None:
    given: list[dict[str, object]] = [{"key": "FF_TIMESTAMPS", "value": flag}] if flag else []
    said = trace_of(given, monkeypatch, version)
    assert said.endswith(b"it is [MASKED]\n")
    assert (b"Z 00O it is" in said) is stamped


@pytest.mark.parametrize(("version", "command"), [("16.0.1", "sh"), ("19.4.0", "gitlab-runner-build")])
def test_the_helper_container_starts_as_its_release_starts_it(
    monkeypatch: pytest.MonkeyPatch, version: str, command: str
) -> None:
    pod, release, variables = module("pod"), module("release"), module("variables")
    monkeypatch.setattr(pod, "RELEASE", release.Release(version, "0a1b2c3d"))
    job = {"id": 1, "git_info": {"repo_url": "http://g/a/b.git"}, "job_info": {"project_id": 2}}
    made = pod.build_pod(job, variables.Variables([]), {"image": "alpine"}, "runner-x", None)
    helper = next(it for it in made["spec"]["containers"] if it["name"] == "helper")
    assert helper["command"][0] == command
    program = STANDIN / "helper/usr/bin/gitlab-runner-build"
    assert program.stat().st_mode & 0o111
