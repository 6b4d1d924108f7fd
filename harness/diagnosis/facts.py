"""Facts read from Kubernetes objects: plain dicts in, nothing asked of anybody."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.diagnosis.model import Fact

Object = dict[str, Any]

BAD_WAITING = frozenset(
    (
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    )
)
_PULL = frozenset(
    (
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
    )
)
_ENDED_BY_KUBELET = (137, 143)
"""SIGKILL, SIGTERM: who ended a container, its events say."""
_REFUSED = frozenset(("FailedCreate", "ReplicaSetCreateError"))
_SOURCE_OF_EVENT = {
    "FailedCreatePodSandBox": "sandbox",
    "FailedMount": "mount",
    "FailedAttachVolume": "mount",
    "Pulling": "pull",
}
HARMLESS_WARNINGS = frozenset(
    (
        "InvalidDiskCapacity",  # every kubelet says it at its start
        "FailedScheduling",  # stays when a pod has long been scheduled; one that isn't says so itself
        "BadConfig",  # cert-manager on a certificate without a subject, which it issues all the same
        "Failed",  # told by the container that waits
        "BackOff",  # likewise
        "Evicted",  # told by the pod that has failed
    )
)


def pods_facts(pods: Sequence[Object], events: Sequence[Object] = ()) -> list[Fact]:
    """What is wrong with pods, but for those that are going and those that others have replaced."""
    standing = without_replaced(pods)
    return [fact for pod in standing for fact in pod_facts(pod, events)]


def without_replaced(pods: Sequence[Object]) -> list[Object]:
    """The pods that count: not on their way out, and no failed one whose owner has made another since.

    An evicted pod, one of a node that was shut down, one of a Job with tries left: each stays as Failed
    beside the one that took its place.
    """
    going = [pod for pod in pods if pod["metadata"].get("deletionTimestamp")]
    left = [pod for pod in pods if pod not in going]
    return [pod for pod in left if not (_failed(pod) and _has_successor(pod, left))]


def _failed(pod: Object) -> bool:
    return bool(pod.get("status", {}).get("phase") == "Failed")


def _has_successor(pod: Object, pods: Sequence[Object]) -> bool:
    mine = owner(pod)
    if not mine:
        return False
    born = str(pod["metadata"].get("creationTimestamp", ""))
    return any(
        other is not pod
        and owner(other) == mine
        and (not _failed(other) or str(other["metadata"].get("creationTimestamp", "")) > born)
        for other in pods
    )


def owner(manifest: Mapping[str, Any]) -> str:
    """The uid of the object's controller, empty where it has none."""
    references = manifest.get("metadata", {}).get("ownerReferences") or ()
    return next((str(it["uid"]) for it in references if it.get("controller")), "")


def _owner_kind(pod: Object) -> str:
    references = pod["metadata"].get("ownerReferences") or ()
    return next((str(it.get("kind", "")) for it in references if it.get("controller")), "")


def pod_facts(pod: Object, events: Sequence[Object] = ()) -> list[Fact]:
    """What is wrong with one pod; empty where nothing is."""
    if pod["metadata"].get("deletionTimestamp"):
        return []
    status = pod.get("status", {})
    where = f"pod {pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"
    subject = owner(pod) or where
    if status.get("phase") == "Failed":
        return [_failed_pod(pod, where, subject)]
    found = [fact for it in containers(status) if (fact := _container(where, subject, it, pod, events))]
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            text = condition.get("message", "")
            found.append(
                Fact("schedule", where, text, condition.get("reason", ""), subject=subject, seen=pod)
            )
    if not found and status.get("phase") == "Pending":
        found += _pending(pod, where, subject, events)
    return found


def _failed_pod(pod: Object, where: str, subject: str) -> Fact:
    status = pod["status"]
    text = status.get("message") or _ends(status) or "failed"
    source = "try" if _owner_kind(pod) == "Job" else "pod"
    return Fact(source, where, text, status.get("reason", ""), subject=subject, seen=pod)


def _ends(status: Mapping[str, Any]) -> str:
    """How the containers of a failed pod ended."""
    ended = [
        f"container {it['name']} {container_end(it['state']['terminated'])}"
        for it in containers(status)
        if it.get("state", {}).get("terminated", {}).get("exitCode")
    ]
    return ", ".join(ended)


def container_end(terminated: Mapping[str, Any]) -> str:
    """``ended 137 (OOMKilled): its last words``."""
    text = f"ended {terminated.get('exitCode')} ({terminated.get('reason', '')})"
    return f"{text}: {terminated['message']}" if terminated.get("message") else text


def _container(
    where: str, subject: str, container: Object, pod: Object, events: Sequence[Object]
) -> Fact | None:
    waiting = container.get("state", {}).get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    image = container.get("image", "")
    here = f"{where} container {container['name']} ({image})"
    mine = f"{subject} {container['name']}"
    if reason in _PULL:
        return Fact("pull", here, _pull_words(pod, image, events) or message, reason, subject=mine, seen=pod)
    if reason == "CrashLoopBackOff" or (not reason and _crashed_now(container)):
        ended = container.get("lastState", {}).get("terminated") or container["state"].get("terminated") or {}
        restarts = container.get("restartCount", 0)
        text = f"crashed: {container_end(ended)}, {restarts} restarts" if ended else f"crashed: {message}"
        if ended.get("exitCode") in _ENDED_BY_KUBELET and (probe := _liveness(pod, container, events)):
            text = f"{text}; {probe}"
        seen = {**pod, "restartCount": restarts}
        return Fact("container", here, text, reason or "Error", subject=mine, seen=seen)
    if reason in BAD_WAITING:
        return Fact("container", here, message, reason, subject=mine, seen=pod)
    return None


def _liveness(pod: Object, container: Object, events: Sequence[Object]) -> str:
    """What the kubelet says of a container's liveness probe that failed, for which it ends it."""
    for event in sorted(_about(pod, events), key=event_time, reverse=True):
        place = str(event.get("involvedObject", {}).get("fieldPath", ""))
        message = str(event.get("message", ""))
        of_it = f"{{{container['name']}}}" in place or not place
        if of_it and message.startswith("Liveness probe failed"):
            return message
    return ""


def _crashed_now(container: Object) -> bool:
    """It has just ended with an error, before the kubelet has begun to back off."""
    ended = container.get("state", {}).get("terminated") or {}
    return bool(ended.get("exitCode")) and not container.get("ready")


def _pull_words(pod: Object, image: str, events: Sequence[Object]) -> str:
    """The kubelet's own words; the container's state often only says that it backs off."""
    for event in sorted(_about(pod, events), key=event_time, reverse=True):
        message = str(event.get("message", ""))
        if event.get("reason") == "Failed" and (image or "\0") in message:
            return message
    return ""


def _about(pod: Object, events: Sequence[Object]) -> Iterator[Object]:
    uid = pod["metadata"].get("uid")
    return (it for it in events if it.get("involvedObject", {}).get("uid") in (None, uid))


def _pending(pod: Object, where: str, subject: str, events: Sequence[Object]) -> Iterator[Fact]:
    """Why a pod that has a node does not start: only its newest event says it, older ones are over."""
    newest = max(_about(pod, events), key=event_time, default=None)
    source = _SOURCE_OF_EVENT.get(str((newest or {}).get("reason", "")))
    if newest is not None and source is not None:
        text, reason = str(newest.get("message", "")), str(newest["reason"])
        yield Fact(source, where, text, reason, subject=subject, seen=pod)


def role_facts(node: str, missing: Collection[str]) -> list[Fact]:
    """Roles that a node should have and has not."""
    return [Fact("node", f"node {node}", f"has not the role {it}") for it in sorted(missing)]


def orphan_facts(objects: Sequence[Object]) -> list[Fact]:
    """What nobody will remove: it has no owner whose end would end it, and is not being deleted."""
    found = []
    for it in objects:
        about = it["metadata"]
        if not about.get("ownerReferences") and not about.get("deletionTimestamp"):
            where = f"{it.get('kind', 'object')} {about.get('namespace', '')}/{about['name']}"
            found.append(Fact("object", where, "has no owner, and stays", subject=where, seen=it))
    return found


def events_facts(events: Sequence[Object], objects: Sequence[Object]) -> list[Fact]:
    """What controllers say of objects that exist (``objects``: uid is asked), newest first.

    What befell a pod that is gone, or ready by now, is over; what a controller could not create matters as
    long as its object does.
    """
    alive = {str(it["metadata"].get("uid")): it for it in objects}
    found = []
    for event in sorted(events, key=event_time, reverse=True):
        involved = event.get("involvedObject", {})
        of = alive.get(str(involved.get("uid")))
        if event.get("type") != "Warning" or event.get("reason") in HARMLESS_WARNINGS or of is None:
            continue
        if involved.get("kind") == "Pod" and (is_ready(of) or event.get("reason") in _SOURCE_OF_EVENT):
            continue  # the pod itself tells what it waits for
        if event.get("reason") in _REFUSED and not _still_refused(of):
            continue
        found.append(_event_fact(event, of))
    return found


def _still_refused(of: Object) -> bool:
    """A ReplicaSet that has as many pods as it wants is over it, and so is a Job with a pod."""
    status = of.get("status", {})
    if of.get("kind") == "Job":
        return not status.get("active") and not status.get("succeeded")
    return bool(status.get("replicas", 0) < of.get("spec", {}).get("replicas", 1))


def _event_fact(event: Object, of: Object) -> Fact:
    involved, reason = event["involvedObject"], str(event.get("reason", ""))
    where = f"{involved.get('kind', '')} {involved.get('namespace', '')}/{involved.get('name', '')}"
    source = "create" if reason in _REFUSED else "container" if reason == "Unhealthy" else "condition"
    return Fact(source, where, str(event.get("message", "")), reason, subject=owner(of) or where, seen=event)


def deployment_facts(deployment: Mapping[str, Any]) -> list[Fact]:
    """What a Deployment says itself: pods refused, its deadline passed."""
    where = f"Deployment {deployment['metadata'].get('namespace', '')}/{deployment['metadata']['name']}"
    found = []
    if deployment.get("spec", {}).get("replicas", 1) == 0:
        found.append(Fact("object", where, "asks for 0 replicas", subject=where, seen=deployment))
    for it in deployment.get("status", {}).get("conditions") or ():
        text, reason = str(it.get("message", "")), str(it.get("reason", ""))
        if it["type"] == "ReplicaFailure" and it["status"] == "True":
            found.append(Fact("create", where, text, reason, subject=where, seen=deployment))
        if it["type"] == "Progressing" and it["status"] == "False":
            source = "create" if reason in _REFUSED else "condition"
            found.append(Fact(source, where, text, reason, subject=where, seen=deployment))
    return found


def job_facts(job: Mapping[str, Any]) -> list[Fact]:
    """A Kubernetes Job that has used up its tries, or whose pods were refused."""
    where = f"Job {job['metadata'].get('namespace', '')}/{job['metadata']['name']}"
    return [
        Fact("job", where, str(it.get("message", "")), str(it.get("reason", "")), subject=where, seen=job)
        for it in job.get("status", {}).get("conditions") or ()
        if it["type"] == "Failed" and it["status"] == "True"
    ]


def node_facts(nodes: Iterable[Mapping[str, Any]]) -> list[Fact]:
    """Nodes that are not ready or short of something."""
    found = []
    for node in nodes:
        where = f"node {node['metadata']['name']}"
        for it in node.get("status", {}).get("conditions") or ():
            wrong = it["status"] != "True" if it["type"] == "Ready" else it["status"] == "True"
            if wrong and (it["type"] == "Ready" or it["type"].endswith("Pressure")):
                text = f"{it['type']}={it['status']}: {it.get('reason', '')}: {it.get('message', '')}"
                found.append(Fact("node", where, text, subject=where, seen=node))
    return found


def condition_facts(manifest: Mapping[str, Any], wanted: Mapping[str, str], **seen: Any) -> list[Fact]:
    """Conditions of any object whose status is the one that ``wanted`` calls bad: ``{"Ready": "False"}``."""
    metadata = manifest["metadata"]
    name = "/".join(part for part in (metadata.get("namespace"), metadata["name"]) if part)
    where = f"{manifest.get('kind', 'object')} {name}"
    return [
        Fact(
            "condition",
            where,
            f"{it['type']}: {it.get('reason', '')}: {it.get('message', '')}",
            subject=where,
            seen={**manifest, **seen},
        )
        for it in manifest.get("status", {}).get("conditions") or ()
        if wanted.get(it.get("type", "")) == it.get("status")
    ]


def containers(status: Mapping[str, Any]) -> list[Object]:
    """Statuses of init containers, then of the others."""
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether the pod's condition Ready is True."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)


def event_time(event: Mapping[str, Any]) -> str:
    """When it was seen last; sorts as time does."""
    return str(
        event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
        or ""
    )
