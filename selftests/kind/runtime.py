"""runc, but for capabilities that this machine's processes lack: of no container's would anything come else.

Docker's privileged containers ask for all; where the bounding set lacks one (a machine of a CI may lack
CAP_SYS_RESOURCE) runc refuses. Only the engine of these tests runs it.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import pairwise
from pathlib import Path

_NUMBERS = {"CAP_SYS_RESOURCE": 24}


def main() -> None:
    program, *words = sys.argv[1:]
    lacking = {name for name, number in _NUMBERS.items() if not _bounding_set() >> number & 1}
    if lacking:
        for file in _files(words):
            document = json.loads(file.read_text())
            process = document.get("process", document)
            for kind, names in (process.get("capabilities") or {}).items():
                process["capabilities"][kind] = [it for it in names if it not in lacking]
            file.write_text(json.dumps(document))
    os.execv(program, [program, *words])


def _bounding_set() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")), 16)


def _files(words: list[str]) -> list[Path]:
    """The specification of a container to be made, or of a process to be run in one."""
    pairs = list(pairwise(words))
    named = [Path(value) for word, value in pairs if word in ("--process", "-p")]
    bundles = [Path(value) / "config.json" for word, value in pairs if word == "--bundle"]
    return [it for it in (*named, *bundles) if it.is_file()]


if __name__ == "__main__":
    main()
