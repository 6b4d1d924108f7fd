"""What a process of ours needs of this process's environment, and no more: tokens of a CI job stay here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")

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
_TRIES = 20


def snapshot() -> dict[str, str]:
    """This process's environment, of which another thread may take a name out meanwhile.

    pytest takes out PYTEST_CURRENT_TEST after every test; ``os.environ.items()`` in a thread of ours would
    then end in a KeyError.
    """
    return {name: value for name in list(os.environ) if (value := os.environ.get(name)) is not None}


def steady(read: Callable[[], T]) -> T:
    """What somebody else's code reads of the environment, which ends in a KeyError as ``snapshot`` tells."""
    for _ in range(_TRIES):
        try:
            return read()
        except KeyError:
            continue
    return read()


def for_child(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child process: what programs need to run, and ``extra``."""
    kept = {name: value for name, value in snapshot().items() if name in _NAMES or name.startswith(_PREFIXES)}
    return {**kept, **(extra or {})}
