"""The commands of docs/matrix.md for CI and for a timer, to the letter, but for where things are."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from harness.history.store import History

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "matrix.md").read_text()
SMALL = ["-p", "selftests.plugin.empty_provisioning", "-p", "no:cacheprovider", "-k", "cert-manager/crds"]


def night(words: list[str]) -> subprocess.CompletedProcess[str]:
    """What ``./run conformance WORDS`` runs, on a provisioning that provisions nothing."""
    command = [sys.executable, "-m", "pytest", "tests", *SMALL, *words]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def verdicts(history: Path) -> list[str]:
    with History(history) as past:
        return [run.verdict for run in past.runs()]


def test_the_job_after_the_nights_keeps_a_history_and_a_page(tmp_path: Path) -> None:
    (job,) = next(
        loaded.values()
        for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
        if isinstance(loaded := next(yaml.safe_load_all(block)), dict) and "since-when" in loaded
    )
    installing, commands = job["script"][:2], job["script"][2:]
    assert [".tox/own" in it for it in installing] == [True, True]
    (tmp_path / ".tox/own").mkdir(parents=True)
    (tmp_path / ".tox/own/bin").symlink_to(Path(sys.executable).parent)
    for number in (1, 2):
        assert night([f"--report-dir={tmp_path}/report"]).returncode == 1  # an empty cluster is red
        for command in commands:
            subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True)
        (kept,) = job["cache"]["paths"]
        assert len(verdicts(tmp_path / kept)) == number
    (page,) = job["artifacts"]["paths"]
    assert "cert-manager/crds" in (tmp_path / page).read_text()


def test_the_timer_is_woken_by_what_is_new_only(tmp_path: Path) -> None:
    units = {}
    for text in re.findall(r"```ini\n# (?:\S+)\n(.*?)```", PAGE, re.DOTALL):
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(text)
        units |= {name: dict(unit[name]) for name in unit.sections()}
    service = units["Service"]
    program, environment, *words = shlex.split(service["ExecStart"])
    assert program == f"{service['WorkingDirectory']}/run"
    assert environment == "conformance"
    assert units["Timer"]["OnCalendar"]
    place = f"/var/lib/{service['StateDirectory']}"
    words = [it.replace(place, str(tmp_path)) for it in words] + [f"--report-dir={tmp_path}/report"]
    first, second = night(words), night(words)
    assert first.returncode == 1, first.stdout[-3000:]
    assert second.returncode == 0, second.stdout[-3000:]
    assert verdicts(tmp_path / "history.sqlite") == 2 * ["DOES NOT CONFORM"]
