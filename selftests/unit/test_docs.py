"""The pages that people begin with: short, and true of what can be tested."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from harness.cli import app
from harness.options import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_front_door_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


def test_every_option_is_on_its_page() -> None:
    page = (ROOT / "docs" / "options.md").read_text()
    assert [
        option.flag for option in OPTIONS if f"{option.flag} " not in page and f"{option.flag}`" not in page
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_every_room_is_on_the_map() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    packages = [path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")]
    rooms = [*packages, *(path.name for path in (ROOT / "selftests").iterdir() if path.is_dir())]
    assert [room for room in rooms if f"{room}" not in text and not room.startswith("__")] == []


def commands() -> list[tuple[str, list[str]]]:
    """Every `runner-conformance …` of the pages, in words; what follows it in a table or listing is cut."""
    found = []
    for page in PAGES:
        for line in page.read_text().splitlines():
            for text in re.findall(r"(?:^#? *|[/`(\"])runner-conformance ([a-z][^`|)]*)", line):
                words = shlex.split(re.split(r"  +| > |\$\(", text)[0].strip(' "'))
                found.append((f"{page.name}: {' '.join(words)}", words))
    return found


@pytest.mark.parametrize(("where", "words"), commands(), ids=lambda it: it if isinstance(it, str) else "")
def test_commands_of_the_pages_are_there(where: str, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    rest = words
    while commands := getattr(command, "commands", None):  # a group, whichever click typer brings along
        assert rest, f"{where} is no command"
        assert rest[0] in commands, f"{where}: there is no {rest[0]}"
        command, rest = commands[rest[0]], rest[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.partition("=")[0] for word in rest[: rest.index("--") if "--" in rest else None]]
    assert [word for word in given if word.startswith("-") and word not in known] == []


@pytest.fixture(scope="module")
def options_of_pytest() -> str:
    command = [sys.executable, "-m", "pytest", "--help", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_the_main_job_on_the_pages_are_there(page: Path, options_of_pytest: str) -> None:
    given = set()
    for line in re.findall(r"(?:run conformance|# pytest|\$ pytest) (.*(?:\\\n.*)*)", page.read_text()):
        given |= set(re.findall(r"(?<!\S)(--[a-z][a-z-]+)", line.split("  ")[0]))
    assert [
        it for it in sorted(given) if not re.search(rf"^  (?:-\w, )?{it}\b", options_of_pytest, re.MULTILINE)
    ] == []


def test_the_cron_job_reads_the_kubeconfig_that_it_brings() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "matrix.md").read_text(), re.DOTALL)
    settings, job = next(list(yaml.safe_load_all(it)) for it in blocks if "CronJob" in it)
    kubeconfig = yaml.safe_load(settings["data"]["kubeconfig"])
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (script,) = container["args"]
    assert "--context here" in script
    assert [it["name"] for it in kubeconfig["contexts"]] == ["here"]
    mounts = {it["name"]: it["mountPath"] for it in container["volumeMounts"]}
    assert f"--kubeconfig={mounts['settings']}/kubeconfig " in script
    assert f"--history={mounts['history']}/" in script
    assert {it["name"] for it in pod["volumes"]} == set(mounts)
