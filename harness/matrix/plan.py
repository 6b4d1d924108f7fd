"""Which combinations are run: axes, with some left out and others added, from options or a TOML file.

>>> [cell.title for cell in Matrix({"k3s": ("v1.28.5+k3s1",), "operator": ("1.15.0", "1.15.1")}).cells()]
['k3s v1.28.5+k3s1, operator 1.15.0', 'k3s v1.28.5+k3s1, operator 1.15.1']
"""

from __future__ import annotations

import hashlib
import itertools
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.artifacts import ONLINE
from harness.artifacts.bundle import Bundle
from harness.artifacts.directory import BundleArtifacts
from harness.errors import HarnessError, UsageError
from harness.profile import OVERRIDES, load_profile

_OPTIONS = {
    **{name: f"--{name}-version" for name in OVERRIDES if name != "channel"},
    "channel": "--channel",
    "profile": "--profile",
    "artifacts": "--artifacts",
    "cluster": "--cluster",
    "kubeconfig": "--kubeconfig",
    "context": "--context",
}
"""Axis → the option of pytest that it sets."""

AXES = tuple(_OPTIONS)
_TABLES = ("axes", "common", "include", "exclude")
_MAX_CELLS = 200
_SHOWN_CHARS = 60


@dataclass(frozen=True)
class Cell:
    """One combination: axis → value. ``common`` holds what all cells share and the title leaves out."""

    values: Mapping[str, str]
    common: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What people call it, and the name of its series in the history."""
        return ", ".join(f"{axis} {_short(axis, value)}" for axis, value in self.values.items())

    @property
    def slug(self) -> str:
        """Its directory: readable, and different for different combinations."""
        readable = re.sub(r"[^a-z0-9.]+", "-", self.title.lower()).strip("-")[:_SHOWN_CHARS]
        whole = "\n".join(f"{axis}={value}" for axis, value in sorted(self.settings.items()))
        return f"{readable}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}"

    @property
    def settings(self) -> dict[str, str]:
        """All of its options, those of its own included."""
        return {**self.common, **self.values}

    def arguments(self) -> list[str]:
        """Words for pytest."""
        return [f"{_OPTIONS[axis]}={value}" for axis, value in self.settings.items()]


@dataclass(frozen=True)
class Matrix:
    """Axes and their values; combinations that hold all of an ``exclude`` are left out."""

    axes: Mapping[str, tuple[str, ...]]
    common: Mapping[str, str] = field(default_factory=dict)
    include: tuple[Mapping[str, str], ...] = ()
    exclude: tuple[Mapping[str, str], ...] = ()

    def cells(self) -> list[Cell]:
        """All combinations, each once. Raises UsageError where there are none, or more than 200."""
        product = itertools.product(*self.axes.values()) if self.axes else ()
        combinations = [dict(zip(self.axes, values, strict=True)) for values in product]
        kept = [c for c in combinations if not any(rule.items() <= c.items() for rule in self.exclude)]
        cells = {
            cell.slug: cell for cell in (Cell(c, self.common) for c in (*kept, *map(dict, self.include)))
        }
        if not cells:
            raise UsageError(
                "the matrix has no cell",
                "name versions with --k3s, --operator, …, or give a file with [axes]",
            )
        if len(cells) > _MAX_CELLS:
            raise UsageError(f"the matrix has {len(cells)} cells; {_MAX_CELLS} at most")
        return list(cells.values())


def read_matrix(path: Path) -> Matrix:
    """A matrix from TOML: ``[axes]``, ``[common]``, ``[[include]]``, ``[[exclude]]``. Raises UsageError."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from None
    unknown = [name for name in data if name not in _TABLES]
    if unknown:
        raise UsageError(f"{path}: {unknown[0]!r} is unknown", f"a matrix has {', '.join(_TABLES)}")
    axes = {
        axis: tuple(_text(path, axis, value) for value in _list(path, axis, values))
        for axis, values in _table(path, "axes", data.get("axes", {})).items()
    }
    return Matrix(
        axes,
        _words(path, "common", data.get("common", {})),
        tuple(_words(path, "include", item) for item in _list(path, "include", data.get("include", []))),
        tuple(_words(path, "exclude", item) for item in _list(path, "exclude", data.get("exclude", []))),
    )


def impossible(cells: Iterable[Cell]) -> list[str]:
    """A sentence for each cell that cannot be: versions that exclude each other, a bundle that isn't one."""
    found = []
    for cell in cells:
        settings = cell.settings
        try:
            profile = load_profile(
                settings.get("profile", "seed"), {name: settings.get(name) for name in OVERRIDES}
            )
            source = settings.get("artifacts", "auto")
            if source not in (*ONLINE, "auto"):
                BundleArtifacts(Bundle.read(Path(source)), profile)
        except HarnessError as error:
            found.append(f"{cell.title}: {error.message}")
    return found


def _short(axis: str, value: str) -> str:
    """A path as a person names it: its last part."""
    return Path(value).name if axis in ("artifacts", "kubeconfig", "profile") and "/" in value else value


def _table(path: Path, name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {name} is no table")
    for axis in value:
        if axis not in _OPTIONS:
            raise UsageError(f"{path}: {name} names {axis!r}", f"there are {', '.join(AXES)}")
    return value


def _list(path: Path, name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise UsageError(f"{path}: {name} is no list")
    return value


def _words(path: Path, name: str, value: Any) -> dict[str, str]:
    return {axis: _text(path, axis, item) for axis, item in _table(path, name, value).items()}


def _text(path: Path, axis: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{path}: a value of {axis} is no text: {value!r}")
    return value
