"""Starting the machine, and following what it says on its console."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from harness.cluster import linux
from selftests.vm.image import Image

#: Under load an emulated timer is too slow for the kernel's check of it, which then panics.
_EMULATED = ("mitigations=off", "no_timer_check")


@dataclass(frozen=True)
class Shares:
    """Directories of this machine that the other sees: tag → path; only ``out`` is written to."""

    checkout: Path
    bundle: Path
    out: Path


def accelerator() -> str:
    """``kvm`` where this machine is none itself, else ``tcg``: a machine in a machine hangs on some hosts."""
    itself = "hypervisor" in Path("/proc/cpuinfo").read_text()
    return "kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) and not itself else "tcg"


def command(image: Image, shares: Shares, accel: str, words: list[str]) -> list[str]:
    """The command line that starts the machine; ``words`` go to its suite by way of the kernel's."""
    accel = "tcg,thread=multi" if accel == "tcg" else accel
    append = ["root=/dev/vda", "rw", "console=ttyS0", "loglevel=4", *_EMULATED, *words]
    argv = ["qemu-system-x86_64", "-accel", accel, "-cpu", "max", "-smp", "2", "-m", "6144"]
    argv += ["-nographic", "-no-reboot", "-kernel", str(image.kernel), "-initrd", str(image.initrd)]
    argv += ["-append", " ".join(append)]
    argv += ["-drive", f"file={image.disk},format=raw,if=virtio,snapshot=on,cache=unsafe"]
    argv += ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
    for tag, path in vars(shares).items():
        mode = "security_model=none" + ("" if tag == "out" else ",readonly=on")
        argv += ["-virtfs", f"local,path={path},mount_tag={tag},id={tag},multidevs=remap,{mode}"]
    return argv


def run(argv: list[str], console: Path, timeout_s: float) -> None:
    """Run until the machine is off; its console goes to a file and to standard output."""
    with (
        console.open("wb") as log,
        subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=linux.die_with_parent
        ) as machine,
    ):
        limit = threading.Timer(timeout_s, machine.kill)
        limit.start()
        try:
            assert machine.stdout
            for line in machine.stdout:
                log.write(line)
                log.flush()
                sys.stdout.buffer.write(line)
                sys.stdout.flush()
        finally:
            limit.cancel()
            machine.kill()
