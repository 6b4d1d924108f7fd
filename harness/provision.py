"""Provisioning a stack: artifacts, cluster, layers; one object from the plan to the removal.

`up` runs all of it, and pytest runs the same steps in a graph of its own, with tests' steps on top:

>>> run = Provisioner(ProvisionOptions(profile="seed", keep=True, name="demo"))
>>> print("\\n".join(run.plan(["operator"]).lines()))
>>> run.up(["operator"])
>>> run.down()
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness import reap
from harness.artifacts import ONLINE, Artifacts, open_artifacts
from harness.elsewhere import cluster_id, remove_from_gitlab, remove_objects
from harness.errors import Cancelled, EnvironmentProblem, HarnessError, UsageError
from harness.gitlab.target import check as check_gitlab
from harness.graph import Graph, OnFailure, Step, StepState, StepStatus, closure
from harness.inputs import check_inputs, check_open_files, check_state_home
from harness.journal import (
    CGROUP,
    CLUSTER_PLACE,
    DIRECTORY,
    GITLAB_PLACE,
    KIND_CLUSTER,
    PROCESS,
    Journal,
)
from harness.kube import Kube
from harness.options import ProvisionOptions, check_options
from harness.ownership import new_run_id, stack_dir, state_home
from harness.patience import patience
from harness.plan import Plan, bundled_node_image
from harness.profile import Profile, load_profile
from harness.proxy import for_node
from harness.redact import redact
from harness.stack import Layer, Progress, StackContext, gitlab, log_progress
from harness.stack.catalogue import CLUSTER, layer_steps
from harness.state import StackLock, StackState, cluster_dir
from harness.teardown import attempt, remove_layers

if TYPE_CHECKING:
    from harness.artifacts.download import Transferred
    from harness.cluster import Cluster

ARTIFACTS = "artifacts"


class Provisioner:
    """One stack. Call ``start`` and ``down`` from the same long-lived thread; ``down`` at any moment.

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
        self.context: StackContext | None = None
        self._cancelled = threading.Event()
        self.graph = Graph(on_failure=OnFailure.STOP_ALL, changed=self._tell, cancelled=self._cancelled)
        self._progress = progress
        self._report = report
        self._transferred = transferred
        self._artifacts: Artifacts | None = None
        self._lock = StackLock(self.state_dir)
        self._journal: Journal | None = None
        self._cluster: Cluster | None = None
        self._made = False
        self._images: dict[str, str] = {}
        self._installed: dict[str, bool] = {}
        self._saving = threading.Lock()
        self._created = datetime.now(UTC).isoformat(timespec="seconds")
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="spawner")

    @property
    def artifacts(self) -> Artifacts:
        """Opened (downloaded, built) at first use."""
        if self._artifacts is None:
            self._artifacts = self.graph.run_here(Step(ARTIFACTS, self._open_artifacts))
        return self._artifacts

    def plan(self, layers: Collection[str]) -> Plan:
        """What ``up(layers)`` would do."""
        chosen = tuple(closure(self.steps(), [*layers, CLUSTER]))
        return Plan(
            self.profile, self.options, self.artifacts, self.name, self.run_id, self.state_dir, chosen[1:]
        )

    def steps(self) -> dict[str, Step[object]]:
        """The cluster and every layer."""
        return {CLUSTER: Step(CLUSTER, self.start_cluster), **layer_steps(self.install)}

    def up(self, layers: Collection[str]) -> StackContext:
        """Start the cluster and install the layers with all that they need; the first failure is raised.

        It stops the others, and is raised when all have ended, so that nothing is still being created while
        the caller takes down.
        """
        steps = closure(self.steps(), [*layers, CLUSTER])
        _ = self.artifacts
        start = replace(steps.pop(CLUSTER), needs=(ARTIFACTS,))
        self.graph.run_here(start)  # in this thread, where an interrupt ends it at once
        self.graph.run(steps)
        self.graph.raise_first_failure()
        assert self.context is not None  # start() made it
        return self.context

    def start(self) -> StackContext:
        """Take the name, start the cluster, write the state file; the context that layers install with."""
        if self.options.gitlab_url:
            check_gitlab(gitlab.external(self.options))
        artifacts = self.artifacts
        self._take_name()
        self.state_dir.chmod(0o700)
        self.save()
        with self._noting(CLUSTER):
            self._images = self._choose_images()
            self._cluster = make_cluster(
                self.options, self.profile, artifacts, self.run_id, self.name, self.state_dir
            )
            kubeconfig = self._cluster.start()
            kube = Kube(kubeconfig, self._cluster.context)
            self._write_down_places(kube)
        for note in self._cluster.notes:
            self._progress(CLUSTER, note)
        self.context = StackContext(
            run_id=self.run_id,
            name=self.name,
            state_dir=self.state_dir,
            options=self.options,
            profile=self.profile.as_provided(artifacts.versions).with_images(self._images),
            artifacts=artifacts,
            cluster=self._cluster,
            kube=kube,
            will_make=self._will_make,
            progress=self._progress,
            cancelled=self._cancelled,
            spawn=lambda function: self._spawner.submit(function).result(),
        )
        self.save()
        return self.context

    def start_cluster(self) -> None:
        """The same as a step, which leaves nothing but what the state file says."""
        self.start()

    def _take_name(self) -> None:
        """Begin the journal and take the name; nothing is made before that."""
        self._journal = Journal.begin(self.run_id, self.name, self.state_dir, beside=self.options.beside)
        try:
            self._lock.acquire()
            if (self.state_dir / "stack.json").exists():
                self._lock.release()
                raise UsageError(
                    f"stack {self.name!r} exists already",
                    f"attach to it with --reuse {self.name}, or `runner-conformance down {self.name}`",
                )
        except BaseException:
            self._journal.close()
            self._journal = None
            raise
        self._journal.will_make(DIRECTORY, str(self.state_dir))
        self._made = True
        if self.options.cluster == "k3s":
            self._journal.will_make(CGROUP, f"{self.run_id}-{self.name}")
        if self.options.cluster == "kind":
            from harness.cluster import KindOptions

            self._journal.will_make(
                KIND_CLUSTER, KindOptions(self.run_id, self.name, cluster_dir(self.state_dir)).cluster
            )
        if self.options.gitlab_url is None:
            self._journal.will_make(PROCESS, f"the embedded GitLab of {self.state_dir}")
        else:
            self._journal.place(GITLAB_PLACE, **gitlab.place(self.options))

    def _write_down_places(self, kube: Kube) -> None:
        """How to reach what outlives this host's part of the run: paths and addresses, no secret."""
        assert self._journal is not None  # the name was taken
        options = self.options
        if options.cluster == "existing":
            self._journal.place(
                CLUSTER_PLACE,
                kubeconfig=str(kube.kubeconfig.absolute()),
                context=kube.context or "",
                uid=cluster_id(kube),
            )
            kube.will_make = lambda kind, name: self._will_make(kind, name, CLUSTER_PLACE)

    def _will_make(self, kind: str, name: str, where: str) -> None:
        if self._journal is not None:
            self._journal.will_make(kind, name, where)

    def keep(self) -> None:
        """The stack is finished and stays: from now on only ``down`` removes it."""
        if self._journal is not None:
            self._journal.keep()
            self._journal.close()

    def install(self, layer: Layer) -> None:
        """Install a layer whose needs are installed, and write so into the state file."""
        context = self.context
        assert context is not None  # every layer needs the cluster
        if self._cancelled.is_set():
            raise Cancelled(f"{layer.name} was not begun: the run was interrupted")
        with self._noting(layer.name):
            context.results[layer.name] = layer.install(context)

    def save(self) -> None:
        """Write the state file; after each layer, so that others can attach to what is there."""
        if not self._made:
            return
        cluster = self._cluster
        with self._saving:
            StackState(
                name=self.name,
                run_id=self.run_id,
                pid=os.getpid(),
                created=self._created,
                options=self.options,
                artifacts=_reopen_as(self.artifacts, self.options.artifacts),
                kubeconfig=str(cluster.kubeconfig) if cluster and self.context else "",
                context=cluster.context if cluster else None,
                layers=dict(self._installed),
                images=self._images,
            ).save(self.state_dir)

    def cancel(self) -> None:
        """Stop every wait of this run at once."""
        self._cancelled.set()

    def _remove_elsewhere(self) -> list[str]:
        """Remove the run's objects from a cluster and a GitLab that outlive it."""
        context, left = self.context, list[str]()
        if context is None or self._journal is None:
            return left
        if self.options.cluster == "existing":
            entries = [(it.kind, it.name) for it in self._journal.open if it.where == CLUSTER_PLACE]
            left += _attempted(lambda: remove_objects(context.kube, self.run_id, entries[::-1]))
        if self.options.gitlab_url is not None:
            left += _attempted(lambda: remove_from_gitlab(gitlab.external(self.options), self.run_id))
        return left

    def down(self) -> list[str]:
        """Remove everything that this run made; what could not be removed. May be called more than once."""
        self.cancel()
        leftovers = remove_layers(self.context) if self.context else []
        leftovers += self._remove_elsewhere()
        stopped = attempt("cluster", self._cluster.stop) if self._cluster is not None else []
        leftovers += stopped
        if self._made and not stopped:
            leftovers += attempt(str(self.state_dir), partial(shutil.rmtree, self.state_dir))
            self._made = self.state_dir.exists()
        self._lock.release()
        if self._journal is not None:
            leftovers = reap.settle(self._journal, reap.AS_THE_RUN, leftovers)
            self._journal.close()
            self._journal = None
        self._spawner.shutdown(wait=False)
        return leftovers

    def _choose_images(self) -> dict[str, str]:
        """Of several images that may replace one, the first that can be had; said where it is another."""
        if self.options.cluster == "existing":
            return {}  # nothing is replaced there
        chosen = {}
        for old, alternatives in self.profile.image_alternatives.items():
            if len(alternatives) > 1:
                chosen[old] = self.artifacts.first_image(alternatives)
                if chosen[old] != alternatives[0]:
                    self._progress(CLUSTER, f"{chosen[old]} replaces {old}: {alternatives[0]} can't be had")
        return chosen

    def _open_artifacts(self) -> Artifacts:
        check_inputs(self.options)  # before a quarter of an hour of building
        check_host(self.options, self.state_dir)
        with self._noting(ARTIFACTS):
            return open_artifacts(
                self.options.artifacts,
                self.profile,
                report=self._report,
                transferred=self._transferred,
                registry_auth=self.options.registry_auth,
                build=self.options.cluster != "existing",
            )

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        """Whether the body succeeded, in the state file."""
        try:
            yield
            self._installed[name] = True
        except BaseException:
            self._installed[name] = False
            raise
        finally:
            if name != ARTIFACTS:  # before that there is no state
                self.save()

    def _tell(self, state: StepState) -> None:
        """A step's state as a line for the reader."""
        if state.name == ARTIFACTS or isinstance(state.error, Cancelled):
            return
        if state.status is StepStatus.RUNNING:
            self._progress(state.name, "starting" if state.name == CLUSTER else "installing")
        elif state.status is StepStatus.DONE:
            self._progress(state.name, "ready")
        elif state.status is StepStatus.FAILED and state.error is not None and state.name != CLUSTER:
            self._progress(state.name, f"failed: {(state.error.message or '?').splitlines()[0]}")


def check_host(options: ProvisionOptions, state_dir: Path) -> None:
    """What the run needs of this host.  Raises EnvironmentProblem for the first thing that it lacks."""
    patience()  # what it says is checked
    check_open_files()
    check_state_home(state_home())
    if options.cluster == "k3s":
        from harness.cluster import preflight

        outgoing = options.artifacts in ONLINE or options.gitlab_url is not None
        preflight.check_host(cluster_dir(state_dir), outgoing=outgoing)
    if options.cluster == "kind":
        from harness.cluster.kind import engine

        engine.check()
    if options.gitlab_url is None and options.cluster != "existing" and not shutil.which("git"):
        raise EnvironmentProblem(
            "the embedded GitLab serves repositories with git, which this host has not",
            "apt-get install git, or name your own GitLab with --gitlab-url",
        )


def make_cluster(
    options: ProvisionOptions,
    profile: Profile,
    artifacts: Artifacts,
    run_id: str,
    name: str,
    state_dir: Path,
) -> Cluster:
    """The cluster that the options ask for, not started."""
    from harness.cluster import ClusterOptions, K3sCluster

    if options.cluster == "existing":
        from harness.cluster import ExistingCluster

        assert options.kubeconfig is not None  # check_options() saw to it
        return ExistingCluster(options.kubeconfig, options.context)
    if options.cluster == "kind":
        return _kind_cluster(options, profile, artifacts, run_id, name, state_dir)
    program, storage = artifacts.registry() or (None, None)
    beyond = storage is None or options.gitlab_url is not None
    return K3sCluster(
        ClusterOptions(
            run_id=run_id,
            name=name,
            k3s=artifacts.k3s(),
            state_dir=cluster_dir(state_dir),
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


def _kind_cluster(
    options: ProvisionOptions,
    profile: Profile,
    artifacts: Artifacts,
    run_id: str,
    name: str,
    state_dir: Path,
) -> Cluster:
    from harness.cluster import KindCluster, KindOptions

    program, storage = artifacts.registry() or (None, None)
    return KindCluster(
        KindOptions(
            run_id=run_id,
            name=name,
            state_dir=cluster_dir(state_dir),
            beside=options.beside,
            image=options.kind_image or profile.kind_image,
            bundled_image=bundled_node_image(artifacts),
            program=artifacts.kind(),
            registry_program=program,
            storage=storage,
            registry_endpoints=artifacts.registry_endpoints(),
            unreachable_registries=options.unreachable_registries,
            docker_socket=options.docker_engine,
            registry_auth=artifacts.registry_auth(),
        )
    )


def _attempted(remove: Callable[[], list[str]]) -> list[str]:
    try:
        return remove()
    except HarnessError as error:
        return [redact(error.message)]


def _reopen_as(artifacts: Artifacts, choice: str) -> str:
    """How another process gets the same artifacts."""
    from harness.artifacts.directory import BundleArtifacts

    if isinstance(artifacts, BundleArtifacts):
        return str(artifacts.bundle.path)
    return "upstream" if choice == "auto" else choice
