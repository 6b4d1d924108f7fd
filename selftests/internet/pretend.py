"""A pretend host for a test: commands run on it, and what they asked the pretend internet for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from harness.artifacts.bundle import Bundle
from harness.profile import HOW_TO_PAIR, PROFILES_DIR
from harness.stack.images import full_reference
from selftests.internet import names
from selftests.internet.behaviour import Behaviour
from selftests.internet.host import die_with_parent

ROOT = Path(__file__).parents[2]
CLI = (sys.executable, "-c", "from harness.cli import main; main()")
"""`runner-conformance` of this checkout, wherever the test runs."""
PROXY = f"http://{names.OUTSIDE}:{names.PROXY_PORT}"
_NOT_INHERITED = ("PROXY", "SSL_CERT", "CA_BUNDLE", "RUNNER_CONFORMANCE", "PYTEST")


@dataclass(frozen=True)
class Ended:
    """What a command printed, and how it ended."""

    code: int
    output: str


class PretendHost:
    """``directory`` is the test's own; ``bundle`` is what sites and registries hold, None without a line."""

    def __init__(self, directory: Path, bundle: Path | None, **behaviour: Any) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.behaviour = Behaviour(str(bundle), str(directory), **behaviour) if bundle is not None else None
        self.cache = directory / "cache"

    def run(self, *command: str | Path, environment: Mapping[str, str] = {}, timeout_s: float = 900) -> Ended:
        """Run a command there; stdout and stderr in one."""
        file = str(self.behaviour.write()) if self.behaviour else "none"
        scratch = self.directory / f"scratch-{os.urandom(4).hex()}"
        scratch.mkdir()
        proxies = (
            {"HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY} if self.behaviour and self.behaviour.proxy else {}
        )
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not any(word in name.upper() for word in _NOT_INHERITED)
        }
        own = {
            "PYTHONPATH": str(ROOT),
            "PRETEND_HOST_SCRATCH": str(scratch),
            "XDG_CACHE_HOME": str(self.cache),
            "RUNNER_CONFORMANCE_HOME": str(self.directory / "home"),
        }
        host = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m"]
        output = scratch / "output"
        with output.open("w") as stream:
            done = subprocess.run(
                [*host, "selftests.internet.host", file, "--", *map(str, command)],
                cwd=ROOT,
                env={**inherited, **own, **proxies, **environment},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                preexec_fn=die_with_parent,
                check=False,
            )
        return Ended(done.returncode, output.read_text(errors="replace"))

    def asked(self, host: str = "") -> list[dict[str, Any]]:
        """What was asked for, of one host or of all."""
        if self.behaviour is None or not self.behaviour.log.exists():
            return []
        found = [json.loads(line) for line in self.behaviour.log.read_text().splitlines()]
        return [it for it in found if not host or it["host"] == host]


def write_profile(bundle: Path, path: Path) -> Path:
    """The how-to's profile in the versions that a bundle of the lab has: what is asked for must be found."""
    found = Bundle.read(bundle)
    images = {image.ref for image in found.images}
    document = tomlkit.parse((PROFILES_DIR / "seed.toml").read_text()).unwrap()
    document["name"] = "pretend"
    document["kubernetes"]["k3s"] = found.components["k3s"].version
    if full_reference(document["jobs"]["docker"]) not in images:
        document["jobs"] = {"docker": HOW_TO_PAIR.docker, "dind": HOW_TO_PAIR.dind}
    if document["daemonless"]["image"] not in images:
        document["daemonless"] = {"builder": "buildah", "image": "quay.io/buildah/stable:latest"}
    path.write_text(tomlkit.dumps(document))
    return path
