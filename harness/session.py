"""A run from plan to teardown: artifacts, cluster, a context for the layers, and all of it taken down.

The parts are separate so that pytest can run its own graph over the layers:

>>> run = Provisioner(ProvisionOptions(profile="seed", keep=True, name="demo"))
>>> print("\\n".join(run.plan(["operator"]).lines()))
>>> run.up(["operator"])           # = start() + install_layers() + save()
>>> run.down()
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.artifacts import ONLINE, Artifacts, open_artifacts
from harness.errors import EnvironmentProblem, HarnessError, UsageError
from harness.gitlab.client import check as check_gitlab
from harness.kube import Kube
from harness.options import CLUSTERS, ProvisionOptions
from harness.ownership import is_stack_name, new_run_id, stack_dir
from harness.plan import Plan
from harness.profile import Profile, load_profile
from harness.proxy import for_node
from harness.redact import redact
from harness.stack import Progress, StackContext, gitlab, install_layers, log_progress, select
from harness.stack.catalogue import LAYERS
from harness.state import StackLock, StackState, directory_of, names
from harness.timeline import Timeline

if TYPE_CHECKING:
    from harness.artifacts.download import Transferred
    from harness.cluster import Cluster

__all__ = ["LAYERS", "Provisioner", "attach", "take_down"]

CLUSTER = "cluster"
ARTIFACTS = "artifacts"


class Provisioner:
    """One run. Call ``start`` and ``down`` from the same long-lived thread; ``down`` at any moment.

    Raises UsageError for options that contradict each other, before anything exists.
    """

    def __init__(
        self,
        options: ProvisionOptions,
        *,
        progress: Progress = log_progress,
        report: Callable[[str], None] = lambda line: None,
        transferred: Transferred = lambda name, done, total: None,
    ) -> None:
        check_options(options)
        self.options = options
        self.profile: Profile = load_profile(options.profile, options.overrides)
        self.run_id = new_run_id()
        self.name = options.name or self.run_id
        self.state_dir = stack_dir(self.name)
        self.timeline = Timeline()
        self.context: StackContext | None = None
        self._progress = progress
        self._report = report
        self._transferred = transferred
        self._artifacts: Artifacts | None = None
        self._lock = StackLock(self.state_dir)
        self._cluster: Cluster | None = None
        self._made = False
        self._created = datetime.now(UTC).isoformat(timespec="seconds")
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="spawner")
        self._cancelled = threading.Event()

    @property
    def artifacts(self) -> Artifacts:
        """Opened (downloaded, built) at first use."""
        if self._artifacts is None:
            check_host(self.options, self.state_dir)  # before a quarter of an hour of building
            with self.timeline.phase(ARTIFACTS):
                self._artifacts = open_artifacts(
                    self.options.artifacts,
                    self.profile,
                    report=self._report,
                    transferred=self._transferred,
                    registry_auth=self.options.registry_auth,
                    build=self.options.cluster != "existing",
                )
        return self._artifacts

    def plan(self, layers: Collection[str]) -> Plan:
        """What ``up(layers)`` would do."""
        chosen = tuple(layer.name for layer in select(LAYERS, list(layers)))
        return Plan(
            self.profile, self.options, self.artifacts, self.name, self.run_id, self.state_dir, chosen
        )

    def start(self) -> StackContext:
        """Take the name, start the cluster, write the state file; the context that layers install with."""
        if self.options.gitlab_url:
            check_gitlab(gitlab.external(self.options))
        artifacts = self.artifacts
        self._lock.acquire()
        if (self.state_dir / "stack.json").exists():
            self._lock.release()
            raise UsageError(
                f"stack {self.name!r} exists already",
                f"attach to it with --reuse {self.name}, or `runner-conformance down {self.name}`",
            )
        self._made = True
        self.state_dir.chmod(0o700)
        self.save()
        self._progress(CLUSTER, "starting")
        with self.timeline.phase(CLUSTER, (ARTIFACTS,)):
            self._cluster = make_cluster(self.options, artifacts, self.run_id, self.name, self.state_dir)
            kubeconfig = self._cluster.start()
        self._progress(CLUSTER, "ready")
        self.context = StackContext(
            run_id=self.run_id,
            name=self.name,
            state_dir=self.state_dir,
            options=self.options,
            profile=self.profile.as_provided(artifacts.versions),
            artifacts=artifacts,
            cluster=self._cluster,
            kube=Kube(kubeconfig, self._cluster.context, scratch=_scratch(self.state_dir)),
            progress=self._progress,
            cancelled=self._cancelled,
            spawn=lambda function: self._spawner.submit(function).result(),
        )
        self.save()
        return self.context

    def up(self, layers: Collection[str]) -> StackContext:
        """Start the cluster and install the layers with all that they need; the first failure is raised."""
        context = self.start()
        try:
            install_layers(context, select(LAYERS, list(layers)), self.timeline, after=(CLUSTER,))
        finally:
            self.save()
        return context

    def save(self) -> None:
        """Write the state file; after each layer, so that others can attach to what is there."""
        if not self._made:
            return
        cluster = self._cluster
        StackState(
            name=self.name,
            run_id=self.run_id,
            pid=os.getpid(),
            created=self._created,
            options=self.options,
            artifacts=_reopen_as(self.artifacts, self.options.artifacts),
            kubeconfig=str(cluster.kubeconfig) if cluster and self.context else "",
            context=cluster.context if cluster else None,
            layers={phase.name: phase.ok for phase in self.timeline.phases if phase.end_s is not None},
            timeline=self.timeline.to_dict(),
        ).save(self.state_dir)

    def cancel(self) -> None:
        """Stop every wait of this run at once."""
        self._cancelled.set()

    def down(self) -> list[str]:
        """Remove everything that this run made; what could not be removed. May be called more than once."""
        self.cancel()
        leftovers = _remove_layers(self.context) if self.context else []
        if self._cluster is not None:
            leftovers += _attempt("cluster", self._cluster.stop)
        if self._made and not leftovers:
            leftovers += _attempt(str(self.state_dir), partial(shutil.rmtree, self.state_dir))
            self._made = bool(leftovers)
        if self.options.cluster == "k3s" and self._cluster is not None:
            leftovers += _still_there(self.run_id)
        self._lock.release()
        self._spawner.shutdown(wait=False)
        return leftovers


def attach(name_or_dir: str | Path, *, progress: Progress = log_progress) -> StackContext:
    """The context of a stack that another process made. Raises UsageError when there is none."""
    directory = directory_of(name_or_dir)
    state = StackState.load(directory)
    profile = load_profile(state.options.profile, state.options.overrides)
    cluster = _attach_cluster(state, directory)
    artifacts = _reopen(state, profile)
    context = StackContext(
        run_id=state.run_id,
        name=state.name,
        state_dir=directory,
        options=state.options,
        profile=profile.as_provided(artifacts.versions),
        artifacts=artifacts,
        cluster=cluster,
        kube=Kube(Path(state.kubeconfig), state.context, scratch=_scratch(directory)),
        progress=progress,
    )
    for name, ok in state.layers.items():
        if ok and name in LAYERS:
            context.results[name] = LAYERS[name].attach(context)
    return context


def take_down(name_or_dir: str | Path) -> list[str]:
    """Remove a stack that another process made and kept, and those made beside it; what could not be."""
    directory = directory_of(name_or_dir)
    state = StackState.load(directory)
    lock = StackLock(directory)
    lock.acquire()
    try:
        leftovers: list[str] = []
        for name in _beside(state.run_id):
            try:
                leftovers += take_down(name)
            except HarnessError as error:
                leftovers.append(f"stack {name}: {redact(str(error))}")
        if state.kubeconfig:
            leftovers += _remove_layers(attach(directory))
        leftovers += _attempt("cluster", _attach_cluster(state, directory).stop)
        if not leftovers:
            leftovers += _attempt(str(directory), partial(shutil.rmtree, directory))
        if state.options.cluster == "k3s":
            leftovers += _still_there(state.run_id)
        return leftovers
    finally:
        lock.release()


def _beside(run_id: str) -> list[str]:
    """Names of the stacks that were made beside the stack with this run id."""
    found = []
    for name in names():
        with suppress(HarnessError):  # nobody's, or another version's
            if StackState.load(directory_of(name)).options.beside == run_id:
                found.append(name)
    return found


def stale() -> list[str]:
    """What killed runs left: things that carry a run id, and stacks that nobody holds and that have ended."""
    from harness.cluster import find_leftovers

    return [str(it) for it in find_leftovers()] + [f"stack {path}" for path in _ended_stacks()]


def reap_all() -> list[str]:
    """Remove what ``stale`` names; a sentence for each thing that resisted."""
    from harness.cluster import find_leftovers, reap

    ended = _ended_stacks()
    resisted = []
    for directory in ended:
        for layer in LAYERS.values():
            resisted += _attempt(layer.name, partial(layer.abandon, directory))
    resisted += list(reap(find_leftovers()))
    for directory in ended:
        resisted += _attempt(str(directory), partial(shutil.rmtree, directory))
    return resisted


def _ended_stacks() -> list[Path]:
    """Stack directories that no process holds and whose cluster, if it was ours, doesn't run."""
    from harness.cluster import find_leftovers

    dead = {Path(it.name) for it in find_leftovers() if it.kind == "directory"}
    found = []
    for name in names():
        directory = directory_of(name)
        lock = StackLock(directory)
        try:
            lock.acquire()
        except UsageError:
            continue
        kept = StackState.load(directory).options
        cluster = directory / CLUSTER
        elsewhere = kept.keep and kept.cluster != "k3s"
        if not elsewhere and (cluster in dead or not (cluster / "cluster.json").exists()):
            found.append(directory)
        lock.release()
    return found


def check_options(options: ProvisionOptions) -> None:
    """Contradictions are usage errors that say the consequence."""
    if options.name is not None and not is_stack_name(options.name):
        raise UsageError(
            f"--name {options.name!r} can't name a stack",
            "use up to 32 lower-case letters, digits and dashes",
        )
    if options.cluster not in CLUSTERS:
        raise UsageError(f"--cluster {options.cluster!r} is unknown", f"it is one of {', '.join(CLUSTERS)}")
    if options.cluster == "existing" and not (options.kubeconfig and options.context):
        raise UsageError(
            "--cluster existing needs --kubeconfig and --context, both explicit: "
            "otherwise the stack would be installed wherever kubectl happens to point",
        )
    if options.cluster != "existing" and (options.kubeconfig or options.context):
        raise UsageError(
            f"--kubeconfig and --context would be ignored with --cluster {options.cluster}",
            "add --cluster existing, or leave them out",
        )
    if options.gitlab_url is not None and options.gitlab_token_file is None:
        raise UsageError(
            "--gitlab-url needs --gitlab-token-file: without a token no runner can be created there",
            "put a token with scope api into a file that only you can read",
        )
    if options.gitlab_url is None and (options.gitlab_token_file or options.gitlab_project):
        raise UsageError("--gitlab-token-file and --gitlab-project would be ignored without --gitlab-url")


def check_host(options: ProvisionOptions, state_dir: Path) -> None:
    """What the run needs of this host.  Raises EnvironmentProblem for the first thing that it lacks."""
    if options.cluster == "k3s":
        from harness.cluster import preflight

        outgoing = options.artifacts in ONLINE or options.gitlab_url is not None
        preflight.check_host(state_dir / CLUSTER, outgoing=outgoing)
    if options.gitlab_url is None and options.cluster != "existing" and not shutil.which("git"):
        raise EnvironmentProblem(
            "the embedded GitLab serves repositories with git, which this host has not",
            "apt-get install git, or name your own GitLab with --gitlab-url",
        )


def make_cluster(
    options: ProvisionOptions, artifacts: Artifacts, run_id: str, name: str, state_dir: Path
) -> Cluster:
    """The cluster that the options ask for, not started."""
    from harness.cluster import ClusterOptions, K3sCluster

    if options.cluster == "existing":
        from harness.cluster import ExistingCluster

        assert options.kubeconfig is not None  # check_options() saw to it
        return ExistingCluster(options.kubeconfig, options.context)
    if options.cluster == "kind":
        from harness.cluster import KindCluster

        return KindCluster(name, state_dir / CLUSTER)
    program, storage = artifacts.registry() or (None, None)
    beyond = storage is None or options.gitlab_url is not None
    return K3sCluster(
        ClusterOptions(
            run_id=run_id,
            name=name,
            k3s=artifacts.k3s(),
            state_dir=state_dir / CLUSTER,
            registry_program=program,
            storage=storage,
            registry_endpoints=artifacts.registry_endpoints(),
            unreachable_registries=options.unreachable_registries,
            docker_engine=artifacts.docker_engine() if options.docker_engine else None,
            keep=options.keep,
            outgoing=beyond,
            proxies=for_node() if beyond else {},
            registry_auth=artifacts.registry_auth(),
        )
    )


def _attach_cluster(state: StackState, directory: Path) -> Cluster:
    from harness.cluster import K3sCluster

    if state.options.cluster == "existing":
        from harness.cluster import ExistingCluster

        assert state.options.kubeconfig is not None  # it was checked when the stack was made
        return ExistingCluster(state.options.kubeconfig, state.options.context)
    if state.options.cluster == "kind":
        from harness.cluster import KindCluster

        return KindCluster(state.name, directory / CLUSTER)
    return K3sCluster.attach(directory / CLUSTER)


def _remove_layers(context: StackContext) -> list[str]:
    """What layers made outside the cluster, newest first."""
    leftovers: list[str] = []
    for layer in reversed(list(LAYERS.values())):
        leftovers += _attempt(layer.name, partial(layer.remove, context))
    return leftovers


def _still_there(run_id: str) -> list[str]:
    """Teardown isn't believed but looked at."""
    from harness.cluster import find_leftovers

    return [str(it) for it in find_leftovers(run_id, running=True)]


def _attempt(what: str, remove: Callable[[], object]) -> list[str]:
    """Teardown goes on whatever happens; what went wrong is told at the end."""
    try:
        remove()
    except (HarnessError, OSError) as error:
        return [f"{what}: {redact(str(error))}"]
    return []


def _scratch(directory: Path) -> Path:
    """Where the API client puts keys that it needs as files; goes with the stack, also after kill -9."""
    scratch = directory / "scratch"
    scratch.mkdir(mode=0o700, exist_ok=True)
    return scratch


def _reopen_as(artifacts: Artifacts, choice: str) -> str:
    from harness.artifacts.directory import BundleArtifacts

    if isinstance(artifacts, BundleArtifacts):
        return str(artifacts.bundle.path)
    return "upstream" if choice == "auto" else choice


def _reopen(state: StackState, profile: Profile) -> Artifacts:
    from harness.artifacts.bundle import Bundle
    from harness.artifacts.directory import BundleArtifacts

    if "/" in state.artifacts:  # checked when the stack was made
        return BundleArtifacts(Bundle.read(Path(state.artifacts)), profile, why="as when the stack was made")
    return open_artifacts(state.artifacts, profile, registry_auth=state.options.registry_auth)
