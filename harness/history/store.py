"""The file that runs are recorded in: SQLite, in write-ahead mode so that several writers lose nothing.

A run is what its ``conformance.json`` says; recording it twice changes nothing. A *series* is compared with
itself from night to night: a cell of a matrix, or for a run on its own its profile and kind of cluster.
Versions are not part of a series' name, because "since which version?" is what it is asked.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import EnvironmentProblem, UsageError

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x72634869
"""Marks the file as ours (``PRAGMA application_id``)."""
_BUSY_S = 30.0
"""A writer holds the file for milliseconds; this long only where a disk is stuck."""
_MAX_DOCUMENT_BYTES = 64 * 2**20

_TABLES = """
CREATE TABLE run (
  run_id TEXT PRIMARY KEY, series TEXT NOT NULL, started TEXT NOT NULL, duration_s REAL NOT NULL,
  profile TEXT NOT NULL, cluster TEXT NOT NULL, artifacts TEXT NOT NULL, gitlab TEXT NOT NULL,
  host TEXT NOT NULL, suite TEXT NOT NULL, word TEXT NOT NULL, rehearsal INTEGER NOT NULL,
  reason TEXT NOT NULL, blame TEXT, exit_code INTEGER NOT NULL,
  interrupted INTEGER NOT NULL, report TEXT NOT NULL
) STRICT;
CREATE INDEX run_of_series ON run (series, started);
CREATE TABLE input (
  run_id TEXT NOT NULL REFERENCES run ON DELETE CASCADE, kind TEXT NOT NULL, name TEXT NOT NULL,
  value TEXT NOT NULL, PRIMARY KEY (run_id, kind, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE outcome (
  run_id TEXT NOT NULL REFERENCES run ON DELETE CASCADE, id TEXT NOT NULL, section TEXT NOT NULL,
  status TEXT NOT NULL, reason TEXT NOT NULL, reason_id TEXT NOT NULL, blame TEXT, duration_s REAL NOT NULL,
  PRIMARY KEY (run_id, id)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True)
class OutcomeResult:
    """What one run said of one outcome; ``duration_s`` in seconds."""

    status: str
    reason: str
    reason_id: str
    blame: str | None
    duration_s: float

    @property
    def red(self) -> bool:
        return self.status == "failed"

    @property
    def green(self) -> bool:
        return self.status == "passed"


@dataclass(frozen=True)
class PastRun:
    """A recorded run. ``inputs``: by (kind, name); kinds are *requested*, *reached* and *image* (digests)."""

    run_id: str
    series: str
    started: str
    duration_s: float
    profile: str
    cluster: str
    artifacts: str
    host: str
    suite: str
    word: str
    rehearsal: bool
    reason: str
    blame: str | None
    exit_code: int
    interrupted: bool
    report: str
    inputs: Mapping[tuple[str, str], str] = field(default_factory=dict)
    outcomes: Mapping[str, OutcomeResult] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The word, with "(rehearsal)" where it was one."""
        return f"{self.word} (rehearsal)" if self.rehearsal else self.word


class History:
    """An open history file. Use it as a context manager, in one thread.

    Raises UsageError for a file that is no history or of a newer schema, EnvironmentProblem for one that is
    torn, can't be written, or whose disk is full: a torn file is never mended silently.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            raise UsageError(f"{path} is a directory", "--history names a file")
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def _open(self) -> None:
        self._db.execute("PRAGMA foreign_keys = ON")
        if self._empty():
            self._db.execute("PRAGMA journal_mode = WAL")
            with self._writing():
                if self._empty():  # else another writer, who began at the same moment, made the tables
                    for statement in filter(str.strip, _TABLES.split(";")):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                    self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        if self._pragma("application_id") != _APPLICATION_ID:
            raise UsageError(
                f"{self.path} is an SQLite file, but no history of runs", "name another file with --history"
            )
        version = self._pragma("user_version")
        if version > SCHEMA_VERSION:
            raise UsageError(
                f"{self.path} was written by a newer runner-conformance (schema {version}; "
                f"this one knows {SCHEMA_VERSION})",
                "update this checkout, or name another file with --history",
            )

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    # -- writing ----------------------------------------------------------------------------------

    def record(self, document: Mapping[str, Any], *, series: str = "", report: str = "") -> bool:
        """Record a run from its ``conformance.json``; False when it is recorded already.

        ``report`` is the path or address of its page. Raises UsageError for a document that is none.
        """
        row, inputs, outcomes = _rows(document, series, report)
        with self._explained(), self._writing():
            columns = ", ".join(row)
            places = ", ".join(f":{name}" for name in row)
            added = self._db.execute(f"INSERT OR IGNORE INTO run ({columns}) VALUES ({places})", row).rowcount
            if added:
                self._db.executemany("INSERT INTO input VALUES (?, ?, ?, ?)", inputs)
                self._db.executemany("INSERT INTO outcome VALUES (?, ?, ?, ?, ?, ?, ?, ?)", outcomes)
        return bool(added)

    # -- reading ----------------------------------------------------------------------------------

    def series(self) -> list[str]:
        """Names of all series, the most recently run first."""
        with self._explained():
            rows = self._db.execute("SELECT series FROM run GROUP BY series ORDER BY max(started) DESC")
            return [name for (name,) in rows]

    def runs(self, series: str | None = None, since: str = "") -> list[PastRun]:
        """Recorded runs with inputs and outcomes, the oldest first; ``since``: a date or time, as started."""
        where, values = "WHERE started >= ?", [since]
        if series is not None:
            where, values = where + " AND series = ?", [since, series]
        chosen = f"SELECT run_id FROM run {where}"
        with self._explained():
            inputs: dict[str, dict[tuple[str, str], str]] = {}
            for run_id, kind, name, value in self._db.execute(
                f"SELECT run_id, kind, name, value FROM input WHERE run_id IN ({chosen})", values
            ):
                inputs.setdefault(run_id, {})[kind, name] = value
            outcomes: dict[str, dict[str, OutcomeResult]] = {}
            for run_id, outcome_id, *result in self._db.execute(
                "SELECT run_id, id, status, reason, reason_id, blame, duration_s FROM outcome "
                f"WHERE run_id IN ({chosen})",
                values,
            ):
                outcomes.setdefault(run_id, {})[outcome_id] = OutcomeResult(*result)
            rows = self._db.execute(
                "SELECT run_id, series, started, duration_s, profile, cluster, artifacts, host, suite, word, "
                "rehearsal, reason, blame, exit_code, interrupted, report "
                f"FROM run {where} ORDER BY started, run_id",
                values,
            )
            return [_past_run(row, inputs.get(row[0], {}), outcomes.get(row[0], {})) for row in rows]

    # -- inside -----------------------------------------------------------------------------------

    def _empty(self) -> bool:
        """Nothing was ever written; the file itself need not be empty: another writer may have just begun."""
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        return not tables and not self._pragma("application_id")

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that takes the write lock at once: a later upgrade could find it taken, and fail."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's and the file system's errors as a sentence."""
        try:
            yield
        except OSError as error:
            raise EnvironmentProblem(f"the history {self.path} can't be written: {error.strerror}") from None
        except sqlite3.DatabaseError as error:
            raise _explain(self.path, error) from None


def _explain(path: Path, error: sqlite3.DatabaseError) -> EnvironmentProblem | UsageError:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith("SQLITE_FULL"):
        return EnvironmentProblem(
            f"the disk of the history {path} is full", "free some room; nothing was lost"
        )
    if name.startswith("SQLITE_NOTADB"):
        return UsageError(f"{path} is no SQLite file", "name another file with --history")
    if name.startswith("SQLITE_CORRUPT"):
        return EnvironmentProblem(
            f"the history {path} is damaged ({error}); it was left as it is",
            "move it away and import the conformance.json files again: runner-conformance history import",
        )
    return EnvironmentProblem(
        f"the history {path} can't be used: {error}", "is it on a local, writable disk?"
    )


def read_document(path: Path) -> dict[str, Any]:
    """A ``conformance.json`` from a file. Raises UsageError with what is wrong with it."""
    try:
        if path.stat().st_size > _MAX_DOCUMENT_BYTES:
            raise UsageError(f"{path} is too large to be a conformance.json")
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no conformance.json: {error}") from None
    if not isinstance(loaded, dict):
        raise UsageError(f"{path} is no conformance.json: it holds no object")
    try:
        _rows(loaded, "", "")
    except UsageError as error:
        raise UsageError(f"{path} is {error.message}") from None
    return loaded


def series_of(document: Mapping[str, Any]) -> str:
    """The series of a run that was given none: its profile and its kind of cluster."""
    run = document["run"]
    return f"{run['profile']} on {str(run['cluster']).split(' ', 1)[0].rstrip(':')}"


def _rows(
    document: Mapping[str, Any], series: str, report: str
) -> tuple[dict[str, object], list[tuple[str, str, str, str]], list[tuple[object, ...]]]:
    try:
        run, verdict = document["run"], document["verdict"]
        row = {
            "run_id": str(run["id"]),
            "series": series or series_of(document),
            "started": str(run["started"]),
            "duration_s": float(run["duration_s"]),
            "host": str(run.get("host", "")),
            "suite": str(run.get("suite", "")),
            **{name: str(run[name]) for name in ("profile", "cluster", "artifacts", "gitlab")},
            "word": str(verdict["word"]),
            "rehearsal": int(verdict["rehearsal"]),
            "reason": str(verdict["reason"]),
            "blame": verdict["blame"],
            "exit_code": int(verdict["exit_code"]),
            "interrupted": int(run["interrupted"]),
            "report": report,
        }
        inputs = [
            (row["run_id"], kind, str(component["name"]), str(component[kind]))
            for component in document["components"]
            for kind in ("requested", "reached")
            if component[kind]
        ]
        inputs += [(row["run_id"], "image", str(k), str(v)) for k, v in document.get("images", {}).items()]
        outcomes = [
            (
                row["run_id"],
                str(o["id"]),
                str(o["section"]),
                str(o["status"]),
                str(o["reason"]),
                str(o.get("reason_id", "")),
                o["blame"],
                float(o["duration_s"]),
            )
            for o in document["outcomes"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"no conformance.json: {type(error).__name__.lower()} at {error}") from None
    return row, inputs, outcomes  # type: ignore[return-value]


def _past_run(
    row: Iterable[Any], inputs: Mapping[tuple[str, str], str], outcomes: Mapping[str, OutcomeResult]
) -> PastRun:
    values = dict(zip(list(PastRun.__dataclass_fields__)[:16], row, strict=True))
    values["rehearsal"], values["interrupted"] = bool(values["rehearsal"]), bool(values["interrupted"])
    return PastRun(**values, inputs=inputs, outcomes=outcomes)
