"""Root file systems made of Debian packages, and programs run in them as a container does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
#: In a mount namespace: the root file system becomes the root for good, so that nothing leads out of it.
#: Of its own programs none is needed for that: a small image has no mount.
_ENTER = """
import ctypes, os, shutil, sys
from harness.cluster import linux

root, checkout, bundle, directory, script = sys.argv[1:]
linux.bind(root, root)
os.chdir(root)
for name in ("proc", "sys", "dev"):
    linux.bind(f"/{name}", name)
for source, name in ((checkout, "srv/checkout"), (bundle, "srv/bundle")):
    os.makedirs(name)
    linux.bind(source, name)
shutil.copyfile("/etc/resolv.conf", "etc/resolv.conf")
shutil.copyfile("/etc/ssl/certs/ca-certificates.crt", "srv/authorities.crt")
os.mkdir("old")
PIVOT_ROOT = 155  # x86-64
if ctypes.CDLL(None, use_errno=True).syscall(PIVOT_ROOT, b".", b"old"):
    raise OSError(ctypes.get_errno(), "pivot_root")
linux.unmount("/old")
os.rmdir("/old")
os.chdir(directory)
os.execv("/bin/sh", ["sh", "-ec", script])
"""


def make(cache: Path, suite: str, packages: tuple[str, ...]) -> Path:
    """A tar of a root file system: a Debian suite's required packages, and these; made once.

    No machine and no official image of Debian has less.
    """
    archive = cache / f"{'-'.join((suite, 'minbase', *packages))}.tar"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        include = [f"--include={','.join(packages)}"] if packages else []
        part = archive.with_suffix(".part.tar")
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", *include, suite, str(part)]
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
    # the authorities that this machine trusts, where a package index of its own may be
    for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO"):
        environment[name] = "/srv/authorities.crt"
    argv = ["unshare", "--mount", "--propagation=private", sys.executable, "-c", _ENTER]
    return subprocess.run(
        [*argv, str(root), str(checkout), str(bundle), directory, script],
        cwd=REPOSITORY,
        env=environment | dict(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
