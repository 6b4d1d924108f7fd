"""The release of the operator that the stand-in is, and what differs between releases."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Release:
    """A version of the operator and the version of gitlab-runner that it ships."""

    version: str
    runner: str

    def at_least(self, *wanted: int) -> bool:
        """Whether it is that release or a later one."""
        return tuple(int(part) for part in self.version.split(".")[: len(wanted)]) >= wanted

    @property
    def token_keys(self) -> tuple[str, ...]:
        """Keys of the token in the Secret, the wanted one first: the how-to's until the names of 1.23.2."""
        old, new = "runner-registration-token", "runner-token"
        return (new, old) if self.at_least(1, 23, 2) else (old,)

    @property
    def service_account(self) -> str:
        """The ServiceAccount of a Runner's pod (operator issue 213)."""
        return "gitlab-runner-app-sa" if self.at_least(1, 26, 2) else "gitlab-runner-sa"

    @property
    def reads_events(self) -> bool:
        """The role of a Runner's pod may read events (bundle 1.42.0)."""
        return self.at_least(1, 42)

    @property
    def has_global_settings(self) -> bool:
        """Runners have fields for log format, connection age and more (gitlab-runner's docs: 1.34)."""
        return self.at_least(1, 34)

    @property
    def knows_verified(self) -> bool:
        """The phase follows a verified authentication token too (fe7c89fb, after 1.17.0)."""
        return self.at_least(1, 18)


HERE = Release(**tomllib.loads(Path(__file__).with_name("release.toml").read_text()))
