"""What GitLab still shows of a Runner that was deleted."""

from __future__ import annotations

import pytest

from fixtures.accepted import _OF_A_JOB
from fixtures.runner_sides import left_of

_BEFORE = [{"id": 6, "system_id": "r_a", "status": "online"}]


def test_a_manager_that_never_left_is_left() -> None:
    assert left_of(_BEFORE, _BEFORE) == (_BEFORE, [])


def test_a_manager_that_asked_once_more_after_it_unregistered_came_back() -> None:
    back = [{"id": 7, "system_id": "r_a", "status": "online"}]
    assert left_of(_BEFORE, back) == ([], back)


def test_a_pod_that_was_started_anew_is_left() -> None:
    other = [{"id": 7, "system_id": "r_b", "status": "online"}]
    assert left_of(_BEFORE, other) == (other, [])


def test_nothing_is_left() -> None:
    assert left_of(_BEFORE, []) == ([], [])


@pytest.mark.parametrize(
    ("line", "of_a_job"),
    [
        ("WARNING: Appending trace to coordinator... aborted  code=403 job=3 job-log= runner=t1_x", True),
        (
            "WARNING: Submitting job to coordinator... aborted\x1b[0;m  code\x1b[0;m=403 job\x1b[0;m=3",
            True,
        ),
        ("ERROR: Checking for jobs... forbidden              runner=t1_x status=POST 403 Forbidden", False),
    ],
)
def test_a_refusal_of_a_job_s_own_token_is_none_of_the_runner(line: str, of_a_job: bool) -> None:
    assert bool(_OF_A_JOB.search(line)) is of_a_job
