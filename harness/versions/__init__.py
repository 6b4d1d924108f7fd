"""Versions as data: what differs between them, which are known, and which go together."""

from __future__ import annotations

from harness.versions.table import Difference, Releases, Row, version_tuple

__all__ = ["Difference", "Releases", "Row", "version_tuple"]
