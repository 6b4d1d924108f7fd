"""What a project's CI file asks of a runner, as far as the file itself says it."""

from __future__ import annotations

from typing import Any

import yaml

_NO_JOBS = ("default", "include", "stages", "variables", "workflow", "image", "services", "cache", "spec")


class _Loader(yaml.SafeLoader):
    """GitLab's own tags (``!reference``) are read as nothing."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


def tags_of_jobs(text: str) -> dict[str, list[str]]:
    """Job → its tags, of the jobs that a CI file names tags for; nothing for a file that is none."""
    try:
        document = yaml.load(text, _Loader)
    except yaml.YAMLError:
        return {}
    if not isinstance(document, dict):
        return {}
    default = _tags(document.get("default"))
    found = {}
    for name, job in document.items():
        if name in _NO_JOBS or str(name).startswith(".") or not isinstance(job, dict):
            continue
        tags = _tags(job) or default
        if tags:
            found[str(name)] = tags
    return found


def _tags(section: Any) -> list[str]:
    tags = section.get("tags") if isinstance(section, dict) else None
    return [str(it) for it in tags if isinstance(it, str | int)] if isinstance(tags, list) else []
