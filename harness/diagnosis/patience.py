"""How long a reason must last before waiting is given up."""

from __future__ import annotations

from harness.diagnosis.catalogue import with_others
from harness.diagnosis.model import Reason
from harness.patience import patience


class Patience:
    """Since when each reason has been seen; tells the first that has lasted as long as its rule asks for.

    A reason that is not seen for a moment (between two tries of the kubelet) keeps its beginning.
    """

    GAP_S = 8.0

    def __init__(self, factor: float | None = None) -> None:
        """``factor``: on a slow host everything lasts that much longer; None: as this host is said to be."""
        self._factor = patience() if factor is None else factor
        self._seen: dict[tuple[str, str], tuple[float, float]] = {}

    def final(self, reason: Reason | None, now: float) -> Reason | None:
        """The reason, or the first of its others, that is final at ``now``; None while waiting may help."""
        known = [reason, *reason.others] if reason is not None else []
        for it in known:
            since, last = self._seen.get(it.key, (now, now))
            self._seen[it.key] = (since if now - last <= self.GAP_S * self._factor else now, now)
        for it in known:
            if it.final_after_s is None:
                continue
            if now - self._seen[it.key][0] >= it.final_after_s * self._factor:
                return it if it is reason else _promoted(it, reason)
        return None


def _promoted(final: Reason, first: Reason | None) -> Reason:
    """A less telling reason that ends the wait keeps the more telling one at its side."""
    return with_others(final, (first, *first.others)) if first is not None else final
