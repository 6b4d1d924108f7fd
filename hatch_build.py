"""Refuses a wheel, which could not work; `pip install -e .` (editable) does."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MESSAGE = (
    "runner-conformance runs from its checkout: pytest collects tests/ there, and profiles/ and fixtures/ "
    "stand beside it, under names that would collide with other packages in site-packages. "
    "Use `pip install -e .` in the checkout instead."
)


class EditableOnly(BuildHookInterface):  # type: ignore[type-arg]
    """The build hook of pyproject.toml."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Raise SystemExit, whose message pip and uv print, unless the install is editable."""
        if version != "editable":
            raise SystemExit(MESSAGE)
