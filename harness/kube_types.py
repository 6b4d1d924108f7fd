"""What the API layer deals in: kinds, what a command printed, queries and answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A served kind and where it lives."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool

    def path(self, namespace: str | None = None, name: str | None = None, sub: str | None = None) -> str:
        """The path of a collection, an object, or something below an object."""
        prefix = "/api" if "/" not in self.api_version else "/apis"
        parts = [prefix, self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        return "/".join(parts + [part for part in (name, sub) if part])


@dataclass(frozen=True)
class ExecResult:
    """What a command in a container printed, and its exit code (-1: it was still running at the timeout)."""

    stdout: str
    stderr: str
    code: int


def parse(response: Any) -> Any:
    """What the API server answered: JSON as data, anything else as text."""
    data = response.data
    if "json" in (response.headers.get("Content-Type") or ""):
        return json.loads(data)
    return data.decode(errors="replace")


def selectors(label_selector: str | None, field_selector: str | None) -> dict[str, object]:
    """The query of a list or a watch."""
    given = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {key: value for key, value in given.items() if value}


def text(value: object) -> str:
    """A query's value."""
    return str(value).lower() if isinstance(value, bool) else str(value)
