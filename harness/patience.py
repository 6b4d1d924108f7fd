"""How much longer than on a usual host everything may take: RUNNER_CONFORMANCE_PATIENCE, a factor.

For hosts on which nothing is wrong and everything is late: an emulated processor, a board, a CI of many jobs.
It stretches what waits allow, and how long a fault must last before it ends one. What the how-to's own files
limit (config.toml's poll_timeout) it leaves alone.
"""

from __future__ import annotations

import os
from functools import cache

from harness.errors import UsageError

OVERLOADED_PER_CPU = 4.0
"""A load above this, and what is late may only be late."""
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


def slow_host() -> str:
    """Why this host is slow, in words; empty where it is not."""
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    if load / cpus > OVERLOADED_PER_CPU:
        return f"load of {load:.0f} on {cpus} CPUs, {load / cpus:.1f} per CPU"
    return f"{VARIABLE}={patience():g} says that it is slow" if patience() > 1 else ""
