"""What a run is going to verify and to do, printed before it does anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.artifacts import Artifacts
from harness.options import ProvisionOptions
from harness.profile import Profile
from harness.verdict import Component

if TYPE_CHECKING:
    from harness.provenance import Found


@dataclass(frozen=True)
class Subject:
    """What is going to be verified, known before anything exists."""

    profile: str
    cluster: str
    artifacts: str
    gitlab: str
    components: tuple[Component, ...]
    notes: tuple[str, ...] = ()

    @property
    def rehearsal(self) -> tuple[str, ...]:
        """Names of the components that are stand-ins."""
        return tuple(c.name for c in self.components if c.provenance != "real")

    def lines(self) -> list[str]:
        """For the reader; the first line says whether it is a rehearsal."""
        kind = (
            f"REHEARSAL (stand-ins: {', '.join(self.rehearsal)})"
            if self.rehearsal
            else "no stand-in known before it runs"
        )
        return [
            f"runner-conformance: verifies profile {self.profile} in {self.cluster}; {kind}",
            f"  {', '.join(map(_asked_for, self.components))}",
            f"  artifacts: {self.artifacts}; GitLab: {self.gitlab}",
            *(f"  note: {note}" for note in self.notes),
        ]


def subject_of(
    profile: Profile, artifacts: Artifacts, options: ProvisionOptions, found: Sequence[Found] = ()
) -> Subject:
    """Versions asked for and promised, and which parts are stand-ins: by what the artifacts say, and by what
    was ``found`` running."""
    wanted = dict(profile.requested)
    stand_ins = {*artifacts.rehearsal, *(it.component for it in found)}
    for name in artifacts.rehearsal:
        wanted.setdefault(name, artifacts.stands_for.get(name) or artifacts.versions.get(name, ""))
    for it in found:
        wanted.setdefault(it.component, it.version)
    components = tuple(
        _component(name, version, artifacts, name in stand_ins) for name, version in wanted.items()
    )
    cluster = (
        "an ephemeral k3s" if options.cluster == "k3s" else f"cluster {options.context or options.cluster}"
    )
    gitlab = options.gitlab_url or "embedded"
    return Subject(profile.name, cluster, artifacts.source, gitlab, components, profile.notes)


def _component(name: str, wanted: str, artifacts: Artifacts, stand_in: bool) -> Component:
    return Component(
        name=name,
        requested=artifacts.stands_for.get(name) or wanted,
        promised=artifacts.versions.get(name, wanted),
        provenance="stand-in" if stand_in else "real",
        source=artifacts.source,
    )


def _asked_for(component: Component) -> str:
    if not component.requested:  # of what somebody installed nothing may have been asked
        return f"{component.name} {component.reached} (found)"
    if component.provenance == "real" or component.requested == component.expected:
        return f"{component.name} {component.requested}"
    return f"{component.name} {component.expected} (stand-in for {component.requested})"


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
