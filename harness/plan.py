"""What a run is going to do, printed before it does anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts import Artifacts
from harness.options import ProvisionOptions
from harness.profile import Profile


@dataclass(frozen=True)
class Plan:
    """The plan of a run."""

    profile: Profile
    options: ProvisionOptions
    artifacts: Artifacts
    name: str
    run_id: str
    state_dir: Path
    layers: tuple[str, ...]

    @property
    def rehearsal(self) -> tuple[str, ...]:
        """Components that are stand-ins."""
        return self.artifacts.rehearsal

    def version_lines(self) -> list[str]:
        """One line a component: what will run, and what for."""
        return [
            describe_version(component, wanted, self.artifacts)
            for component, wanted in self.profile.requested.items()
        ]

    def lines(self) -> list[str]:
        """The plan as text. The first line says whether it is a rehearsal."""
        what = f"profile {self.profile.name}" + (f": {self.profile.title}" if self.profile.title else "")
        first = f"Rehearsal of {what}" if self.rehearsal else f"Verifying {what}"
        lines = [first]
        if self.rehearsal:
            lines.append(f"Stand-ins   {', '.join(self.rehearsal)} (not the real programs)")
        lines.append(f"Artifacts   {self.artifacts.source}")
        lines += _block("Versions", self.version_lines())
        lines += [f"Note        {note}" for note in self.profile.notes]
        lines.append(f"Cluster     {self._cluster()}")
        lines.append(f"GitLab      {self._gitlab()}")
        lines.append(f"Layers      {', '.join(self.layers)}")
        lines.append(f"Run         {self.run_id}, state in {self.state_dir}, {self._end()}")
        return lines

    def _cluster(self) -> str:
        if self.options.cluster == "existing":
            return f"existing: {self.options.kubeconfig}, context {self.options.context}"
        kind = "ephemeral k3s" if self.options.cluster == "k3s" else self.options.cluster
        return f"{kind} {self.name!r} in namespaces and a network of its own"

    def _gitlab(self) -> str:
        if self.options.gitlab_url is None:
            return "embedded (API, runner protocol, git, registry authorisation)"
        return f"{self.options.gitlab_url}, project {self.options.gitlab_project or 'made for this run'}"

    def _end(self) -> str:
        return "kept at the end" if self.options.keep else "removed at the end"


def describe_version(component: str, wanted: str, artifacts: Artifacts) -> str:
    """``k3s v1.28.15+lab1 (stand-in for v1.28.5+k3s1)``"""
    found = artifacts.versions.get(component, wanted)
    if component in artifacts.rehearsal:
        return f"{component} {found} (stand-in for {artifacts.stands_for.get(component) or wanted})"
    stands_for = artifacts.stands_for.get(component)
    return f"{component} {found}" + (f" (instead of {stands_for})" if stands_for else "")


def _block(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title if index == 0 else '':<12}{line}" for index, line in enumerate(lines)]
