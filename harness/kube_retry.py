"""Which requests to the API server are repeated, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tenacity

from harness.kube_errors import ApiError

RETRY_FOR_S = 15.0
"""How long a read or an apply is repeated while the API server restarts; waits have their own patience."""


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, ApiError) and error.transient


again = tenacity.Retrying(
    retry=tenacity.retry_if_exception(_is_transient),
    stop=tenacity.stop_after_delay(RETRY_FOR_S),
    wait=tenacity.wait_exponential_jitter(multiplier=0.1, max=2),
    reraise=True,
)


def once(attempt: Callable[[], Any]) -> Any:
    """For requests that must not be sent twice."""
    return attempt()
