"""States of steps as files, so that every process of a run knows them and a kept stack's later runs too."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.errors import Blame, HarnessError, SuiteDefect
from harness.files import write_whole
from harness.graph import StepState, StepStatus, root_cause
from harness.redact import redact

T = TypeVar("T")

_POLL_S = 0.05
"""A file's state is looked at this often; a look is one stat."""

_OWNER_ALIVE_EVERY_S = 2.0
_ENDED = "ended"


class StepKey(Generic[T]):
    """A step's name together with the dataclass that it returns, so that readers get it typed."""

    def __init__(self, name: str, result: type[T]) -> None:
        if not is_dataclass(result):
            raise SuiteDefect(f"step {name} must return a dataclass, not {result.__name__}")
        self.name = name
        self._fields = tuple(field.name for field in fields(result))
        self._result = result

    def read(self, state: StepState) -> T:
        """What the step made, from its state's plain data. Raises SuiteDefect for other data."""
        found = state.result if isinstance(state.result, Mapping) else {}
        if set(found) != set(self._fields):
            raise SuiteDefect(f"step {self.name} left {sorted(found)}, not {sorted(self._fields)}")
        return self._result(**found)


class StepFiles:
    """The files below a directory, one a step. One process owns it and writes; any process reads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def own(self) -> None:
        """Say that this process runs the steps."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.directory / _ENDED).unlink(missing_ok=True)
        (self.directory / "owner").write_text(str(os.getpid()))

    def conclude(self) -> None:
        """Say that all steps of the run have ended: what has not begun by now never will."""
        (self.directory / _ENDED).touch()

    def write(self, state: StepState) -> None:
        """Publish a state, in one step and without secrets."""
        data = {
            "name": state.name,
            "status": state.status,
            "needs": state.needs,
            "started_s": state.started_s,
            "ended_s": state.ended_s,
            "by": state.by,
            "result": _plain(state),
            "error": _error_to(state.error) if state.error else None,
        }
        write_whole(self.directory / f"{state.name}.json", json.dumps(data))

    def forget(self, name: str) -> None:
        """The step is to be run again."""
        (self.directory / f"{name}.json").unlink(missing_ok=True)

    def state(self, name: str) -> StepState:
        """What is known of a step now."""
        try:
            data = json.loads((self.directory / f"{name}.json").read_text())
        except FileNotFoundError:
            return StepState(name, StepStatus.WAITING)
        error = data.pop("error")
        return StepState(
            **{**data, "status": StepStatus(data["status"]), "needs": tuple(data["needs"])},
            error=_error_from(error) if error else None,
        )

    def states(self) -> list[StepState]:
        """All steps that have begun, in that order."""
        found = [self.state(path.stem) for path in self.directory.glob("*.json")]
        return sorted(found, key=lambda s: (s.started_s, s.name))

    def wait(self, name: str) -> StepState:
        """The step's end; it comes, because every step's own waits are bounded.

        Raises SuiteDefect when the process that runs the steps is gone before that, or has ended all steps
        without this one.
        """
        looked = time.monotonic()
        while not (state := self.state(name)).status.ended:
            if (self.directory / _ENDED).exists() and not self.state(name).status.ended:
                raise SuiteDefect(f"step {name} was not among the steps of this run, which have all ended")
            if time.monotonic() - looked > _OWNER_ALIVE_EVERY_S:
                looked = time.monotonic()
                if not self._owner_alive():
                    raise SuiteDefect(
                        f"step {name} is {state.status}, and the process that runs the steps is gone"
                    )
            time.sleep(_POLL_S)
        return state

    def root(self, name: str) -> StepState:
        """The step itself, or the failed one because of which it was skipped."""
        return root_cause(self.state(name), self.state)

    def _owner_alive(self) -> bool:
        try:
            pid = int((self.directory / "owner").read_text())
        except (FileNotFoundError, ValueError):
            return False
        return Path(f"/proc/{pid}").exists()


def _plain(state: StepState) -> Mapping[str, Any]:
    result = state.result
    if is_dataclass(result) and not isinstance(result, type):
        return asdict(result)
    return result if isinstance(result, Mapping) else {}  # read from such a file, or nothing for others


def _error_to(error: HarnessError) -> dict[str, str]:
    return {
        "message": redact(error.message),
        "hint": redact(error.hint),
        "blame": str(error.blame),
        "evidence": redact(error.evidence),
        "reason_id": error.reason_id,
    }


def _error_from(data: Mapping[str, str]) -> HarnessError:
    return HarnessError(
        data["message"],
        data["hint"],
        blame=Blame(data["blame"]),
        evidence=data["evidence"],
        reason_id=data["reason_id"],
    )
