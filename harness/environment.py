"""What a process of ours needs of this process's environment, and no more: tokens of a CI job stay here."""

from __future__ import annotations

import os
from collections.abc import Mapping

_NAMES = frozenset(
    {
        "PATH",
        "HOME",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
        "PYTHONDONTWRITEBYTECODE",
        "RUNNER_CONFORMANCE_HOME",
        "RUNNER_CONFORMANCE_PATIENCE",
    }
)
_PREFIXES = ("LC_", "COVERAGE_", "COV_CORE_")


def for_child(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child process: what programs need to run, and ``extra``."""
    kept = {name: value for name, value in os.environ.items() if name in _NAMES or name.startswith(_PREFIXES)}
    return {**kept, **(extra or {})}
