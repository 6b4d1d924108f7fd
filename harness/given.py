"""What a user gave on a command line, before it is checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import UsageError

PYTEST, UP = "pytest", "up"
FOUND = "found"
"""The profile of an acceptance that names none: the versions and names that are found."""


def flag(name: str) -> str:
    """An option's name as it is written on a command line."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Given:
    """What the user gave, by field (None: not given), to ``program``: ``pytest`` or ``up``."""

    values: Mapping[str, Any]
    program: str = UP

    def get(self, name: str) -> Any:
        """The value of an option; None where it was not given."""
        return self.values.get(name)

    @property
    def accepts(self) -> bool:
        """Whether a stack that was there is read and judged."""
        if self.program != PYTEST:
            return bool(self.get("accept"))
        return self.get("cluster") == "existing" and not self.get("make_runners")


Check = Callable[[Given], UsageError | None]
"""A contradiction, with what would have come of it; None where there is none."""
