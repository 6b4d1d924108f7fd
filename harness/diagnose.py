"""Why something isn't ready: pods, containers and events in words, the reason among them, and blame."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import Blame, HarnessError
from harness.kube import Kube, Object

MAX_EVENTS = 12
MAX_PODS = 12
MAX_MESSAGE_CHARS = 400
HEAD_CHARS = 180

CRASHES_UNTIL_HOPELESS = 3
"""A container may lose a race once or twice while its peers start; after that it is broken."""

SANDBOXES_UNTIL_HOPELESS = 3
"""The node can't start any pod: its network or its sandbox image; the kubelet tries every 12 s or so."""

_TERMINAL_WAITING = {
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
}
_BAD_WAITING = _TERMINAL_WAITING | {
    "ErrImagePull",
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "RegistryUnavailable",
}
_HARMLESS_WARNINGS = {"InvalidDiskCapacity", "FailedScheduling"}
"""Every kubelet says the one at its start; the other stays when a pod has long been scheduled, and a pod that
isn't says so itself."""
_PULL = {"ImagePullBackOff", "ErrImagePull", "RegistryUnavailable"}

_UNREACHABLE = re.compile(
    r"i/o timeout|connection refused|no such host|network is unreachable|no route to host|deadline ?exceeded"
    r"|TLS handshake|connection reset|unexpected EOF|: EOF|server misbehaving|temporary failure|x509"
    r"|unexpected commit digest|failed size validation",
    re.IGNORECASE,
)
_SANDBOX_IMAGE_GONE = re.compile(r"get sandbox image .*(not found|manifest unknown)", re.DOTALL)
_HOST_SHORT = re.compile(r"Insufficient|disk-pressure|memory-pressure|Evicted|no space left", re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    """A reason in one line, who is at fault, and whether waiting longer is of no use."""

    reason: str
    blame: Blame = Blame.PRODUCT
    terminal: bool = False

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Scope:
    """Where to look: pods of a namespace (by label), and its events."""

    namespace: str
    label_selector: str | None = None


@dataclass
class Diagnosis:
    """What was found: lines to read, and the problem that explains most, if any."""

    pods: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    problem: Problem | None = None

    def text(self) -> str:
        parts = []
        if self.pods:
            parts.append("Pods:\n" + "\n".join(f"  {line}" for line in self.pods))
        if self.events:
            parts.append("Events:\n" + "\n".join(f"  {line}" for line in self.events))
        return "\n".join(parts)


def diagnose(kube: Kube, scopes: Iterable[Scope]) -> Diagnosis:
    """Look at pods and events of the scopes. Never raises for an API that doesn't answer: it says so."""
    found = Diagnosis()
    for scope in dict.fromkeys(scopes):
        try:
            pods = kube.list("v1/Pod", scope.namespace, label_selector=scope.label_selector)
            events = kube.list("v1/Event", scope.namespace)
        except HarnessError as error:
            found.events.append(f"{scope.namespace}: can't be looked at: {error.message}")
            continue
        for pod in pods[:MAX_PODS]:
            found.pods.extend(pod_lines(pod))
        found.events.extend(event_lines(events))
        problem = pods_problem(_without_superseded(kube, scope.namespace, pods), events)
        if problem is not None and (found.problem is None or problem.terminal):
            found.problem = problem
        if found.problem is None:
            found.problem = _problem_of_events(events, pods)
    return found


def pods_problem(pods: Sequence[Object], events: Sequence[Object] = ()) -> Problem | None:
    """The worst problem among pods that aren't being deleted; terminal ones first."""
    problems = [problem for pod in pods if (problem := pod_problem(pod, events)) is not None]
    return next((problem for problem in problems if problem.terminal), problems[0] if problems else None)


def hopeless_pods(kube: Kube, scope: Scope) -> Problem | None:
    """A problem of the scope's pods that waiting won't mend, else None."""
    problem = pods_problem(kube.list("v1/Pod", scope.namespace, label_selector=scope.label_selector))
    if problem is None or not problem.terminal:
        return None
    problem = diagnose(kube, [scope]).problem  # again, with the events that say why
    return problem if problem is not None and problem.terminal else None


def images(template: Mapping[str, Any]) -> list[str]:
    """The images of a pod, or of a Deployment's template, sorted."""
    return sorted(container["image"] for container in template["spec"]["containers"])


def _without_superseded(kube: Kube, namespace: str, pods: Sequence[Object]) -> Sequence[Object]:
    """The pods but those of a Deployment that asks for other images by now: they go once a new one is ready.

    Asked only where a pod has a problem that would end a wait.
    """
    if not any(problem.terminal for pod in pods if (problem := pod_problem(pod)) is not None):
        return pods
    try:
        sets = {it["metadata"]["uid"]: it for it in kube.list("apps/v1/ReplicaSet", namespace)}
        deployments = {it["metadata"]["uid"]: it for it in kube.list("apps/v1/Deployment", namespace)}
    except HarnessError:
        return pods  # whatever the pods say is better than nothing

    def superseded(pod: Object) -> bool:
        deployment = deployments.get(_owner(sets.get(_owner(pod), {})))
        return deployment is not None and images(deployment["spec"]["template"]) != images(pod)

    return [pod for pod in pods if not superseded(pod)]


def _owner(manifest: Mapping[str, Any]) -> str:
    """The uid of the object's controller, empty where it has none."""
    references = manifest.get("metadata", {}).get("ownerReferences") or ()
    return next((str(it["uid"]) for it in references if it.get("controller")), "")


def pod_problem(pod: Object, events: Sequence[Object] = ()) -> Problem | None:
    """What is wrong with one pod, or None."""
    if pod["metadata"].get("deletionTimestamp"):
        return None
    name = f"pod {pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"
    status = pod.get("status", {})
    if status.get("phase") == "Failed":
        text = status.get("message") or status.get("reason") or "failed"
        return Problem(f"{name}: {text}", _blame_of_host(status.get("reason", "") + text), terminal=True)
    for container in _containers(status):
        problem = _container_problem(name, container, pod, events)
        if problem is not None:
            return problem
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = condition.get("message", "unschedulable")
            return Problem(f"{name}: {message}", _blame_of_host(message))
    return None


def _container_problem(name: str, container: Object, pod: Object, events: Sequence[Object]) -> Problem | None:
    waiting = container.get("state", {}).get("waiting") or {}
    reason = waiting.get("reason", "")
    if reason not in _BAD_WAITING:
        return None
    message = waiting.get("message", "")
    blame = Blame.PRODUCT
    if reason in _PULL:
        message = _pull_error(pod, container, events) or message
        blame = Blame.ENVIRONMENT if _UNREACHABLE.search(message) else Blame.PRODUCT
    elif reason == "CrashLoopBackOff":
        message = _last_exit(container) or message
    terminal = reason in _TERMINAL_WAITING or (
        reason == "CrashLoopBackOff" and container.get("restartCount", 0) >= CRASHES_UNTIL_HOPELESS
    )
    image = container.get("image", "")
    text = f"{name} container {container['name']} ({image}): {reason}: {_short(message)}"
    return Problem(text, blame, terminal)


def _pull_error(pod: Object, container: Object, events: Sequence[Object]) -> str:
    """The kubelet's own words; the container's state only says that it backs off."""
    for event in sorted(events, key=_event_time, reverse=True):
        involved = event.get("involvedObject", {})
        if involved.get("uid") not in (None, pod["metadata"].get("uid")):
            continue
        message = event.get("message", "")
        if event.get("reason") == "Failed" and container.get("image", "\0") in message:
            return str(message)
    return ""


def _last_exit(container: Object) -> str:
    ended = container.get("lastState", {}).get("terminated") or {}
    if not ended:
        return ""
    restarts = container.get("restartCount", 0)
    text = f"exited {ended.get('exitCode')} ({ended.get('reason', '')}), {restarts} restarts"
    return f"{text}: {ended['message']}" if ended.get("message") else text


def pod_lines(pod: Object) -> list[str]:
    """A pod as `kubectl get` shows it, then a line for each container that isn't running quietly."""
    status = pod.get("status", {})
    containers = status.get("containerStatuses", [])
    ready = sum(1 for container in containers if container.get("ready"))
    total = len(pod.get("spec", {}).get("containers", []))
    state = "Terminating" if pod["metadata"].get("deletionTimestamp") else status.get("phase", "Unknown")
    lines = [f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']} {ready}/{total} {state}"]
    for container in _containers(status):
        text = container_state(container)
        if text != "running":
            lines.append(f"  {container['name']}: {text}")
    return lines


def container_state(container: Object) -> str:
    """A container's state in one line: running, waiting and why, or how it ended."""
    state = container.get("state", {})
    restarts = container.get("restartCount", 0)
    after = f", {restarts} restarts" if restarts else ""
    if "running" in state:
        return ("running" if container.get("ready", True) else "running, not ready") + after
    if "terminated" in state:
        ended = state["terminated"]
        return (
            _short(f"ended {ended.get('exitCode')} {ended.get('reason', '')} {ended.get('message', '')}")
            + after
        )
    waiting = state.get("waiting", {})
    return _short(f"waiting {waiting.get('reason', '')} {waiting.get('message', '')}") + after


def event_lines(events: Sequence[Object], limit: int = MAX_EVENTS) -> list[str]:
    """Warnings first, then the newest of the others, oldest first within each."""
    ordered = sorted(events, key=_event_time)
    warnings = [event for event in ordered if event.get("type") == "Warning"][-limit:]
    others = [event for event in ordered if event.get("type") != "Warning"][-max(0, limit - len(warnings)) :]
    return [_event_line(event) for event in warnings + (others if len(warnings) < limit else [])]


def _event_line(event: Object) -> str:
    involved = event.get("involvedObject", {})
    where = f"{involved.get('kind', '')}/{involved.get('name', '')}"
    times = f" (x{event['count']})" if (event.get("count") or 1) > 1 else ""
    return _short(
        f"{event.get('type', '')} {where} {event.get('reason', '')}{times}: {event.get('message', '')}"
    )


def _problem_of_events(events: Sequence[Object], pods: Sequence[Object]) -> Problem | None:
    """The newest warning that still means something: what befell a pod that is ready by now is over."""
    well = {pod["metadata"].get("uid") for pod in pods if _is_ready(pod)}
    warnings = [
        event
        for event in events
        if event.get("type") == "Warning"
        and event.get("reason") not in _HARMLESS_WARNINGS
        and event.get("involvedObject", {}).get("uid") not in well
    ]
    if not warnings:
        return None
    newest = max(warnings, key=_event_time)
    line = _event_line(newest)
    if newest.get("reason") == "FailedCreatePodSandBox":
        repeated = (newest.get("count") or 1) >= SANDBOXES_UNTIL_HOPELESS
        whole = str(newest.get("message", ""))  # the line may be cut before its last words, which matter
        gone = _SANDBOX_IMAGE_GONE.search(whole)
        return Problem(line, Blame.PRODUCT if gone else Blame.ENVIRONMENT, terminal=repeated)
    return Problem(line, _blame_of_host(line))


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)


def _blame_of_host(text: str) -> Blame:
    return Blame.ENVIRONMENT if _HOST_SHORT.search(text) else Blame.PRODUCT


def _containers(status: dict[str, Any]) -> list[Object]:
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _event_time(event: Object) -> str:
    return str(
        event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
        or ""
    )


def _short(text: str) -> str:
    """One line, without its middle where it is long: an error that was often wrapped ends with its cause."""
    flat = " ".join(text.split())
    if len(flat) <= MAX_MESSAGE_CHARS:
        return flat
    return f"{flat[:HEAD_CHARS]} … {flat[HEAD_CHARS + 3 - MAX_MESSAGE_CHARS :]}"
