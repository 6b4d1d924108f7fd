"""The recipes of docs/nightly-ci.md, as far as they can be looked at without a machine of each kind."""

from __future__ import annotations

import configparser

import pytest

from selftests.recipes import REPOSITORY, read

RECIPES = read()


def test_every_kind_of_machine_has_one() -> None:
    assert set(RECIPES) == {"server", "gitlab-docker", "gitlab-kubernetes", "github"}


@pytest.mark.parametrize("name", RECIPES)
def test_it_runs_an_environment_that_is_there(name: str) -> None:
    environments = configparser.ConfigParser(interpolation=None)
    environments.read(REPOSITORY / "tox.ini")
    words = [
        line.partition("./run ")[2].split() for line in RECIPES[name].script.splitlines() if "./run" in line
    ]
    assert words
    for first, *_ in words:
        assert f"testenv:{first}" in environments


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_is_installed_with_the_machine_s_own_pip(name: str) -> None:
    assert "pip install" not in RECIPES[name].script


@pytest.mark.parametrize("name", RECIPES)
def test_no_variable_of_the_service_is_left_open(name: str) -> None:
    assert "${{" not in RECIPES[name].script
    for key in RECIPES[name].variables:
        assert key != "K3S" or f"${key}" in RECIPES[name].script
