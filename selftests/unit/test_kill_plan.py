"""The plan of kills: every pair is in it, it is the same for a seed, and another for another seed."""

from __future__ import annotations

from selftests.kills.plan import EXISTING, PYTEST, UP, WORKERS, Case, choices, pairs, plan

ALL = (UP, PYTEST, WORKERS, EXISTING)


def pairs_of(cases: list[Case]) -> set[tuple[str, ...]]:
    return {pair for it in cases for pair in pairs((it.subject, it.signal, it.phase, it.target))}


def test_every_pair_is_in_a_plan_of_hardly_more_than_a_hundred_cases() -> None:
    wanted = {pair for choice in choices(ALL) for pair in pairs(choice)}
    for seed in range(5):
        assert pairs_of(plan(seed)) == wanted
        assert 100 <= len(plan(seed)) <= 115


def test_a_seed_names_a_plan() -> None:
    assert plan(7, 30) == plan(7, 30)
    assert plan(7, 30) != plan(8, 30)


def test_nothing_is_killed_before_it_is_there() -> None:
    assert not [it for it in plan(1, 200) if it.target == "keeper" and it.phase in ("begin", "creates")]
