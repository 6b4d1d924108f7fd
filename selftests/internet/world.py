"""The pretend internet's process, in a network namespace: ``python -m selftests.internet.world FILE``.

It says "here" when it may be connected, waits for a line, and says "open" when everything listens. It ends
with its standard input.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from selftests.internet import authority, lines, names
from selftests.internet.behaviour import Behaviour
from selftests.internet.sites import Sites


def main() -> None:
    """Entry point."""
    behaviour = Behaviour.read(Path(sys.argv[1]))
    print("here", flush=True)
    sys.stdin.readline()
    for command in (
        "ip link set lo up",
        f"ip address add {names.SITES}/32 dev lo",
        f"ip address add {names.SILENT}/32 dev lo",
        f"ip address add {names.OUTSIDE}/30 dev eth0",
        "ip link set eth0 up",
    ):
        subprocess.run(command.split(), check=True)
    _, chain = authority.make(Path(behaviour.directory), names.ALL)
    sites = Sites(behaviour)
    sites.serve(chain)
    lines.serve_names(behaviour)
    if behaviour.proxy:
        lines.serve_proxy(behaviour, sites.note)
    print("open", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
