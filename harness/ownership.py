"""Whose is it: the run id that everything carries, its labels, and where a run keeps its files."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

LABEL = "runner-conformance.dev/run-id"
FIELD_MANAGER = "runner-conformance"
HOME_VARIABLE = "RUNNER_CONFORMANCE_HOME"

_RUN_ID = re.compile(r"rc-[0-9a-f]{8}\Z")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\Z")


def new_run_id() -> str:
    """A fresh id, ``rc-`` and 8 hexadecimal digits: short enough for a link's name beside a suffix."""
    return f"rc-{secrets.token_hex(4)}"


def is_run_id(text: str) -> bool:
    return _RUN_ID.match(text) is not None


def is_stack_name(text: str) -> bool:
    """A stack's name becomes a directory and a label: lower case, digits and dashes, up to 32."""
    return _NAME.match(text) is not None


def labels(run_id: str) -> dict[str, str]:
    """Labels for every object that a run creates."""
    return {LABEL: run_id}


def owned_by(manifest: dict[str, object], run_id: str) -> bool:
    """Whether an object carries this run's id."""
    metadata = manifest.get("metadata")
    found = metadata.get("labels") if isinstance(metadata, dict) else None
    return isinstance(found, dict) and found.get(LABEL) == run_id


def state_home() -> Path:
    """Where runs keep their state: $RUNNER_CONFORMANCE_HOME, or /var/lib/runner-conformance."""
    return Path(os.environ.get(HOME_VARIABLE) or "/var/lib/runner-conformance")


def stack_dir(name: str) -> Path:
    """The directory of the stack ``name``."""
    return state_home() / "stacks" / name


def cache_dir() -> Path:
    """Downloads and bundles that outlive a run."""
    return state_home() / "cache"
