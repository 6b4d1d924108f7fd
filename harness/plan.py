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
from harness.versions import checks

if TYPE_CHECKING:
    from harness.provenance import Found

K3S = "k3s"
KIND_NODE = "kindest-node"
"""Components that are the Kubernetes of a cluster, by its kind."""
NODE_IMAGE = "docker.io/kindest/node:"
"""How kind's node images begin; a bundle may hold one."""


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
    wanted = _requested(profile, options, artifacts)
    played = _played(options, artifacts)
    stand_ins = {*played, *(it.component for it in found)}
    for name in played:
        wanted.setdefault(name, artifacts.stands_for.get(name) or artifacts.versions.get(name, ""))
    for it in found:
        wanted.setdefault(it.component, it.version)
    components = tuple(
        _component(name, version, artifacts, name in stand_ins) for name, version in wanted.items()
    )
    made = {"k3s": "an ephemeral k3s", "kind": "an ephemeral kind cluster"}
    cluster = made.get(options.cluster) or f"cluster {options.context or options.cluster}"
    gitlab = options.gitlab_url or "embedded"
    notes = checks.notes(profile, _node_image(profile, options, artifacts))
    return Subject(profile.name, cluster, artifacts.source, gitlab, components, notes)


def _requested(profile: Profile, options: ProvisionOptions, artifacts: Artifacts) -> dict[str, str]:
    """Versions asked for; of kind's Kubernetes its node image decides, whose tag is the version."""
    image = _node_image(profile, options, artifacts)
    if image is None:
        return dict(profile.requested)
    version = checks.kubernetes_of(image)
    kubernetes = {KIND_NODE: version} if version else {}
    return kubernetes | {name: version for name, version in profile.requested.items() if name != K3S}


def _node_image(profile: Profile, options: ProvisionOptions, artifacts: Artifacts) -> str | None:
    """kind's node image; empty where kind chooses it, None where the cluster is not kind's."""
    if options.cluster != "kind":
        return None
    return options.kind_image or profile.kind_image or bundled_node_image(artifacts)


def bundled_node_image(artifacts: Artifacts) -> str:
    """The node image for kind that artifacts bring along; empty where they bring none."""
    return next((it for it in artifacts.images() if it.startswith(NODE_IMAGE)), "")


def _played(options: ProvisionOptions, artifacts: Artifacts) -> tuple[str, ...]:
    """The artifacts' stand-ins, but for those of the other kind of cluster, which are not used."""
    unused = K3S if options.cluster == "kind" else KIND_NODE
    return tuple(it for it in artifacts.rehearsal if it != unused)


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
        return _played(self.options, self.artifacts)

    def version_lines(self) -> list[str]:
        """One line a component: what will run, and what for."""
        return [
            describe_version(component, wanted, self.artifacts)
            for component, wanted in _requested(self.profile, self.options, self.artifacts).items()
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
        image = _node_image(self.profile, self.options, self.artifacts)
        lines += [f"Note        {note}" for note in checks.notes(self.profile, image)]
        lines.append(f"Cluster     {self._cluster()}")
        lines.append(f"GitLab      {self._gitlab()}")
        lines.append(f"Layers      {', '.join(self.layers)}")
        lines.append(f"Run         {self.run_id}, state in {self.state_dir}, {self._end()}")
        return lines

    def _cluster(self) -> str:
        if self.options.cluster == "existing":
            return f"existing: {self.options.kubeconfig}, context {self.options.context}"
        if self.options.cluster == "kind":
            return f"ephemeral kind cluster {self.name!r} with a docker network of its own"
        return f"ephemeral k3s {self.name!r} in namespaces and a network of its own"

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
