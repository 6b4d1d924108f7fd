"""The release of OLM that the stand-in is, and what differs between releases for an observer of the chain."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Release:
    """A version of OLM, by its data alone."""

    version: str

    @property
    def number(self) -> tuple[int, ...]:
        """The version as numbers that compare."""
        return tuple(int(part) for part in self.version.split("."))

    @property
    def lists_entries(self) -> bool:
        """A PackageManifest's channels list their entries (packagemanifest_types.go of v0.23.0)."""
        return self.number >= (0, 23)

    @property
    def opm_image(self) -> str:
        """What unpacks a bundle unless --opmImage says otherwise (cmd/catalog/main.go, until v0.24.0)."""
        name = "opm" if self.number >= (0, 25) else "upstream-opm-builder"
        return f"quay.io/operator-framework/{name}:latest"

    def said(self) -> str:
        """What `--version` prints."""
        return f"OLM version: {self.version}\ngit commit: stand-in of runner-conformance's lab\n"


HERE = Release(**tomllib.loads(Path(__file__).with_name("release.toml").read_text()))
