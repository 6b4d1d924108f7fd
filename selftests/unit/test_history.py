"""The history of runs, over nights made from a real report: what is red since when, and with what change."""

from __future__ import annotations

import copy
import json
import multiprocessing
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.errors import Blame, EnvironmentProblem, UsageError
from harness.history.questions import differences, flaky, new_reds, red_since, slower
from harness.history.store import History, read_document
from harness.matrix.page import render_markdown, render_matrix
from harness.report import conformance_document
from harness.verdict import Component, Outcome, Run, Status, judge, resolve

BROKEN = "operator/csv-succeeded"
BREAKS_AT = 17
FIRST = datetime(2026, 1, 1, 3, 17, tzinfo=UTC)
Spoil = Callable[[dict[str, Any]], object]


def night(number: int, *, red: tuple[str, ...] = (), operator: str = "1.15.1", **more: Any) -> dict[str, Any]:
    """The report of one night; ids in ``red`` failed."""
    outcomes = [
        Outcome(name, name, Status.FAILED, reason=f"{name} broke\nlast state", blame=Blame.PRODUCT)
        if name in red
        else Outcome(name, name, Status.PASSED, duration_s=2.0 + 0.01 * (number % 3))
        for name in ("cluster/node-ready", "olm/package", BROKEN, "runner/online")
    ]
    run = Run(
        run_id=f"rc-{number:08x}",
        started=(FIRST + timedelta(days=number - 1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        duration_s=80.0 + number % 5,
        profile="seed",
        cluster="k3s",
        artifacts="upstream",
        gitlab="embedded",
        outcomes=resolve(outcomes),
        components=(
            Component("k3s", "v1.28.5+k3s1", reached="v1.28.5+k3s1"),
            Component("operator", operator, reached=operator),
        ),
    )
    run = replace(run, **more)
    return conformance_document(run, judge(run))


def nights() -> list[dict[str, Any]]:
    """30 nights; the operator of night 17 is a new one, with which an outcome is broken from then on."""
    before = [night(n) for n in range(1, BREAKS_AT)]
    return before + [night(n, red=(BROKEN,), operator="1.16.0") for n in range(BREAKS_AT, 31)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


def recorded(path: Path, documents: list[dict[str, Any]]) -> History:
    history = History(path)
    for document in documents:
        history.record(document)
    return history


def test_since_when_and_with_what_change(path: Path) -> None:
    with recorded(path, nights()) as history:
        runs = history.runs()
    since = red_since(runs)
    assert list(since) == [BROKEN]
    assert since[BROKEN].first_red.run_id == f"rc-{BREAKS_AT:08x}"
    assert since[BROKEN].nights == 30 - BREAKS_AT + 1
    said = str(since[BROKEN])
    assert said == (
        "red since 2026-01-17T03:17:00Z (14 run(s)), last green 2026-01-16T03:17:00Z, "
        "with operator 1.15.1 → 1.16.0"
    )
    for text in (render_matrix(runs, path), render_markdown(runs)):
        assert "red since 2026-01-17T03:17:00Z" in text
        assert "operator 1.15.1 → 1.16.0" in text


def test_only_the_first_red_night_is_new(path: Path) -> None:
    documents = nights()
    with recorded(path, documents[:BREAKS_AT]) as history:
        assert new_reds(history.runs()) == [BROKEN]
    with recorded(path, documents[BREAKS_AT:]) as history:
        assert new_reds(history.runs()) == []


def test_interrupted_and_blocked_nights_say_nothing(path: Path) -> None:
    documents = [*nights(), night(31, interrupted=True, outcomes=())]
    documents[20] = night(21, operator="1.16.0")
    for outcome in documents[20]["outcomes"]:
        outcome["status"] = "blocked"
    with recorded(path, documents) as history:
        found = red_since(history.runs())[BROKEN]
    assert found.first_red.run_id == f"rc-{BREAKS_AT:08x}"
    assert found.nights == 13


def test_what_a_run_did_not_look_at_is_no_change(path: Path) -> None:
    early = night(2, components=(Component("operator", "1.15.1"),))
    with recorded(path, [night(1), early]) as history:
        before, after = history.runs()
    assert [c.what for c in differences(before, after)] == ["k3s"]  # no longer asked for at all


def test_flaky_is_red_and_green_again_for_the_same_inputs(path: Path) -> None:
    documents = [night(1), night(2, red=("runner/online",)), night(3), *nights()[3:]]
    with recorded(path, documents) as history:
        assert flaky(history.runs()) == {"runner/online": 1}


def test_slower_than_three_median_deviations_and_a_second(path: Path) -> None:
    slow = night(30)
    slow["outcomes"][1]["duration_s"] = 9.0
    slow["outcomes"][3]["duration_s"] = 2.9  # beyond 3 MAD, but less than a second
    with recorded(path, [*[night(n) for n in range(1, 30)], slow]) as history:
        assert slower(history.runs()) == {"olm/package": (9.0, 2.01)}


def test_recording_twice_changes_nothing(path: Path) -> None:
    with History(path) as history:
        assert history.record(night(1)) is True
        assert history.record(night(1)) is False
        assert len(history.runs()) == 1


def _write_many(path: str, first: int) -> None:
    for number in range(first, first + 40):
        with History(Path(path)) as history:
            history.record(night(number), series=f"writer of {first}")


def test_two_writers_lose_nothing(path: Path) -> None:
    start = multiprocessing.get_context("spawn")
    writers = [start.Process(target=_write_many, args=(str(path), first)) for first in (1, 1001)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    with History(path) as history:
        assert len(history.runs()) == 80
        assert len(history.series()) == 2


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda p: p.write_text("no database, but text enough to be taken for a page of one" * 20),
            "no SQLite",
        ),
        (lambda p: sqlite3.connect(p).executescript("CREATE TABLE other (x)"), "no history of runs"),
        (lambda p: sqlite3.connect(p).executescript("PRAGMA user_version = 99"), "newer runner-conformance"),
    ],
    ids=["text", "foreign", "newer"],
)
def test_a_file_that_is_no_history_is_refused(path: Path, spoil: Callable[[Path], object], says: str) -> None:
    if says.startswith("newer"):
        History(path).__exit__()
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=says):
        History(path)
    assert path.read_bytes() == before


def test_a_torn_file_is_said_and_left(path: Path) -> None:
    with recorded(path, nights()):
        pass
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    torn = path.read_bytes()
    with pytest.raises(EnvironmentProblem, match="damaged"):
        History(path).runs()
    assert path.read_bytes() == torn


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.pop("run"),
        lambda d: d.update(outcomes=3),
        lambda d: d["outcomes"][0].pop("status"),
        lambda d: d["verdict"].update(exit_code="zero"),
        lambda d: d.update(components=[[]]),
    ],
)
def test_a_document_that_is_none_is_refused_whole(path: Path, tmp_path: Path, spoil: Spoil) -> None:
    document = copy.deepcopy(night(1))
    spoil(document)
    file = tmp_path / "conformance.json"
    file.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"conformance\.json"):
        read_document(file)
    with History(path) as history, pytest.raises(UsageError):
        history.record(document)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000], ids=["empty", "list", "half", "deep"])
def test_a_file_that_is_no_document(tmp_path: Path, text: str) -> None:
    file = tmp_path / "conformance.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"is no conformance\.json"):
        read_document(file)


def test_page_escapes_and_loads_nothing(path: Path) -> None:
    document = night(1, red=(BROKEN,))
    document["outcomes"][2]["reason"] = "<script>alert(1)</script>"
    document["verdict"]["reason"] = "<img src=x>"
    with recorded(path, [document]) as history:
        page = render_matrix(history.runs(), path)
    assert "<script" not in page
    assert "<img" not in page
