"""What GitLab still shows of a Runner that was deleted."""

from __future__ import annotations

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
