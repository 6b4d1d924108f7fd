"""For all tests of the suite itself."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

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
