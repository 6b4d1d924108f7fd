"""For all tests of the suite itself: the bundles that RUNNER_CONFORMANCE_BUNDLE(_1_37) name, or built now."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

_DEFAULTS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGQUIT: signal.SIG_DFL,
}


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> Iterator[None]:
    """Tests send signals, also where they were inherited as ignored: from nohup, from a shell's `&`."""
    before = {number: signal.getsignal(number) for number in _DEFAULTS}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, _DEFAULTS[number])
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _bundle(kubernetes: str, variable: str) -> Path:
    if named := os.environ.get(variable):
        return Path(named)
    argv = [sys.executable, "-m", "lab", "build", "--kubernetes", kubernetes]
    built = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def bundle_dir() -> Path:
    """The bundle with Kubernetes 1.28."""
    return _bundle("1.28", "RUNNER_CONFORMANCE_BUNDLE")


@pytest.fixture(scope="session")
def new_bundle_dir() -> Path:
    """The bundle with Kubernetes 1.37."""
    return _bundle("1.37", "RUNNER_CONFORMANCE_BUNDLE_1_37")
