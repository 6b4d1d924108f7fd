"""The release that the stand-in is: read from the file beside this one, and what came with which release."""

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Release:
    """A version of gitlab-runner, by its data alone."""

    version: str
    revision: str

    def at_least(self, *wanted: int) -> bool:
        """Whether it is that release or a later one."""
        return tuple(int(part) for part in self.version.split(".")[: len(wanted)]) >= wanted

    @property
    def stamps(self) -> bool:
        """Lines of the job's log carry time and stream unless FF_TIMESTAMPS is off (changelog of 18.7.0)."""
        return self.at_least(18, 7)

    @property
    def reports_interruption(self) -> bool:
        """A job that the runner's end cuts off fails as `runner_interrupted` (common/network.go of 19)."""
        return self.at_least(19)

    @property
    def build_in_helper(self) -> bool:
        """The helper container starts as `gitlab-runner-build`, which the helper image must have."""
        return self.at_least(17)


def load(path: Path) -> Release:
    """Read a release file. Raises OSError, TOMLDecodeError, TypeError for one of another form."""
    return Release(**tomllib.loads(path.read_text()))


HERE = load(Path(__file__).with_name("release.toml"))
