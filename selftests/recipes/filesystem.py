"""Root file systems made of Debian packages, and programs run in them as a container does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

#: In a mount namespace: the root file system becomes the root for good, so that nothing leads out of it.
_ENTER = """
set -e
mount --bind "$1" "$1"
cd "$1"
for name in proc sys dev; do mkdir -p $name; mount --rbind /$name $name; done
for pair in checkout bundle; do mkdir -p srv/$pair; done
mount --bind "$2" srv/checkout
mount --bind "$3" srv/bundle
mount -o remount,bind,ro srv/bundle
cp --dereference /etc/resolv.conf etc/resolv.conf
mkdir -p old
pivot_root . old
umount -l /old
rmdir /old
cd "$4"
exec sh -ec "$5"
"""


def make(cache: Path, suite: str, packages: tuple[str, ...]) -> Path:
    """A tar of a root file system: a Debian suite's essential packages, apt, and these; made once."""
    archive = cache / f"{'-'.join((suite, *packages))}.tar"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        include = [f"--include={','.join(packages)}"] if packages else []
        part = archive.with_suffix(".part.tar")
        argv = ["mmdebstrap", "--quiet", "--variant=apt", *include, suite, str(part)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        part.replace(archive)
    return archive


def run(
    root: Path, checkout: Path, bundle: Path, directory: str, script: str, variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a script there; of this process's environment it has only the way to the package indexes."""
    ways = ("PIP_INDEX_URL", "UV_INDEX_URL", "https_proxy", "http_proxy", "no_proxy")
    environment = {key: os.environ[key] for key in ways if key in os.environ}
    environment |= {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    argv = ["unshare", "--mount", "--propagation=private", "sh", "-ec", _ENTER, "enter"]
    return subprocess.run(
        [*argv, str(root), str(checkout), str(bundle), directory, script],
        env=environment | dict(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
