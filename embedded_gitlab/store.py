"""State in one SQLite file: survives a kill, is used by one process only."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
  id INTEGER PRIMARY KEY AUTOINCREMENT, username TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
  email TEXT NOT NULL UNIQUE, admin INTEGER NOT NULL DEFAULT 0, created_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS access_tokens (
  id INTEGER PRIMARY KEY AUTOINCREMENT, user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
  name TEXT NOT NULL, digest TEXT NOT NULL UNIQUE, scopes TEXT NOT NULL, created_at REAL NOT NULL,
  expires_at TEXT, revoked INTEGER NOT NULL DEFAULT 0, last_used_at REAL);
CREATE TABLE IF NOT EXISTS projects (
  id INTEGER PRIMARY KEY AUTOINCREMENT, owner_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
  name TEXT NOT NULL, path TEXT NOT NULL, full_path TEXT NOT NULL UNIQUE COLLATE NOCASE,
  description TEXT, visibility TEXT NOT NULL, default_branch TEXT NOT NULL, runners_token TEXT NOT NULL,
  build_timeout INTEGER NOT NULL DEFAULT 3600, shared_runners_enabled INTEGER NOT NULL DEFAULT 1,
  next_iid INTEGER NOT NULL DEFAULT 1, created_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS project_variables (
  project_id INTEGER NOT NULL REFERENCES projects ON DELETE CASCADE, key TEXT NOT NULL, value TEXT NOT NULL,
  variable_type TEXT NOT NULL, masked INTEGER NOT NULL, protected INTEGER NOT NULL, raw INTEGER NOT NULL,
  environment_scope TEXT NOT NULL DEFAULT '*', description TEXT, PRIMARY KEY (project_id, key));
CREATE TABLE IF NOT EXISTS runners (
  id INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL UNIQUE, short_sha TEXT NOT NULL,
  runner_type TEXT NOT NULL, registration TEXT NOT NULL, creator_id INTEGER, description TEXT,
  maintenance_note TEXT, paused INTEGER NOT NULL DEFAULT 0, locked INTEGER NOT NULL DEFAULT 0,
  run_untagged INTEGER NOT NULL DEFAULT 1, tag_list TEXT NOT NULL DEFAULT '[]',
  access_level TEXT NOT NULL DEFAULT 'not_protected', maximum_timeout INTEGER, created_at REAL NOT NULL,
  contacted_at REAL);
CREATE TABLE IF NOT EXISTS runner_projects (
  runner_id INTEGER NOT NULL REFERENCES runners ON DELETE CASCADE,
  project_id INTEGER NOT NULL REFERENCES projects ON DELETE CASCADE, PRIMARY KEY (runner_id, project_id));
CREATE TABLE IF NOT EXISTS runner_managers (
  id INTEGER PRIMARY KEY AUTOINCREMENT, runner_id INTEGER NOT NULL REFERENCES runners ON DELETE CASCADE,
  system_id TEXT NOT NULL, version TEXT, revision TEXT, platform TEXT, architecture TEXT, executor TEXT,
  features TEXT NOT NULL DEFAULT '{}', ip_address TEXT, created_at REAL NOT NULL, contacted_at REAL,
  UNIQUE (runner_id, system_id));
CREATE TABLE IF NOT EXISTS pipelines (
  id INTEGER PRIMARY KEY AUTOINCREMENT, project_id INTEGER NOT NULL REFERENCES projects ON DELETE CASCADE,
  iid INTEGER NOT NULL, ref TEXT NOT NULL, tag INTEGER NOT NULL, sha TEXT NOT NULL, before_sha TEXT NOT NULL,
  source TEXT NOT NULL, status TEXT NOT NULL, yaml_errors TEXT, user_id INTEGER, stages TEXT NOT NULL,
  variables TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL, started_at REAL,
  finished_at REAL);
CREATE TABLE IF NOT EXISTS jobs (
  id INTEGER PRIMARY KEY AUTOINCREMENT, pipeline_id INTEGER NOT NULL REFERENCES pipelines ON DELETE CASCADE,
  project_id INTEGER NOT NULL REFERENCES projects ON DELETE CASCADE, name TEXT NOT NULL, stage TEXT NOT NULL,
  stage_index INTEGER NOT NULL, status TEXT NOT NULL, definition TEXT NOT NULL, tag_list TEXT NOT NULL,
  allow_failure INTEGER NOT NULL, timeout INTEGER NOT NULL, token TEXT NOT NULL UNIQUE, user_id INTEGER,
  runner_id INTEGER REFERENCES runners ON DELETE SET NULL,
  manager_id INTEGER REFERENCES runner_managers ON DELETE SET NULL,
  retried INTEGER NOT NULL DEFAULT 0, failure_reason TEXT, created_at REAL NOT NULL,
  queued_at REAL, started_at REAL, finished_at REAL, touched_at REAL, erased_at REAL);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, id);
CREATE INDEX IF NOT EXISTS jobs_by_pipeline ON jobs (pipeline_id, stage_index, id);
CREATE TABLE IF NOT EXISTS registry_repositories (
  id INTEGER PRIMARY KEY AUTOINCREMENT, project_id INTEGER NOT NULL REFERENCES projects ON DELETE CASCADE,
  path TEXT NOT NULL UNIQUE, created_at REAL NOT NULL);
"""


class Store:
    """A thin layer over sqlite3: rows as dicts, explicit transactions, no threads."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._db.row_factory = lambda cursor, row: dict(
            zip((c[0] for c in cursor.description), row, strict=True)
        )
        # WAL with NORMAL survives the death of the process, which is what is promised; not a power cut.
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)

    def all(self, sql: str, *args: object) -> list[Row]:
        """Every row."""
        return list(self._db.execute(sql, args))

    def one(self, sql: str, *args: object) -> Row | None:
        """The first row, or None."""
        row: Row | None = self._db.execute(sql, args).fetchone()
        return row

    def get(self, table: str, row_id: object) -> Row:
        """A row that must exist, by id."""
        row = self.one(f"SELECT * FROM {table} WHERE id = ?", row_id)
        if row is None:
            raise LookupError(f"no {table} row {row_id}")
        return row

    def insert(self, table: str, **values: object) -> int:
        """Insert and return the new id."""
        marks = ", ".join("?" * len(values))
        cursor = self._db.execute(
            f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values())
        )
        return cursor.lastrowid or 0

    def update(self, table: str, row_id: object, **values: object) -> None:
        """Change columns of one row."""
        columns = ", ".join(f"{name} = ?" for name in values)
        self._db.execute(f"UPDATE {table} SET {columns} WHERE id = ?", (*values.values(), row_id))

    def execute(self, sql: str, *args: object) -> int:
        """Run a statement; the number of rows it changed."""
        return self._db.execute(sql, args).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Never await inside: the connection is shared by every request. May be nested."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in."""
        self._db.close()


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


def iso(stamp: float | None) -> str | None:
    """GitLab's form of a time: ``2026-11-23T07:00:00.000Z``."""
    if stamp is None:
        return None
    return datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
