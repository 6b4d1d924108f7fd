"""`pytest --cluster existing` as a person types it, against the lab's stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.ownership import HOME_VARIABLE
from selftests.acceptance.lab import Lab

ROOT = Path(__file__).parents[2]
READABLE = tuple(
    f"tests/{it}"
    for it in ("s01_cluster", "s02_cert_manager", "s03_olm", "s04_operator", "s05_runner", "s08_docker_sock")
)
TIMEOUT_S = 900
OUTPUT = "output.txt"


def folders(outcomes: Iterable[str]) -> tuple[str, ...]:
    """Where the tests of some outcomes are."""
    sections = {it.partition("/")[0].replace("-", "_") for it in outcomes}
    return tuple(it for it in READABLE if it.partition("_")[2] in sections)


@dataclass
class Ended:
    """How a run ended: exit code, output, conformance.json."""

    code: int
    output: str
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def outcomes(self) -> dict[str, dict[str, Any]]:
        return {it["id"]: it for it in self.document.get("outcomes", ())}

    def with_status(self, status: str) -> set[str]:
        return {name for name, it in self.outcomes.items() if it["status"] == status}


def words(lab: Lab, *, gitlab: bool = True, kubeconfig: Path | None = None) -> list[str]:
    """The options that name cluster, GitLab, and the bundle for the labels of its images."""
    named = ["--cluster=existing", f"--kubeconfig={kubeconfig or lab.kubeconfig}", "--context=theirs"]
    named.append(f"--artifacts={lab.bundle}")
    if gitlab:
        named += [f"--gitlab-url={lab.gitlab_url}", f"--gitlab-token-file={lab.token_file}"]
        if lab.registry_ca.exists():
            named.append(f"--gitlab-ca-file={lab.registry_ca}")
    return named


def environment(lab: Lab) -> dict[str, str]:
    """With a state home of the lab's own."""
    given = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return {**given, HOME_VARIABLE: str(lab.directory / "home")}


def command(scratch: Path, *options: str) -> list[str]:
    """pytest's command line."""
    report = f"--report-dir={scratch / 'report'}"
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", report, *options]


def begin(
    lab: Lab, scratch: Path, *options: str, tests: tuple[str, ...] = READABLE, **how: Any
) -> subprocess.Popen[str]:
    """Start one run, whose output goes to a file."""
    with (scratch / OUTPUT).open("w") as output:
        return subprocess.Popen(
            [*command(scratch, *words(lab, **how)), *options, *tests],
            cwd=ROOT,
            env=environment(lab),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )


def end(run: subprocess.Popen[str], scratch: Path) -> Ended:
    """Wait for its end."""
    try:
        code = run.wait(TIMEOUT_S)
    finally:
        run.kill()
    report = scratch / "report/conformance.json"
    document = json.loads(report.read_text()) if report.exists() else {}
    report.unlink(missing_ok=True)
    return Ended(code, (scratch / OUTPUT).read_text(), document)


def accept(lab: Lab, scratch: Path, *options: str, tests: tuple[str, ...] = READABLE, **how: Any) -> Ended:
    """One run to its end."""
    return end(begin(lab, scratch, *options, tests=tests, **how), scratch)
