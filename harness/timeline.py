"""Which phase ran when, and which chain of them decided how long the whole took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Phase:
    """One phase of a run; times in seconds since the timeline began; ``end_s`` is None while it runs."""

    name: str
    needs: tuple[str, ...]
    start_s: float
    end_s: float | None = None
    ok: bool = False
    note: str = ""

    @property
    def duration_s(self) -> float:
        return (self.end_s if self.end_s is not None else self.start_s) - self.start_s


@dataclass
class Timeline:
    """Phases in the order in which they began; safe to use from several threads."""

    clock: Callable[[], float] = time.monotonic
    phases: list[Phase] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._zero = self.clock()
        self._lock = threading.Lock()

    def now_s(self) -> float:
        return self.clock() - self._zero

    @contextmanager
    def phase(self, name: str, needs: Sequence[str] = ()) -> Iterator[Phase]:
        """Time the body as a phase; it counts as ok when the body raises nothing."""
        phase = Phase(name, tuple(needs), self.now_s())
        with self._lock:
            self.phases.append(phase)
        try:
            yield phase
            phase.ok = True
        except BaseException as error:
            phase.note = phase.note or (str(error).splitlines() or [type(error).__name__])[0]
            raise
        finally:
            phase.end_s = self.now_s()

    @property
    def wall_s(self) -> float:
        """From the first phase's start to the last one's end."""
        ends = [phase.end_s for phase in self.phases if phase.end_s is not None]
        return max(ends) - min(phase.start_s for phase in self.phases) if ends else 0.0

    def critical_path(self) -> list[Phase]:
        """The chain of needs that ends last: to make the whole faster, make one of these faster."""
        done = {phase.name: phase for phase in self.phases if phase.end_s is not None}
        if not done:
            return []
        current = max(done.values(), key=_end)
        path = [current]
        while before := [done[name] for name in current.needs if name in done]:
            current = max(before, key=_end)
            path.append(current)
        return path[::-1]

    @property
    def critical_s(self) -> float:
        """The sum of the durations along the critical path."""
        return sum(phase.duration_s for phase in self.critical_path())

    def to_dict(self) -> dict[str, Any]:
        critical = [phase.name for phase in self.critical_path()]
        return {
            "wall_s": round(self.wall_s, 3),
            "critical_s": round(self.critical_s, 3),
            "critical_path": critical,
            "phases": [
                {
                    "name": phase.name,
                    "needs": list(phase.needs),
                    "start_s": round(phase.start_s, 3),
                    "end_s": None if phase.end_s is None else round(phase.end_s, 3),
                    "ok": phase.ok,
                    "note": phase.note,
                }
                for phase in self.phases
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Timeline:
        """The timeline of a run of another process, as ``to_dict`` wrote it."""
        timeline = cls()
        timeline.phases = [
            Phase(
                item["name"],
                tuple(item["needs"]),
                item["start_s"],
                item["end_s"],
                item["ok"],
                item.get("note", ""),
            )
            for item in data.get("phases", ())
        ]
        return timeline


def _end(phase: Phase) -> float:
    return phase.end_s if phase.end_s is not None else phase.start_s
