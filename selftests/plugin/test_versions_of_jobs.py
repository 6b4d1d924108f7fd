"""What jobs say and do with other versions of docker and of the operator than the how-to's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.pipeline import Build
from fixtures.plugin.outcomes import NotApplicable
from fixtures.second_cluster import replacement
from fixtures.steps import runner_setups
from harness.graph import Inapplicable
from harness.profile import load_profile
from tests.s06_pipeline import test_images_as_written as as_written

NEW_WORDS = (
    "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct and if "
    "the daemon is running: dial unix /var/run/docker.sock: connect: no such file or directory\n"
)
OLD_WORDS = (
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n"
)
REFUSED = (
    "Error response from daemon: client version 1.52 is too new. Maximum supported API version is 1.41",
    "API version 1.41 is not supported by this client: the minimum supported API version is 1.44",
)


class FakeBuild(Build):
    """A Build whose job and log the test gives."""

    def __init__(self, status: str, log: str) -> None:
        super().__init__(SimpleNamespace(project="g/p"), None, 1, Path(), ())  # type: ignore[arg-type]
        self.__dict__["_job"] = SimpleNamespace(
            id=1, name="build", status=status, attributes={"failure_reason": "script_failure"}
        )
        self.__dict__["_text"] = log
        self.__dict__["session"] = SimpleNamespace(trace=lambda job: log)

    def job(self) -> Any:
        return self.__dict__["_job"]

    @property
    def log(self) -> str:
        return str(self.__dict__["_text"])


@pytest.mark.parametrize("words", [NEW_WORDS, OLD_WORDS], ids=["docker 29", "docker 28 and older"])
def test_a_missing_daemon_is_recognised_in_the_words_of_either_client(words: str) -> None:
    assert FakeBuild("failed", words).assert_no_daemon() in words


def test_other_words_are_not_taken_for_it() -> None:
    with pytest.raises(AssertionError, match="the log lacks 'Cannot connect"):
        FakeBuild("success", "denied: requested access to the resource is denied\n").assert_no_daemon()


def run_as_written(build: Build, profile: str = "latest", images: tuple[str, ...] = ()) -> list[str]:
    """The notes that the test of the how-to's own images makes."""
    notes: list[str] = []
    artifacts = SimpleNamespace(images=lambda: images)
    stack = SimpleNamespace(profile=load_profile(profile), artifacts=artifacts)
    as_written.test_the_how_to_s_own_images_build_too(lambda setup, branch: build, stack, notes.append)  # type: ignore[arg-type]
    return notes


@pytest.mark.parametrize("words", REFUSED)
def test_a_client_too_new_for_the_how_to_s_dind_is_noted_not_judged(words: str) -> None:
    notes: list[str] = []
    stack = SimpleNamespace(profile=load_profile("latest"), artifacts=SimpleNamespace(images=lambda: ()))
    build = FakeBuild("failed", f"{words}\nERROR: Job failed: command terminated with exit code 1\n")
    with pytest.raises(NotApplicable, match=r"was judged by docker:29\.7\.2 with docker:29\.7\.2-dind"):
        as_written.test_the_how_to_s_own_images_build_too(lambda setup, branch: build, stack, notes.append)  # type: ignore[arg-type]
    (note,) = notes
    assert note.endswith("docker:29.7.2 with docker:29.7.2-dind does")
    assert words.removeprefix("Error response from daemon: ") in note


def test_the_how_to_s_own_images_that_work_are_not_noted() -> None:
    assert run_as_written(FakeBuild("success", "")) == []


def test_the_how_to_s_own_images_that_fail_otherwise_are_judged() -> None:
    with pytest.raises(Exception, match="job build of g/p is failed"):
        run_as_written(FakeBuild("failed", "ERROR: Job failed: command terminated with exit code 1\n"))


def test_where_the_jobs_use_the_how_to_s_own_images_there_is_nothing_more_to_try() -> None:
    bundle = ("docker.io/library/docker:latest", "docker.io/library/docker:20.10.7-dind")
    with pytest.raises(NotApplicable, match="the other jobs use these images"):
        run_as_written(FakeBuild("success", ""), images=bundle)
    assert runner_setups.short_name(bundle[0]) == "docker:latest"


def test_the_image_that_is_replaced_is_the_profile_s() -> None:
    found = replacement(load_profile("seed"))
    assert (found.broken, found.registry) == ("gcr.io/kubebuilder/kube-rbac-proxy:v0.8.0", "gcr.io")


def test_a_profile_that_replaces_no_image_has_no_such_story() -> None:
    with pytest.raises(
        Inapplicable, match=r"profile latest replaces no image.*operator 1\.53\.0 is registry\.gitlab"
    ):
        replacement(load_profile("latest"))


def test_an_operator_without_the_image_has_no_such_story() -> None:
    with pytest.raises(Inapplicable, match=r"operator 1\.53\.0 has no image gcr\.io/kubebuilder"):
        replacement(load_profile("seed", {"operator": "1.53.0"}))
