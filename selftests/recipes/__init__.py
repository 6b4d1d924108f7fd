"""The recipes of docs/nightly-ci.md, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs/nightly-ci.md"
_RECIPE = re.compile(r"<!-- recipe: (\S+) -->\n```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Recipe:
    """The commands of a recipe as a shell script, and the variables that its service sets."""

    name: str
    script: str
    variables: dict[str, str]


def read() -> dict[str, Recipe]:
    """All recipes of the page by name."""
    found = {}
    for name, kind, text in _RECIPE.findall(PAGE.read_text()):
        content = text if kind == "sh" else yaml.safe_load(text)
        found[name] = _READERS[name.partition("-")[0]](name, content)
    return found


def _server(name: str, text: str) -> Recipe:
    return Recipe(name, text, {"REPOSITORY": "/srv/checkout"})


def _gitlab(name: str, content: dict[str, Any]) -> Recipe:
    (job,) = content.values()
    (matrix,) = job.get("parallel", {}).get("matrix", [{}])
    variables = {key: values[0] for key, values in matrix.items()} | job.get("variables", {})
    return Recipe(name, "\n".join([*job["before_script"], *job["script"]]), variables)


def _github(name: str, content: dict[str, Any]) -> Recipe:
    (job,) = content["jobs"].values()
    script = "\n".join(step["run"] for step in job["steps"] if "run" in step)
    for key, values in job["strategy"]["matrix"].items():
        script = script.replace(f"${{{{ matrix.{key} }}}}", values[0])
    return Recipe(name, script, {})


_READERS = {"server": _server, "gitlab": _gitlab, "github": _github}
