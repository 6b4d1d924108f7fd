"""Run within selftests.kind.host: commands one after the other, and what they leave on that host.

``python -m selftests.kind.walk FILE`` reads ``[{"argv": […], "kill_at": "words"}, …]`` and writes beside it,
as ``FILE.seen``, for each its exit code and output, and what of the host is not as before: containers,
networks, volumes and images of the engine; links, rules, mounts, cgroups and files. ``kill_at``: it is ended
by SIGKILL when it says these words.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from selftests.e2e.host_state import difference, snapshot

_OF_THE_ENGINE = re.compile(r"/sys/fs/cgroup/[^/]+/docker$|/run/(containerd|docker)(/|$)|\d+: docker0 ")
"""What an engine makes with its first container and keeps; namespaces of ended ones go once a minute."""


def main() -> None:
    """Entry point."""
    file = Path(sys.argv[1])
    seen = []
    for step in json.loads(file.read_text()):
        before = state(file.parent)
        code, output = run(step["argv"], step.get("kill_at", ""))
        left = {kind: sorted(items) for kind, items in difference(before, state(file.parent)).items()}
        seen.append({"code": code, "output": output, "left": left})
        file.with_name(f"{file.name}.seen").write_text(json.dumps(seen))


def run(argv: list[str], kill_at: str) -> tuple[int, str]:
    """Exit code and output of a command."""
    lines = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            print(line, end="", flush=True)
            if kill_at and kill_at in line:
                process.kill()
                break
    return process.returncode, "".join(lines)


def state(ignored: Path) -> dict[str, set[str]]:
    """This host and its engine."""
    seen = snapshot("", ignore=(ignored,))
    found = {kind: {it for it in items if not _OF_THE_ENGINE.match(it)} for kind, items in seen.items()}
    for kind, words in {
        "containers": ["ps", "--all", "--format={{.Names}}"],
        "docker networks": ["network", "ls", "--format={{.Name}}"],
        "volumes": ["volume", "ls", "--quiet"],
        "images": ["image", "ls", "--format={{.Repository}}:{{.Tag}}"],
    }.items():
        done = subprocess.run(["docker", *words], capture_output=True, text=True, check=True)
        found[kind] = set(done.stdout.split())
    return found


if __name__ == "__main__":
    main()
