"""A fact that differs between versions: rows, each with the version from which it holds and its source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from harness.errors import UsageError

Value = TypeVar("Value", covariant=True)
_DIGITS = 6
"""No release has a number of more digits; int() of thousands of them is an attack, or a slip."""


def version_tuple(version: str) -> tuple[int, int, int]:
    """``v1.28.5+k3s1`` → (1, 28, 5); what follows the three numbers doesn't count. Raises UsageError."""
    match = re.match(rf"v?(\d{{1,{_DIGITS}}})\.(\d{{1,{_DIGITS}}})\.(\d{{1,{_DIGITS}}})(?!\d)", version)
    if match is None:
        raise UsageError(f"{version[:60]!r} is no version", "a version has three numbers, such as 1.28.5")
    return int(match[1]), int(match[2]), int(match[3])


@dataclass(frozen=True)
class Row(Generic[Value]):
    """What holds from version ``since`` on, until the next row; an empty ``since`` is the beginning."""

    since: str
    value: Value
    source: str

    @property
    def first(self) -> tuple[int, int, int]:
        return version_tuple(self.since) if self.since else (0, 0, 0)


@dataclass(frozen=True)
class Difference(Generic[Value]):
    """What differs between versions of a component; rows from the oldest to the newest.

    >>> Difference("k3s", "roles", (Row("", "both", "…"), Row("1.34.0", "one", "…"))).at("v1.36.4+k3s1")
    'one'
    """

    component: str
    what: str
    rows: tuple[Row[Value], ...]

    def row(self, version: str) -> Row[Value]:
        """The row that holds for a version; the newest for one newer than all, the oldest for one older.

        Raises UsageError for what is no version.
        """
        wanted = version_tuple(version)
        return next((row for row in reversed(self.rows) if row.first <= wanted), self.rows[0])

    def at(self, version: str) -> Value:
        """What holds for a version."""
        return self.row(version).value

    def ever(self) -> tuple[Value, ...]:
        """What held for any version, where one that is not known is looked at."""
        return tuple(row.value for row in self.rows)


@dataclass(frozen=True)
class Releases:
    """Releases of a component as they were known when this was written.

    ``lines``: minor line → its highest patch; every lower one exists too. ``maintained``: how many of the
    newest lines may get further patches.
    """

    component: str
    lines: Mapping[tuple[int, int], int]
    as_of: str
    source: str
    maintained: int

    @property
    def newest(self) -> str:
        """The newest known, three numbers."""
        major, minor = max(self.lines)
        return f"{major}.{minor}.{self.lines[major, minor]}"

    def is_newer(self, version: str) -> bool:
        """Whether a version is of a line newer than all that are known."""
        return version_tuple(version)[:2] > max(self.lines)

    def why_not(self, version: str) -> str:
        """Empty when a version may exist, else what there is instead. Raises UsageError."""
        major, minor, patch = version_tuple(version)
        line = (major, minor)
        if line > max(self.lines):
            return ""
        if line not in self.lines:
            oldest = min(self.lines)
            if line < oldest:
                return f"the oldest that is known here is {oldest[0]}.{oldest[1]}"
            return f"there is no release {major}.{minor}"
        further = sorted(self.lines)[-self.maintained :]
        if patch > self.lines[line] and line not in further:
            return f"the last release of {major}.{minor} is {major}.{minor}.{self.lines[line]}"
        return ""
