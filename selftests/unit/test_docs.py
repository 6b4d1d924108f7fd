"""The pages that people begin with: short, and true of what can be tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
