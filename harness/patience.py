"""How much longer than on a usual host everything may take: RUNNER_CONFORMANCE_PATIENCE, a factor.

For hosts on which nothing is wrong and everything is late: an emulated processor, a board, a CI of many jobs.
It stretches what waits allow, and how long a fault must last before it ends one. What the how-to's own files
limit (config.toml's poll_timeout) it leaves alone.
"""

from __future__ import annotations

import os
from functools import cache

from harness.errors import UsageError

VARIABLE = "RUNNER_CONFORMANCE_PATIENCE"
MOST = 100.0


@cache
def patience() -> float:
    """The factor, 1 where none is set. Raises UsageError."""
    text = os.environ.get(VARIABLE, "").strip() or "1"
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 1.0 <= factor <= MOST:
        raise UsageError(
            f"{VARIABLE}={text[:40]}: it is a factor for time limits, from 1 to {MOST:.0f}",
            "set it to 10 for an emulated processor, or unset it",
        )
    return factor
