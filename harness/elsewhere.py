"""What a run made in somebody's cluster or GitLab: found again by its run id, and removed.

Nothing is deleted because of its name. A Kubernetes object must carry the run's label at that moment, and is
deleted only as the object that was looked at (its uid). In GitLab the run's id is in a project's path and
description, in a runner's description, in the name of a branch, in the path of images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gitlab
import requests

from harness.errors import EnvironmentProblem, HarnessError
from harness.gitlab.client import GitLabTarget, check
from harness.gitlab.errors import explain
from harness.kube import Kube, Object
from harness.kube_errors import ApiError, KindUnknown
from harness.ownership import LABEL, owned_by
from harness.wait import Watched, wait_for

NAMESPACE = "v1/Namespace"
RUNNER = "apps.gitlab.com/v1beta2/Runner"
REMOVE_TIMEOUT_S = 120.0
"""A Runner's pod unregisters first, and its grace period is 30 s."""


@dataclass(frozen=True)
class Thing:
    """One thing elsewhere: what it is called there, and how it is removed."""

    name: str
    remove: Callable[[], object]

    def __str__(self) -> str:
        return self.name


# -- a cluster --------------------------------------------------------------------------------------------


def cluster_id(kube: Kube) -> str:
    """What tells a cluster from another one behind the same address: the uid of its kube-system."""
    try:
        found = kube.get(NAMESPACE, "kube-system")
    except ApiError:
        return ""  # a user who may see nothing cluster-wide
    return str(found["metadata"].get("uid", "")) if found else ""


def reach_cluster(how: Mapping[str, str], kubeconfig: Path | None, context: str | None) -> Kube:
    """The cluster of a journal, by the given credentials or by those that the run had.

    Raises EnvironmentProblem when they lead nowhere or to another cluster.
    """
    kube = Kube(kubeconfig or Path(how.get("kubeconfig", "")), context or how.get("context") or None)
    kube.request("GET", "/version", timeout_s=10)
    if how.get("uid") and (found := cluster_id(kube)) and found != how["uid"]:
        raise EnvironmentProblem(
            f"{kube.kubeconfig} (context {kube.context}) leads to another cluster by now",
            "give --kubeconfig and --context of the cluster that the run used",
        )
    return kube


def objects_of(kube: Kube, run_id: str, written_down: Iterable[tuple[str, str]] = ()) -> list[Thing]:
    """The run's objects that are there now, Runners first and namespaces last.

    Its namespaces are found by their label; all else by ``written_down``: (kind, "namespace/name" or name).
    """
    wanted = dict.fromkeys(written_down)
    spaces = kube.list(NAMESPACE, label_selector=f"{LABEL}={run_id}")
    wanted |= dict.fromkeys((NAMESPACE, it["metadata"]["name"]) for it in spaces)
    ours = {it["metadata"]["name"] for it in spaces}
    for space in ours:
        wanted |= dict.fromkeys((RUNNER, f"{space}/{name}") for name in _runners(kube, space))
    found = []
    for kind, path in sorted(wanted, key=lambda it: (it[0] == NAMESPACE, it[0] != RUNNER)):
        space, _, name = path.rpartition("/")
        if kind not in (RUNNER, NAMESPACE) and space in ours:
            continue  # goes with its namespace
        manifest = kube.get(kind, name, space or None)
        if manifest is not None and owned_by(manifest, run_id):
            found.append(Thing(f"{kind} {path}", partial(_delete, kube, kind, manifest)))
    return found


def remove_objects(
    kube: Kube,
    run_id: str,
    written_down: Iterable[tuple[str, str]] = (),
    *,
    timeout_s: float = REMOVE_TIMEOUT_S,
    progress: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Delete the run's objects and wait until they are gone; a sentence for each that stays, with why."""
    entries = list(written_down)
    left = []
    for thing in objects_of(kube, run_id, entries):
        try:
            thing.remove()
        except HarnessError as error:
            left.append(f"{thing}: {error.message}")
    if left:
        return left
    try:
        wait_for(
            lambda: objects_of(kube, run_id, entries),
            ready=lambda there: not there,
            what=f"all objects of {run_id} are gone",
            timeout_s=timeout_s,
            kube=kube,
            watch=[Watched(NAMESPACE)],
            describe=lambda there: ", ".join(map(str, there)),
            progress=progress,
        )
    except HarnessError as error:
        return [
            f"{thing}: {_why_it_stays(kube, thing) or error.message}" for thing in objects_of(kube, run_id)
        ]
    return []


def _why_it_stays(kube: Kube, thing: Thing) -> str:
    """A namespace says in its conditions what keeps it: a finalizer, an API that nobody serves any more."""
    kind, _, name = thing.name.partition(" ")
    found = kube.get(NAMESPACE, name) if kind == NAMESPACE else None
    conditions = ((found or {}).get("status") or {}).get("conditions") or ()
    return "; ".join(str(it.get("message")) for it in conditions if it.get("status") == "True")


def _delete(kube: Kube, kind: str, manifest: Object) -> None:
    """Delete this very object: one of the same name that was made since stays."""
    metadata = manifest["metadata"]
    path = kube.kind(kind).path(metadata.get("namespace"), metadata["name"])
    body = {"propagationPolicy": "Background", "preconditions": {"uid": metadata["uid"]}}
    try:
        kube.request("DELETE", path, body=body)
    except ApiError as error:
        if error.status not in (404, 409):
            raise


def _runners(kube: Kube, namespace: str) -> list[str]:
    try:
        return [it["metadata"]["name"] for it in kube.list(RUNNER, namespace)]
    except KindUnknown:
        return []  # the operator was not there


# -- a GitLab ---------------------------------------------------------------------------------------------


def made_in_gitlab(target: GitLabTarget, run_id: str) -> list[Thing]:
    """What carries the run's id in a GitLab: runners, then its projects, or its branches in the user's one.

    Raises UsageError or EnvironmentProblem where the GitLab can't be asked.
    """
    client = check(target)
    mark = re.compile(rf"(?<![0-9a-z]){re.escape(run_id)}(?![0-9a-z])")
    found: list[Thing] = []
    doing = f"looking for what {run_id} made"
    try:
        for runner in client.runners.list(get_all=True):
            if mark.search(str(runner.description or "")):
                remove = partial(client.runners.delete, runner.id)
                found.append(Thing(f"runner {runner.id} ({runner.description})", remove))
        for project in client.projects.list(search=run_id, owned=True, get_all=True):
            if mark.match(str(project.path)) and mark.search(str(project.description or "")):
                remove = partial(_remove_project, client, project.id)
                found.append(Thing(f"project {project.path_with_namespace}", remove))
        if target.project:
            found += _in_users_project(client.projects.get(target.project), mark)
    except (gitlab.GitlabError, requests.exceptions.RequestException) as error:
        raise explain(error, doing, target.url) from error
    return found


def _in_users_project(project: Any, mark: re.Pattern[str]) -> list[Thing]:
    found = []
    for pipeline in project.pipelines.list(get_all=True):
        if mark.match(str(pipeline.ref)):
            remove = partial(project.pipelines.delete, pipeline.id)
            found.append(Thing(f"pipeline {pipeline.id} on {pipeline.ref}", remove))
    for branch in project.branches.list(get_all=True):
        if mark.match(str(branch.name)):
            found.append(Thing(f"branch {branch.name}", partial(project.branches.delete, branch.name)))
    for repository in _repositories(project):
        if mark.search(str(repository.path)) and (tags := repository.tags.list(get_all=True)):
            remove = partial(_remove_images, repository, [tag.name for tag in tags])
            found.append(Thing(f"images {repository.path}", remove))
    return found


def _repositories(project: Any) -> list[Any]:
    try:
        return list(project.repositories.list(get_all=True))
    except gitlab.GitlabError as error:
        if error.response_code in (403, 404):
            return []  # a project without a registry
        raise


def _remove_images(repository: Any, tags: Iterable[str]) -> None:
    for tag in tags:
        repository.tags.delete(tag)
    repository.delete()  # the empty name; GitLab does it later


def _remove_project(client: Any, number: int) -> None:
    project = client.projects.get(number)
    for repository in _repositories(project):
        repository.delete()  # GitLab refuses to delete a project at once whose registry has tags
    project.delete()
    try:
        # Newer GitLabs only mark it; a second request removes it for good.
        marked = client.projects.get(number)
        if marked.attributes.get("marked_for_deletion_on"):
            full_path = marked.path_with_namespace
            client.http_delete(f"/projects/{number}", permanently_remove=True, full_path=full_path)
    except gitlab.GitlabError as error:
        if error.response_code != 404:
            raise


def remove_from_gitlab(target: GitLabTarget, run_id: str) -> list[str]:
    """Remove it and look again; a sentence for each thing that stays."""
    left: dict[str, str] = {}
    for thing in made_in_gitlab(target, run_id):
        try:
            thing.remove()
        except (gitlab.GitlabError, requests.exceptions.RequestException) as error:
            if getattr(error, "response_code", None) != 404:
                left[thing.name] = explain(error, f"removing {thing}", target.url).message
    return [f"{it}: {left.get(it.name, 'it is still there')}" for it in made_in_gitlab(target, run_id)]
