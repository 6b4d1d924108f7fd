"""A recorded run says since when what is red is red, and can leave known reds out of its exit code."""

from __future__ import annotations

from pathlib import Path

from harness.history.store import History
from selftests.plugin.test_plugin import GOOD, RED


def test_known_reds_are_said_and_can_be_left_out_of_the_exit_code(project, tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite"
    history = f"--history={file}"
    codes, said = [], []
    for number, (source, extra) in enumerate(
        [(GOOD, ()), (RED, ("--new-red-only",)), (RED, ("--new-red-only",)), (RED, ()), (GOOD, ())]
    ):
        project.plan(run_id=f"rc-0000000{number}")
        project.test(source)
        result = project.run(history, *extra)
        codes.append(result.ret)
        said.append(next((line for line in result.outlines if "olm/catalog: red " in line), ""))
    assert codes == [0, 1, 0, 1, 0]
    assert said[0] == said[4] == ""
    assert "(1 run(s)), last green" in said[1]
    assert "(2 run(s)), last green" in said[2]
    with History(file) as past:
        assert [run.word for run in past.runs()] == ["CONFORMS", *["DOES NOT CONFORM"] * 3, "CONFORMS"]


def test_a_history_that_is_none_is_refused_before_anything_is_made(project, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no database " * 200)
    project.test(GOOD)
    result = project.run(f"--history={file}")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: *is no SQLite file*"])
    assert project.made_steps() == []


def test_new_red_only_needs_a_history(project) -> None:
    project.test(GOOD)
    result = project.run("--new-red-only")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --new-red-only without --history*"])
