"""Variables within variables, replaced by the server before a job goes out, as GitLab does.

GitLab's page "Where variables can be used", "GitLab internal variable expansion mechanism".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

Variable = dict[str, Any]
_NAME = "[a-z_][a-z0-9_]*"
_REFERENCE = re.compile(
    rf"\$\$|%%|\$(?P<bare>{_NAME})|\$\{{(?P<braced>{_NAME})\}}|%(?P<percent>{_NAME})%",
    re.IGNORECASE | re.ASCII,
)
"""``$$`` and ``%%`` stay as they are, for the shell."""
_MAX_CHARS = 1024 * 1024


class ExpansionError(ValueError):
    """Variables that refer to each other in a circle, or grow without measure."""


def expanded(variables: Sequence[Variable]) -> list[Variable]:
    """``variables`` with those in their values replaced; of duplicates the last one counts.

    Unknown ones, files and raw ones are left for the runner. Raises ExpansionError.
    """
    last = {v["key"]: v for v in variables}
    needed: dict[str, set[str]] = {key: set() for key in last}
    for v in variables:
        needed[v["key"]] |= _references(v) & last.keys() - {v["key"]}
    try:
        order = list(TopologicalSorter(needed).static_order())
    except CycleError as error:
        circle = json.dumps(error.args[1][1:])
        raise ExpansionError(f"circular variable reference detected: {circle}") from None
    at = {key: index for index, key in enumerate(order)}
    known: dict[str, str] = {}
    done: dict[int, str] = {}
    budget = _MAX_CHARS
    for index, v in sorted(enumerate(variables), key=lambda found: at[found[1]["key"]]):
        budget -= _size(v, known)
        if budget < 0:
            raise ExpansionError("the variables are longer than 1 MiB together when they are expanded")
        done[index] = v["value"] if v["raw"] else substituted(v["value"], known)
        if v is last[v["key"]] and not (v["raw"] or v["file"]):
            known[v["key"]] = done[index]
    return [{**v, "value": done[index]} for index, v in enumerate(variables)]


def substituted(text: str, known: Mapping[str, str]) -> str:
    """``text`` with the variables that are known replaced, and all else as it was."""
    return _REFERENCE.sub(lambda match: known.get(_name(match), match[0]), text)


def _name(match: re.Match[str]) -> str:
    return match["bare"] or match["braced"] or match["percent"] or ""


def _references(v: Variable) -> set[str]:
    return set() if v["raw"] else {_name(match) for match in _REFERENCE.finditer(v["value"])}


def _size(v: Variable, known: Mapping[str, str]) -> int:
    names = (_name(match) for match in _REFERENCE.finditer(v["value"]))
    return len(v["value"]) + (0 if v["raw"] else sum(len(known.get(name, "")) for name in names))
