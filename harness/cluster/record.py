"""What a cluster's processes know of it, as a file in its state directory: ``cluster.json``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.cluster import linux
from harness.errors import EnvironmentProblem

FILE = "cluster.json"
_FORMAT = 1


@dataclass
class Record:
    """The wishes of the starter, and what the keeper made of them.

    ``registries`` and ``proxies`` may hold passwords: the file is for its owner alone, and nothing shows it.
    """

    run_id: str
    name: str
    k3s: str
    version: str
    arguments: list[str]
    registries: str
    unreachable: list[str] = field(default_factory=list)
    registry_program: str = ""
    storage: str = ""
    docker_engine: str = ""
    keep: bool = False
    outgoing: bool = True
    proxies: dict[str, str] = field(default_factory=dict)
    # written by the keeper
    subnet: int = 0
    link: str = ""
    keeper: int = 0
    keeper_ticks: int | None = None
    registry: str = ""
    node: int = 0
    node_ticks: int | None = None
    forwarding_was_off: bool = False
    ended: str = ""
    notes: list[str] = field(default_factory=list)
    format: int = _FORMAT

    @property
    def cgroup(self) -> str:
        """Name of the node's directory in each cgroup hierarchy."""
        return f"{self.run_id}-{self.name}"

    @property
    def alive(self) -> bool:
        """Whether the keeper, and no other process under its id, runs."""
        return bool(self.keeper) and linux.start_ticks(self.keeper) == self.keeper_ticks

    def save(self, state_dir: Path) -> None:
        """Write, so that a reader sees the old content or the new."""
        part = state_dir / f".{FILE}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(self), file, indent=2)
        part.replace(state_dir / FILE)

    @classmethod
    def load(cls, state_dir: Path) -> Record:
        """Read.  Raises EnvironmentProblem when there is none, or none of ours."""
        path = state_dir / FILE
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError as error:
            raise EnvironmentProblem(
                f"there is no cluster in {state_dir}", "start one: runner-conformance up"
            ) from error
        except (ValueError, TypeError) as error:
            raise EnvironmentProblem(
                f"{path} is not readable: {error}", "runner-conformance reap removes it"
            ) from error
