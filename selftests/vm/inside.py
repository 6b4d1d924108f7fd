"""What is done in the machine: look, run the suite, look again. What was seen goes to the directory `out`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from selftests.e2e.host_state import difference, snapshot

CHECKOUT, BUNDLE, OUT = Path("/srv/checkout"), Path("/srv/bundle"), Path("/srv/out")
_OF_NOBODY = "rc-00000000"
SUBTREE = Path("/sys/fs/cgroup/cgroup.subtree_control")


def main() -> None:
    """Entry point; run by systemd as conformance.service."""
    for tag, mode in (("bundle", "ro"), ("out", "rw")):
        options = f"trans=virtio,{mode},msize=262144"
        subprocess.run(["mount", "-t", "9p", "-o", options, tag, f"/srv/{tag}"], check=True)
    began = time.monotonic()
    seen: dict[str, object] = {"host": _host()}
    seen["doctor"] = _output(sys.executable, "-m", "harness.cli", "doctor")
    _write(seen)
    before = _state()
    suite = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *_sections(), f"--artifacts={BUNDLE}"]
    environment = {**os.environ, "RUNNER_CONFORMANCE_PATIENCE": _word("patience") or "1"}
    report = f"--report-dir={OUT / 'report'}"
    done = subprocess.run([*suite, report], cwd=CHECKOUT, check=False, env=environment)
    seen["suite"] = done.returncode
    after = _state()
    seen["left"] = {kind: sorted(found) for kind, found in difference(before, after).items()}
    seen["seconds"] = round(time.monotonic() - began)
    _write(seen)


def _sections() -> list[str]:
    """Directories of tests, from the kernel's command line: ``conformance=s01_cluster,s02_cert_manager``."""
    named = _word("conformance")
    return [str(CHECKOUT / "tests" / it) for it in named.split(",")] if named else [str(CHECKOUT / "tests")]


def _word(name: str) -> str:
    """A word ``name=…`` of the kernel's command line; empty if there is none."""
    words = Path("/proc/cmdline").read_text().split()
    return next((it.partition("=")[2] for it in words if it.startswith(f"{name}=")), "")


def _host() -> dict[str, str]:
    return {
        "kernel": os.uname().release,
        "cgroups": _output("stat", "-fc", "%T", "/sys/fs/cgroup").strip(),
        "subtree_control": SUBTREE.read_text().strip(),
        "first process": Path("/proc/1/comm").read_text().strip(),
        "AppArmor": Path("/sys/module/apparmor/parameters/enabled").read_text().strip(),
        "resolv.conf": str(Path("/etc/resolv.conf").resolve()),
        "forward policy": _output("sh", "-c", "iptables -S FORWARD | head -1").strip(),
        "docker": _output("docker", "info", "--format", "{{.ServerVersion}} {{.CgroupDriver}}").strip(),
        "uplink": _output("sh", "-c", "ip -o link show up | grep -o 'en.* mtu [0-9]*'").strip(),
    }


def _state() -> dict[str, set[str]]:
    return {**snapshot(_OF_NOBODY), "subtree_control": set(SUBTREE.read_text().split())}


def _output(*argv: str) -> str:
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _write(seen: dict[str, object]) -> None:
    (OUT / "seen.json").write_text(json.dumps(seen, indent=1))


if __name__ == "__main__":
    main()
