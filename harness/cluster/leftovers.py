"""Find and remove what clusters left on this host: only what carries a run id is ever touched."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.cluster import cgroups, keeper, links, linux, nat
from harness.cluster.record import FILE, Record
from harness.errors import HarnessError
from harness.ownership import state_home

PROCESS, RULE, LINK, CGROUP, DIRECTORY = "process", "firewall rule", "link", "cgroup", "directory"
_KEEPER = keeper.COMMAND.encode()
_KILL_TIMEOUT_S = 15.0
_CGROUP = re.compile(r"(rc-[0-9a-f]{8})-[a-z0-9][a-z0-9-]*")
"""What ``Record.cgroup`` makes; another name that begins so is somebody else's."""


@dataclass(frozen=True)
class Leftover:
    """One thing on this host: its kind, what it is called, and the run that made it (empty: not known)."""

    kind: str
    name: str
    run_id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of {self.run_id or 'an unknown run'}"


@dataclass(frozen=True)
class _Running:
    """A keeper that lives, and its record; no record: its directory is gone."""

    pid: int
    state_dir: Path
    record: Record | None


def find_leftovers(
    run_id: str | None = None, *, running: bool = False, places: Iterable[Path] = ()
) -> list[Leftover]:
    """What is left of one run or of all.

    Clusters that still run are no leftovers unless ``running`` says so.  State directories are looked for in
    the places that ``runner-conformance`` uses, and in ``places``.
    """
    keepers = _keepers()
    alive = [it for it in keepers if it.record and not running]
    links_alive = {it.record.link for it in alive if it.record}
    groups_alive = {it.record.cgroup for it in alive if it.record}
    found = [
        Leftover(PROCESS, str(it.pid), it.record.run_id if it.record else "")
        for it in keepers
        if it not in alive
    ]
    for path in cgroups.owned("rc-"):
        owner = _run_id_in(path.name)
        if owner and path.name not in groups_alive:
            found += [Leftover(PROCESS, str(pid), owner) for pid in sorted(cgroups.processes(path))]
            found.append(Leftover(CGROUP, str(path), owner))
    for rule in nat.owned():
        if links.run_id_of(rule.link) and rule.link not in links_alive:
            found.append(Leftover(RULE, str(rule), links.run_id_of(rule.link)))
    for name, owner in links.owned().items():
        if links.run_id_of(name) == owner and name not in links_alive:
            found.append(Leftover(LINK, name, owner))
    found += _directories([it.state_dir for it in alive], places)
    unique = dict.fromkeys(it for it in found if run_id in (None, it.run_id))
    return list(unique)


def reap(leftovers: Iterable[Leftover]) -> list[str]:
    """Remove what ``find_leftovers`` found; returns a sentence for each thing that resisted."""
    things = list(leftovers)
    records = [_record(Path(it.name)) for it in things if it.kind == DIRECTORY]
    left = _kill({int(it.name) for it in things if it.kind == PROCESS})
    rules = {it.name for it in things if it.kind == RULE}
    for link in {it.link for it in nat.owned() if str(it) in rules}:
        left += _attempt(f"firewall rules of {link}", lambda link=link: nat.close(link))
    for thing in things:
        if thing.kind == LINK:
            left += _attempt(str(thing), lambda thing=thing: links.remove(thing.name))
    for group in {Path(it.name).name for it in things if it.kind == CGROUP}:
        left += [f"cgroup {path}: it still holds processes" for path in cgroups.remove(group)]
    for thing in things:
        if thing.kind == DIRECTORY:
            left += _attempt(str(thing), lambda thing=thing: shutil.rmtree(thing.name))
    if any(it and it.forwarding_was_off for it in records):
        links.close_forwarding()
    return left


def living_nodes() -> dict[str, Path]:
    """Runs whose node runs on this host, whoever's they are, and where its state is.

    A node dies with the run that made it, unless it is kept: nobody has left it behind.
    """
    return {it.record.run_id: it.state_dir for it in _keepers() if it.record}


def _keepers() -> list[_Running]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            # exactly as K3sCluster starts it: others may have these words among their arguments
            if words[1:3] != [b"-c", _KEEPER] or len(words) < 4 or not linux.start_ticks(int(entry.name)):
                continue
            directory = Path(os.fsdecode(words[3]))
            record = _record(directory)
            # the keeper's own children have its command line too; killing it ends them
            if record is None or record.keeper in (0, int(entry.name)):
                found.append(_Running(int(entry.name), directory, record))
    return found


def _record(directory: Path) -> Record | None:
    try:
        return Record.load(directory)
    except HarnessError:
        return None


def _directories(alive: list[Path], places: Iterable[Path]) -> list[Leftover]:
    candidates = [*places]
    candidates += [file.parent for file in state_home().glob(f"stacks/*/cluster/{FILE}")]
    found = []
    for directory in candidates:
        if directory in alive or not (directory / FILE).exists():
            continue
        record = _record(directory)
        found.append(Leftover(DIRECTORY, str(directory), record.run_id if record else ""))
    return found


def _run_id_in(name: str) -> str:
    found = _CGROUP.fullmatch(name)
    return found[1] if found else ""


def _kill(pids: set[int]) -> list[str]:
    """Kill processes and wait until they are gone.  A keeper that is told to end cleans up after itself."""
    started = {pid: linux.start_ticks(pid) for pid in pids}
    for number, patience_s in ((signal.SIGTERM, _KILL_TIMEOUT_S), (signal.SIGKILL, _KILL_TIMEOUT_S)):
        for pid in _still(started):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience_s
        while _still(started) and time.monotonic() < deadline:
            time.sleep(0.05)
    return [f"process {pid}: it does not end" for pid in _still(started)]


def _still(started: dict[int, int | None]) -> list[int]:
    """Which of the processes live; an id that was given to another process by now is not one of them."""
    return [pid for pid, ticks in started.items() if ticks is not None and linux.start_ticks(pid) == ticks]


def _attempt(what: str, remove: object) -> list[str]:
    try:
        remove()  # type: ignore[operator]
    except (HarnessError, OSError) as error:
        return [f"{what}: {error}"]
    return []
