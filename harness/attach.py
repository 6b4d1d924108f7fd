"""A stack that another process made, as this one uses it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.artifacts import Artifacts, open_artifacts
from harness.journal import CLUSTER_PLACE, note
from harness.kube import Kube
from harness.profile import Profile, load_profile
from harness.stack import Progress, StackContext, log_progress
from harness.stack.catalogue import LAYERS
from harness.state import StackState, cluster_dir, directory_of

if TYPE_CHECKING:
    from harness.cluster import Cluster


def attach(name_or_dir: str | Path, *, progress: Progress = log_progress) -> StackContext:
    """The context of a stack that another process made. Raises UsageError when there is none."""
    directory = directory_of(name_or_dir)
    state = StackState.load(directory)
    if state.options.accept:
        return _accepted(state, directory, progress)
    profile = load_profile(state.options.profile, state.options.overrides)
    cluster = cluster_of(state, directory)
    artifacts = _reopen(state, profile)
    context = StackContext(
        run_id=state.run_id,
        name=state.name,
        state_dir=directory,
        options=state.options,
        profile=profile.as_provided(artifacts.versions).with_images(state.images),
        artifacts=artifacts,
        cluster=cluster,
        kube=Kube(Path(state.kubeconfig), state.context),
        progress=progress,
        will_make=partial(note, state.run_id),
    )
    if state.options.cluster == "existing":  # what tests make there is written down as well
        context.kube.will_make = lambda kind, name: note(state.run_id, kind, name, CLUSTER_PLACE)
    for name, ok in state.layers.items():
        if ok and name in LAYERS:
            context.results[name] = LAYERS[name].attach(context)
    return context


def _accepted(state: StackState, directory: Path, progress: Progress) -> StackContext:
    """The context of a stack that is judged as it was found."""
    from harness.acceptance.beside import artifacts_beside
    from harness.acceptance.found import Found
    from harness.acceptance.reader import ReadingKube, depth_of

    found = Found.load(directory)
    profile = found.profile(state.options)
    return StackContext(
        run_id=state.run_id,
        name=state.name,
        state_dir=directory,
        options=state.options,
        profile=profile,
        artifacts=artifacts_beside(state.options.artifacts),
        cluster=cluster_of(state, directory),
        kube=ReadingKube(Path(state.kubeconfig), state.context, depth_of(state.options)),
        progress=progress,
        will_make=partial(note, state.run_id),
        found=found,
    )


def cluster_of(state: StackState, directory: Path) -> Cluster:
    """The cluster of a stack, running or not."""
    from harness.cluster import K3sCluster

    if state.options.cluster == "existing":
        from harness.cluster import ExistingCluster

        assert state.options.kubeconfig is not None  # it was checked when the stack was made
        return ExistingCluster(state.options.kubeconfig, state.options.context)
    if state.options.cluster == "kind":
        from harness.cluster import KindCluster

        return KindCluster.attach(cluster_dir(directory))
    return K3sCluster.attach(cluster_dir(directory))


def _reopen(state: StackState, profile: Profile) -> Artifacts:
    from harness.artifacts.bundle import Bundle
    from harness.artifacts.directory import BundleArtifacts

    if "/" in state.artifacts:  # checked when the stack was made
        return BundleArtifacts(Bundle.read(Path(state.artifacts)), profile, why="as when the stack was made")
    return open_artifacts(state.artifacts, profile, registry_auth=state.options.registry_auth)
