"""How the pretend internet behaves, as data that its process reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Behaviour:
    """``bundle``: what its sites and registries hold; ``directory``: where its files and its log are.

    passing: hosts whose first answer is a 503.  blocked: names that lead to nobody.  lacks: repositories that
    are gone.  hub_limit: Docker Hub refuses everybody who is not logged in.  hub_login: "user:password" that
    it knows.  proxy: the only way out; the name server then knows no name outside.  slips: what a site does
    wrong, by what it is asked for (see sites.SLIPS).
    """

    bundle: str
    directory: str
    passing: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    hub_limit: bool = False
    hub_login: str = ""
    proxy: bool = False
    proxy_refuses: int = 0
    slips: tuple[tuple[str, str], ...] = ()

    @property
    def log(self) -> Path:
        """One JSON object a line: what was asked for, and the answer's status."""
        return Path(self.directory) / "log.jsonl"

    def write(self) -> Path:
        """For another process."""
        path = Path(self.directory) / "behaviour.json"
        path.write_text(json.dumps(asdict(self)))
        return path

    @classmethod
    def read(cls, path: Path) -> Behaviour:
        """The other way round."""
        values = json.loads(path.read_text())
        for name in ("passing", "blocked", "lacks"):
            values[name] = tuple(values[name])
        values["slips"] = tuple((what, slip) for what, slip in values["slips"])
        return cls(**values)
