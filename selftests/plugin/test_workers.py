"""Runs of several processes: provisioned once, and what it is called when one of them dies."""

from __future__ import annotations

import re

import pytest

from selftests.plugin.test_plugin import GOOD, RED, RED_STATUSES


def test_xdist_provisions_once_and_knows_what_is_red_elsewhere(project):
    project.plan(seconds=0.3)
    project.test(RED)
    result = project.run("-n", "2")
    assert result.ret == 1
    assert sorted(project.made_steps()) == ["cluster", "olm", "operator"]
    assert project.statuses() == {
        "cluster/node": "passed",
        "olm/catalog": "failed",
        "operator/csv": "blocked",
    }
    assert (project.pytester.path / "closed.txt").exists()


@pytest.mark.parametrize(
    ("end", "told"),
    [("os.kill(os.getpid(), 9)", r"SIGKILL"), ("os._exit(3)", "exit code 3")],
    ids=["killed", "ended"],
)
def test_a_worker_that_dies_is_the_reason_of_what_it_looked_at(project, end, told):
    """Not "was not run": the outcome names the worker, what needs it is blocked by it."""
    project.test(GOOD.replace('assert olm.made == "olm"', f"import os; {end}"))
    result = project.run("-n", "2", "--max-worker-restart", "2")
    assert result.ret == 10
    assert project.statuses() == RED_STATUSES
    entry = next(it for it in project.document()["outcomes"] if it["id"] == "olm/catalog")
    assert re.fullmatch(
        r"looking at olm/catalog: a worker process of the run ended before its test did: "
        rf"worker gw\d died \({told}\)",
        entry["reason"],
    )
    assert (entry["blame"], entry["reason_id"]) == ("environment", "suite/worker")
    assert project.document()["verdict"]["text"] == "INCONCLUSIVE"


def test_a_worker_that_dies_after_its_outcome_was_seen_takes_nothing_back(project):
    project.test(
        GOOD.replace("def test_catalog(olm)", "def test_catalog(olm, deadly)")
        + """
    @pytest.fixture
    def deadly():
        yield
        import os, time
        time.sleep(1)  # xdist sends the report in a thread of its own
        os.kill(os.getpid(), 9)
"""
    )
    result = project.run("-n", "2", "--max-worker-restart", "2")
    assert project.statuses()["olm/catalog"] == "passed"
    assert result.ret == 11
    result.stdout.re_match_lines([r".*teardown of .*test_catalog: worker gw\d died \(SIGKILL\)"])
