"""``runner-conformance matrix`` and ``runner-conformance history``."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from harness.errors import (
    EXIT_ENVIRONMENT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_PRODUCT,
    EnvironmentProblem,
    UsageError,
)
from harness.files import write_whole
from harness.history.questions import by_series, expected_s, finished, new_reds, red_since
from harness.history.store import History, PastRun, read_document
from harness.matrix.page import render_markdown, render_matrix
from harness.matrix.plan import AXES, Cell, Matrix, impossible, read_matrix
from harness.matrix.runs import BROKEN, DONE, RUNNING, CellRun, Round, automatic_jobs

DEFAULT_OUT = Path("matrix")
HISTORY_NAME = "history.sqlite"
history_app = typer.Typer(help="What earlier runs found.", no_args_is_help=True)
Versions = Annotated[list[str] | None, typer.Option(help="A version; give it several times.")]


class FailOn(StrEnum):
    """When the exit code is 1."""

    RED = "red"
    NEW_RED = "new-red"
    NEVER = "never"


def register(app: typer.Typer) -> None:
    """Add both commands to the command line."""
    app.command(epilog="Example: runner-conformance matrix --k3s v1.28.5+k3s1 --k3s v1.29.0+k3s1")(matrix)
    app.add_typer(history_app, name="history")


def matrix(
    file: Annotated[Path | None, typer.Argument(help="TOML with [axes], [common], include, exclude.")] = None,
    k3s: Versions = None,
    cert_manager: Versions = None,
    olm: Versions = None,
    operator: Versions = None,
    runner: Versions = None,
    profile: Annotated[list[str] | None, typer.Option(help="A profile; several times.")] = None,
    artifacts: Annotated[list[str] | None, typer.Option(help="A source; several times.")] = None,
    out: Annotated[Path, typer.Option(help="Directory of the page and of each run's reports.")] = DEFAULT_OUT,
    history: Annotated[Path | None, typer.Option(help="The history; by default beside the page.")] = None,
    jobs: Annotated[str, typer.Option(help="Runs at once: a number, or auto.")] = "auto",
    only_red: Annotated[bool, typer.Option(help="Only what was not green last time.")] = False,
    since: Annotated[str, typer.Option(help="Show runs from this date on (2026-01-31).")] = "",
    fail_on: Annotated[FailOn, typer.Option(help="When the exit code is not 0.")] = FailOn.RED,
    k: Annotated[str, typer.Option("-k", help="Select outcomes, as pytest's -k.")] = "",
) -> None:
    """Run every combination of versions, side by side, and compare them on one page."""
    console = Console(highlight=False)
    given = {
        name: tuple(values)
        for name, values in zip(
            AXES, _in_order(k3s, cert_manager, olm, operator, runner, profile, artifacts), strict=False
        )
        if values
    }
    if file is not None and given:
        raise UsageError(
            "a matrix file and versions as options would contradict each other", "give one of the two"
        )
    plan = read_matrix(file) if file is not None else Matrix(given)
    cells = plan.cells()
    wrong = impossible(cells)
    if wrong:
        raise UsageError(f"{len(wrong)} of {len(cells)} combinations cannot be", evidence="\n".join(wrong))
    where = history or out / HISTORY_NAME
    with History(where) as past:
        runs = past.runs()
    if only_red:
        cells = _red(cells, runs)
        if not cells:
            console.print("Nothing was red the last time.")
            raise typer.Exit(EXIT_OK)
    current = Round(out, cells, where, ["-k", k] if k else [], _jobs(jobs, len(cells)))
    kept = current.prepare()
    console.print(f"{len(cells)} combinations, {current.jobs} at once, reports in {out}", markup=False)
    if kept:
        console.print(f"{kept} of them are done since the interrupted round; going on with the rest")
    _watch(console, current, _expected(runs))
    raise typer.Exit(_conclude(console, current, since, fail_on))


def _in_order(
    k3s: list[str] | None,
    cert_manager: list[str] | None,
    olm: list[str] | None,
    operator: list[str] | None,
    runner: list[str] | None,
    profile: list[str] | None,
    artifacts: list[str] | None,
) -> Sequence[list[str] | None]:
    named = {
        "k3s": k3s,
        "cert-manager": cert_manager,
        "olm": olm,
        "operator": operator,
        "runner": runner,
        "profile": profile,
        "artifacts": artifacts,
    }
    return [named.get(axis) for axis in AXES]


def _jobs(wish: str, cells: int) -> int:
    if wish == "auto":
        return automatic_jobs(cells)
    if not wish.isdigit() or int(wish) < 1:
        raise UsageError(f"--jobs {wish} is no number of runs", "give 1, 2, … or auto")
    return int(wish)


def _red(cells: Sequence[Cell], runs: Sequence[PastRun]) -> list[Cell]:
    last = {title: members[-1] for title, members in by_series(runs).items()}
    return [cell for cell in cells if cell.title not in last or last[cell.title].word != "CONFORMS"]


def _expected(runs: Sequence[PastRun]) -> Mapping[str, float]:
    found = {title: expected_s(members) for title, members in by_series(runs).items()}
    return {title: value for title, value in found.items() if value is not None}


def _watch(console: Console, current: Round, expected: Mapping[str, float]) -> None:
    if console.is_terminal:
        with Live(_table(current, expected), console=console, refresh_per_second=2) as live:
            current.on_change = lambda it: live.update(_table(it, expected))
            current.run()
        return
    told: dict[str, str] = {}

    def tell(it: Round) -> None:
        for run in it.runs:
            if told.get(run.cell.slug) != run.state:
                told[run.cell.slug] = run.state
                console.print(
                    f"{run.cell.title}: {run.state} {run.verdict or run.why}".rstrip(), markup=False
                )

    current.on_change = tell
    current.run()


def _table(current: Round, expected: Mapping[str, float]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("combination", "state", "step", "elapsed", "expected"):
        table.add_column(title)
    for run in current.runs:
        usual = expected.get(run.cell.title)
        table.add_row(
            run.cell.title,
            run.verdict or run.why or run.state,
            run.step() if run.state == RUNNING else "",
            f"{run.elapsed_s:.0f} s" if run.elapsed_s else "",
            f"{usual:.0f} s" if usual else "",
        )
    return table


def _conclude(console: Console, current: Round, since: str, fail_on: FailOn) -> int:
    with History(current.history) as past:
        runs = past.runs(since=since)
    _write(current.directory / "matrix.html", render_matrix(runs, current.history, since))
    _write(current.directory / "matrix.md", render_markdown(runs))
    for run in current.runs:
        if run.state == BROKEN:
            console.print(f"{run.cell.title}: {run.why}", markup=False)
    series = by_series(runs)
    for run in current.runs:
        for item in red_since(series.get(run.cell.title, ())).values():
            console.print(f"{run.cell.title}: {item.outcome} {item}", markup=False)
    console.print(f"Page: {current.directory / 'matrix.html'}", markup=False)
    if current.interrupted:
        console.print("Interrupted; the same command goes on with what is not done.")
        return EXIT_INTERRUPTED
    return _exit_code(current.runs, series, fail_on)


def _exit_code(runs: Sequence[CellRun], series: Mapping[str, Sequence[PastRun]], fail_on: FailOn) -> int:
    if fail_on is FailOn.NEVER:
        return EXIT_OK
    codes = [int(run.document["verdict"]["exit_code"]) for run in runs if run.state == DONE and run.document]
    if fail_on is FailOn.NEW_RED:
        fresh = [run for run in runs if new_reds(series.get(run.cell.title, ()))]
        codes = [EXIT_PRODUCT] if fresh else [code for code in codes if code != EXIT_PRODUCT]
    if any(run.state == BROKEN for run in runs):
        codes.append(EXIT_ENVIRONMENT)
    return EXIT_PRODUCT if EXIT_PRODUCT in codes else max(codes, default=EXIT_OK)


@history_app.command(
    "import", epilog="Example: runner-conformance history import --history h.sqlite */conformance.json"
)
def import_files(
    files: Annotated[list[Path], typer.Argument(help="conformance.json files, of any machine.")],
    history: Annotated[Path, typer.Option(help="The history to add them to.")] = Path(HISTORY_NAME),
    series: Annotated[str, typer.Option(help="Name of their series; else their own.")] = "",
) -> None:
    """Add runs of other machines (CI artifacts). Runs that are there already are left as they are."""
    documents = [read_document(path) for path in files]  # all of them, before any is recorded
    with History(history) as past:
        added = [past.record(document, series=series) for document in documents]
    print(f"{sum(added)} run(s) added, {len(added) - sum(added)} known already")


@history_app.command("export", epilog="Example: runner-conformance history export --format csv > runs.csv")
def export(
    history: Annotated[Path, typer.Option(help="The history to read.")] = Path(HISTORY_NAME),
    form: Annotated[str, typer.Option("--format", help="csv (a line an outcome) or json.")] = "csv",
) -> None:
    """Print every outcome of every run."""
    if form not in ("csv", "json"):
        raise UsageError(f"--format {form} is unknown", "it is csv or json")
    runs = _existing(history)
    rows = [
        {
            "run": run.run_id,
            "series": run.series,
            "started": run.started,
            "verdict": run.verdict,
            "outcome": outcome,
            "status": result.status,
            "reason": result.reason,
            "blame": result.blame or "",
            "duration_s": result.duration_s,
        }
        for run in runs
        for outcome, result in run.outcomes.items()
    ]
    if form == "json":
        json.dump(rows, sys.stdout, indent=1)
        print()
        return
    names = ["run", "series", "started", "verdict", "outcome", "status", "reason", "blame", "duration_s"]
    writer = csv.DictWriter(sys.stdout, names)
    writer.writeheader()
    writer.writerows(rows)


@history_app.command(epilog="Example: runner-conformance history show")
def show(history: Annotated[Path, typer.Option(help="The history to read.")] = Path(HISTORY_NAME)) -> None:
    """Print each series' last verdict, and since when what is red is red."""
    for title, members in by_series(_existing(history)).items():
        last = (finished(members) or members)[-1]
        print(f"{title}: {last.verdict}, {last.started}, {len(members)} run(s)")
        for item in red_since(members).values():
            print(f"  {item.outcome}: {item}")


@history_app.command(epilog="Example: runner-conformance history page --out matrix.html")
def page(
    history: Annotated[Path, typer.Option(help="The history to read.")] = Path(HISTORY_NAME),
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("matrix.html"),
    since: Annotated[str, typer.Option(help="Runs from this date on.")] = "",
) -> None:
    """Write the page that compares all series."""
    _write(out, render_matrix(_existing(history, since), history, since))
    print(out)


def _existing(history: Path, since: str = "") -> list[PastRun]:
    if not history.exists():
        raise UsageError(f"there is no history {history}", "name it with --history")
    with History(history) as past:
        return past.runs(since=since)


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise EnvironmentProblem(f"{path} can't be written: {error.strerror}") from None
