"""Every keyword of GitLab's published schema is handled or refused by name, and none is both or neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedded_gitlab.ci_config import ConfigError, parse
from embedded_gitlab.ci_keywords import HANDLED, REFUSED

pytestmark = pytest.mark.embedded_only
NAMES = (Path(__file__).parent / "pipelines" / "keywords.txt").read_text().split()
"""All property names of app/assets/javascripts/editor/schema/ci.json, with a dot between the levels."""
EXAMPLES = {
    "": "{key}: {{}}\na: {{script: [x]}}\n",
    "default": "default: {{ {key}: {{}} }}\na: {{script: [x]}}\n",
    "job": "a: {{ script: [x], {key}: {{}} }}\n",
    "image": "a: {{ script: [x], image: {{ name: x, {key}: {{}} }} }}\n",
    "services": "a: {{ script: [x], services: [{{ name: x, {key}: {{}} }}] }}\n",
    "variables": "a: {{ script: [x], variables: {{ V: {{ value: x, {key}: false }} }} }}\n",
    "rules": "a: {{ script: [x], rules: [{{ if: $CI, {key}: [x] }}] }}\n",
    "only": "a: {{ script: [x], only: {{ refs: [main], {key}: [x] }} }}\n",
}


def place_and_key(name: str) -> tuple[str, str]:
    """Where a name of the schema is decided: at the first refused keyword on the way, or the last one."""
    place, key = ("job", "") if name.startswith("job.") else ("", "")
    for part in name.removeprefix("job.").split("."):
        if part == "*":
            continue
        if key:
            place = key
        key = part
        if key in REFUSED[place].split():
            break
    return place, key


def test_the_whole_schema_is_there() -> None:
    assert len(NAMES) > 400
    jobs = {name.split(".")[1] for name in NAMES if name.startswith("job.")}
    assert jobs == set(HANDLED["job"].split()) | set(REFUSED["job"].split())


@pytest.mark.parametrize("name", NAMES)
def test_name_is_sorted_out(name: str) -> None:
    place, key = place_and_key(name)
    assert (key in HANDLED[place].split()) is not (key in REFUSED[place].split()), (
        f"{key} in {place or 'top'}"
    )


@pytest.mark.parametrize(
    ("place", "key"), [(place, key) for place in EXAMPLES for key in REFUSED[place].split() if key[0] != "!"]
)
def test_refusal_names_the_keyword(place: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key.replace('$', '.')} is a keyword that this GitLab does not"):
        parse(EXAMPLES[place].format(key=key).encode())


@pytest.mark.parametrize("place", [place for place in EXAMPLES if place])
def test_unknown_key_is_refused_as_unknown(place: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown keys: colour|invalid data keys: colour"):
        parse(EXAMPLES[place].format(key="colour").encode())
