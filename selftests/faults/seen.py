"""What was seen of each fault on a real node, as data in ``seen.json``, from which a page is made."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.files import write_whole

SEEN = Path(__file__).with_name("seen.json")
NO_REASON = re.compile(r"^[\w.]*(Error|Exception|_Again)\b|\bnot so after\b|…$")
"""How no reason may begin or end: with an exception's class, or in the middle of its cause."""
_LOCAL_DIRECTORY = re.compile(r"(?<![\w.:/])(/[\w.+-]+){2,}/(?=[\w.+-]+)")
_WAITED = re.compile(r"\b(?:failed|timed out) after ([\d.]+) s\b")


@dataclass(frozen=True)
class Seen:
    """A fault that turned the intended outcome red, for the intended reason.

    ``seconds`` until it was named: how long the wait lasted that told it, or on a kept stack, where the fault
    was there before, the whole test. None: told by the end of a job, or before anything was made.
    """

    part: str
    fault: str
    red: str
    blame: str
    rule: str
    seconds: float | None
    said: str
    day: str

    @classmethod
    def of(cls, part: str, fault: str, red: str, entry: Mapping[str, Any]) -> Seen:
        """From the outcome's entry in conformance.json."""
        said, seconds = first_line(entry), seconds_of(entry)
        known = part == "kept" or _WAITED.search(said)
        return cls(
            part,
            fault,
            red,
            str(entry.get("blame") or ""),
            str(entry.get("reason_id") or ""),
            round(seconds, 1) if known else None,
            said,
            f"{datetime.now(UTC):%Y-%m-%d}",
        )

    @property
    def key(self) -> tuple[str, str, str]:
        return self.part, self.fault, self.red


def first_line(entry: Mapping[str, Any]) -> str:
    """An entry's reason without its evidence, and without directories of this machine."""
    said = str(entry.get("reason", "")).strip()
    return _LOCAL_DIRECTORY.sub("…/", " ".join(said.splitlines()[0].split())) if said else ""


def seconds_of(entry: Mapping[str, Any]) -> float:
    """How long it took until the fault was named."""
    waited = _WAITED.search(first_line(entry))
    return float(waited.group(1)) if waited else float(entry.get("duration_s", 0.0))


def read_seen(path: Path = SEEN) -> list[Seen]:
    """All that was recorded, in the order of the catalogue's parts."""
    return [Seen(**it) for it in json.loads(path.read_text())] if path.exists() else []


class Record:
    """What a run of the catalogue sees and complains of, told and written at once: it may be ended.

    ``path`` None: nothing is written. ``unseen``: what the file holds already is passed over.
    """

    def __init__(self, path: Path | None = None, *, unseen: bool = False) -> None:
        self._path = path
        self._unseen = unseen
        self.seen: list[Seen] = []
        self.complaints: list[str] = []

    def wants(self, part: str, fault: str, reds: Collection[str]) -> bool:
        """Whether a fault, which turns ``reds`` red, is still to be looked at."""
        if not self._unseen:
            return True
        known = {it.key for it in read_seen(self._path)} if self._path is not None else set()
        return any((part, fault, red) not in known for red in reds or ("",))

    def complain(self, *lines: str) -> None:
        """Something else was red, or nothing, or for another reason."""
        self.complaints += lines
        for line in lines:
            print(line, file=sys.stderr, flush=True)

    def see(self, seen: Seen) -> None:
        """A fault was named as the catalogue says."""
        self.seen.append(seen)
        when = "" if seen.seconds is None else f", {seen.seconds} s"
        print(f"{seen.red}: {seen.fault}: {seen.blame}, {seen.rule or 'no rule'}{when}", flush=True)
        if self._path is not None:
            known = {it.key: it for it in read_seen(self._path)} | {seen.key: seen}
            rows = [asdict(known[key]) for key in sorted(known)]
            write_whole(self._path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
