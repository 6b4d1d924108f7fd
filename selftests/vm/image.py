"""The machine's disk: Debian 12 out of its packages, with what the suite needs of Python."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
#: What a server has, or gets by the first line of many a how-to, and what the suite wants: python3, git.
PACKAGES = (
    "systemd", "systemd-sysv", "systemd-resolved", "dbus", "udev", "kmod", "linux-image-amd64", "iproute2",
    "nftables", "ufw", "docker.io", "apparmor", "python3", "python3-venv", "git", "procps", "util-linux",
    "ca-certificates",
)  # fmt: skip
_TOOLS = {"mmdebstrap": "mmdebstrap", "qemu-system-x86_64": "qemu-system-x86", "mke2fs": "e2fsprogs"}
_DISK = "16G"
_UNIT = """\
[Unit]
Description=the conformance suite
After=network-online.target docker.service ufw.service systemd-resolved.service
Wants=network-online.target

[Service]
Type=oneshot
Environment=HOME=/root
ExecStartPre=/bin/mount -t 9p -o trans=virtio,ro,msize=262144 checkout /srv/checkout
ExecStart=/srv/venv/bin/python -m selftests.vm.inside
ExecStopPost=/bin/systemctl poweroff --no-block
WorkingDirectory=/srv
Environment=PYTHONPATH=/srv/checkout PYTHONDONTWRITEBYTECODE=1
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0

[Install]
WantedBy=multi-user.target
"""
#: systemd waits a minute and a half for what takes longer on an emulated processor.
_PATIENCE = "[Manager]\nDefaultTimeoutStartSec=900s\nDefaultDeviceTimeoutSec=900s\n"
#: A provider's network whose packets are smaller than Ethernet's, as in many a cloud.
_NETWORK = "[Match]\nName=en*\n\n[Link]\nMTUBytes=1400\n\n[Network]\nDHCP=ipv4\n"


@dataclass(frozen=True)
class Image:
    """A disk, and kernel and initial file system to start it with."""

    disk: Path
    kernel: Path
    initrd: Path


def missing_tools() -> list[str]:
    """Debian packages that this machine lacks for making and running the other."""
    return sorted(package for tool, package in _TOOLS.items() if not shutil.which(tool))


def build(cache: Path) -> Image:
    """The disk for this checkout's locked packages; made once (some minutes), then taken from the cache."""
    lock, recipe = (REPOSITORY / "requirements.lock").read_bytes(), Path(__file__).read_bytes()
    key = hashlib.sha256(lock + b"\0" + recipe)
    place = cache / key.hexdigest()[:16]
    image = Image(place / "disk", place / "vmlinuz", place / "initrd")
    if image.disk.exists():
        return image
    place.mkdir(parents=True, exist_ok=True)
    root = place / "root"
    shutil.rmtree(root, ignore_errors=True)
    print("making the machine's disk", flush=True)
    _run(["mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(PACKAGES)}", "bookworm", str(root)])
    _set_up(root)
    _install_python(root)
    for name, target in (("vmlinuz", image.kernel), ("initrd.img", image.initrd)):
        shutil.copyfile(next((root / "boot").glob(f"{name}-*")), target)
    part = image.disk.with_suffix(".part")
    _run(["mke2fs", "-q", "-t", "ext4", "-F", "-d", str(root), str(part), _DISK])
    part.replace(image.disk)
    shutil.rmtree(root)
    return image


def _set_up(root: Path) -> None:
    for directory in ("checkout", "bundle", "out"):
        (root / "srv" / directory).mkdir()
    files = {
        "etc/systemd/system/conformance.service": _UNIT,
        "etc/systemd/system.conf.d/patience.conf": _PATIENCE,
        "etc/systemd/network/uplink.network": _NETWORK,
        "etc/hostname": "users-host\n",
        "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 users-host\n",
        "etc/fstab": "/dev/vda / ext4 rw,noatime 0 0\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    ufw = root / "etc/ufw/ufw.conf"
    ufw.write_text(ufw.read_text().replace("ENABLED=no", "ENABLED=yes"))
    units = ("systemd-networkd", "systemd-resolved", "systemd-networkd-wait-online", "ufw", "docker")
    _run(["systemctl", "--quiet", f"--root={root}", "enable", *units, "conformance"])
    _run(["systemctl", "--quiet", f"--root={root}", "mask", "serial-getty@ttyS0"])


def _install_python(root: Path) -> None:
    """A virtual environment in the machine, made by its own Python from the lock."""
    (root / "srv/requirements.lock").write_bytes((REPOSITORY / "requirements.lock").read_bytes())
    resolv = root / "run/systemd/resolve/stub-resolv.conf"  # where the link in /etc leads
    resolv.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile("/etc/resolv.conf", resolv)
    certificates = Path("etc/ssl/certs/ca-certificates.crt")
    own = (root / certificates).read_bytes()
    (root / certificates).write_bytes(Path("/", certificates).read_bytes())  # this machine's way to its index
    try:
        _run(["chroot", str(root), "python3", "-m", "venv", "/srv/venv"])
        install = ["/srv/venv/bin/pip", "install", "-qq", "--no-cache-dir", "--require-hashes"]
        _run(["chroot", str(root), *install, "-r", "/srv/requirements.lock"])
    finally:
        (root / certificates).write_bytes(own)
        shutil.rmtree(resolv.parent)


def _run(argv: Sequence[str]) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C.UTF-8"})
