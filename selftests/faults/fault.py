"""What a fault is, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import Blame
from selftests.faults.steps import BundleStep, StackStep

REFUSED = "refused"
"""In place of an outcome: the run ends at once with exit code 10 (environment), and nothing was made."""


@dataclass(frozen=True)
class Fault:
    """One way to break things.

    `bundle`: done to a copy of the bundle. `profile`: `table.key` → value in a copy of the profile. `stack`:
    done to the running stack once layer `after` has ended. `reason`: a regular expression to be found in the
    reason of `red`. `blame`: who the suite must say is at fault.
    """

    name: str
    what: str
    red: str
    reason: str
    blame: Blame = Blame.ENVIRONMENT
    bundle: tuple[BundleStep, ...] = ()
    profile: Mapping[str, str] = field(default_factory=dict)
    stack: tuple[StackStep, ...] = ()
    after: str = ""
    rule: str = ""
    """The id of the rule that must explain it, where one must."""
