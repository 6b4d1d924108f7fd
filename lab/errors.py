"""What can stop a build: each says in one sentence what happened and what mends it."""

from __future__ import annotations

import re
from pathlib import Path

LAST_LINES = 15

NO_SPACE = "no space left on the disk"
MORE_SPACE = "free some (`python -m lab doctor` says how much a build takes)"
NO_NETWORK = re.compile(
    r"no such host|temporary failure (in name resolution|resolving)|could not resolve|i/o timeout"
    r"|connection (refused|timed out)|network is unreachable|failed to (fetch|establish a new connection)"
    r"|error sending request|dns error|failed to lookup address",
    re.IGNORECASE,
)


class LabError(Exception):
    """A sentence on what happened and one on what mends it."""

    def __init__(self, message: str, hint: str = "", evidence: str = "") -> None:
        super().__init__(message)
        self.message, self.hint, self.evidence = message, hint, evidence

    def __str__(self) -> str:
        return "\n".join(
            part for part in (self.evidence, self.message, self.hint and f"What to do: {self.hint}") if part
        )


class CommandFailed(LabError):
    """A program of a step failed; its last lines, where all of them are, and the likely reason."""

    def __init__(self, step: str, program: str, code: int, output: str, log: Path) -> None:
        if "no space left on device" in output.lower():
            message, hint = f"{step}: {NO_SPACE}", MORE_SPACE
        elif NO_NETWORK.search(output):
            message = f"{step}: a package registry cannot be reached"
            hint = (
                "check the network and the proxies of apt, pip and Go; a new build goes on where it stopped"
            )
        else:
            message, hint = f"{step}: {Path(program).name} failed with exit code {code}", "see the output"
        last = "\n".join(output.strip().splitlines()[-LAST_LINES:])
        super().__init__(message, f"{hint}; full output: {log}", last)
