"""Runs the tests in reverse: none may lean on one before it. ``pytest -p selftests.reverse_order``"""

from __future__ import annotations

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.reverse()
