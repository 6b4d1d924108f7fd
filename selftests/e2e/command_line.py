"""`runner-conformance` as a user types it, with a state directory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.artifacts.bundle import Bundle
from harness.ownership import HOME_VARIABLE

ROOT = Path(__file__).parents[2]
UP_TIMEOUT_S = 600


class Host:
    """The command line with a state directory of its own, and the bundle's kubectl."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "harness.cli", *words],
            cwd=ROOT,
            env={**os.environ, HOME_VARIABLE: str(self.home)},
            capture_output=True,
            text=True,
            timeout=UP_TIMEOUT_S,
            check=False,
        )

    def up(self, name: str, bundle: Path) -> str:
        """Make and keep a stack; what was printed."""
        profile = Bundle.read(bundle).profile
        done = self.run("up", "--keep", "--name", name, "--profile", profile, "--artifacts", str(bundle))
        assert done.returncode == 0, done.stderr
        return done.stderr

    def down(self, name: str) -> None:
        done = self.run("down", name)
        assert done.returncode == 0, done.stderr

    def kubectl(self, name: str, bundle: Path, *words: str) -> str:
        """The bundle's own kubectl with the kubeconfig that the command line prints.

        A k3s unpacks itself before it runs anything, by default below /var/lib/rancher.
        """
        kubeconfig = self.run("kubeconfig", name).stdout.strip()
        k3s = str(Bundle.read(bundle).file("k3s"))
        argv = [k3s, "kubectl", "--kubeconfig", kubeconfig, *words]
        environment = {**os.environ, "K3S_DATA_DIR": str(self.home.with_name("k3s-data"))}
        done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
        return done.stdout

    def state_dir(self, name: str) -> Path:
        return self.home / "stacks" / name
