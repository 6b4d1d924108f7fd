"""A pretend host on the pretend internet: ``python -m selftests.internet.host FILE -- COMMAND``

Runs the command where the only way out is the pretend internet, whose authority is trusted as this system's
own and whose name server is asked. FILE is a Behaviour's, or "none" for a host without a line. To be started
in network and mount namespaces of its own (``unshare --net --mount``): the real host is left as it is.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from selftests.internet import names
from selftests.internet.behaviour import Behaviour

_PR_SET_PDEATHSIG = 1
_AUTHORITIES = Path("/usr/local/share/ca-certificates")


def die_with_parent() -> None:
    """In a child, before it becomes its program."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Entry point."""
    file, _, *command = sys.argv[1:]
    _run("ip link set lo up")
    scratch = Path(os.environ["PRETEND_HOST_SCRATCH"])
    own_etc(scratch)
    world = None
    if file != "none":
        world = connect(Path(file))
    child = subprocess.Popen(command, preexec_fn=die_with_parent)

    def hand_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGINT, hand_on)
    code = child.wait()
    if world is not None:
        world.kill()
        world.wait()
    sys.exit(code if code >= 0 else 128 - code)


def own_etc(scratch: Path) -> None:
    """A copy of /etc in memory in its place: what is changed there is this process's alone."""
    copy = scratch / "etc"
    copy.mkdir()
    _run(f"mount -t tmpfs pretend-etc {copy}")
    _run(f"cp -a /etc/. {copy}")
    _run(f"mount --bind {copy} /etc")
    resolv = Path("/etc/resolv.conf")
    subprocess.run(
        ["umount", resolv], stderr=subprocess.DEVNULL, check=False
    )  # container engines bind a file here
    resolv.unlink(missing_ok=True)
    resolv.write_text(f"nameserver {names.OUTSIDE}\noptions timeout:1 attempts:1\n")


def connect(file: Path) -> subprocess.Popen[str]:
    """Start the internet beside this namespace, connect it, trust its authority."""
    behaviour = Behaviour.read(file)
    world = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-m", "selftests.internet.world", str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    assert world.stdin is not None
    _expect(world, "here")
    _run(f"ip link add eth0 type veth peer name eth0 netns {world.pid}")
    _run(f"ip address add {names.HOST}/30 dev eth0")
    _run("ip link set eth0 up")
    _run(f"ip route add default via {names.OUTSIDE}")
    if behaviour.proxy:  # a firewall lets nothing but the proxy out
        _run("ip route add prohibit 203.0.113.0/24")
    world.stdin.write("go\n")
    world.stdin.flush()
    _expect(world, "open")
    trust(Path(behaviour.directory) / "authority.pem")
    return world


def trust(authority: Path) -> None:
    """As an administrator adds a company's authority."""
    _run(f"mount -t tmpfs pretend-authorities {_AUTHORITIES}")
    shutil.copy(authority, _AUTHORITIES / "pretend.crt")
    subprocess.run(
        ["update-ca-certificates"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _expect(world: subprocess.Popen[str], word: str) -> None:
    assert world.stdout is not None
    said = world.stdout.readline().strip()
    if said != word:
        raise SystemExit(f"the pretend internet did not say {word!r} but {said!r}")


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True)


if __name__ == "__main__":
    main()
