"""What a cluster shows when something isn't ready: pods and events in words, and the facts for a reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from harness.diagnosis import Fact, Reason, classify, with_sentence
from harness.diagnosis.facts import (
    containers,
    deployment_facts,
    event_time,
    events_facts,
    job_facts,
    node_facts,
    owner,
    pods_facts,
)
from harness.diagnosis.model import LOGS
from harness.diagnosis.words import short
from harness.errors import HarnessError
from harness.kube import Kube, Object
from harness.redact import redact

MAX_EVENTS = 12
MAX_PODS = 12
MAX_LOGS = 4
LOG_LINES = 12
"""A program that gives up says why in its last lines."""

SHARED_NAMESPACES = frozenset(("default", "kube-system", "kube-public", "operators"))
"""Where others have pods too: their trouble explains nothing of ours unless a label says that it is ours."""

_SAYS = {"runner": "runner-log", "manager": "operator-log"}
"""The names of a Runner's container, and of the operator's own in its CSV."""
_ENDED = frozenset(("container/crashed", "container/crashes"))
_WHY = re.compile(r"\b(panic|fatal|error|exception|failed)\b|\w(Error|Exception)\b", re.IGNORECASE)
"""A line that says why: a stack trace may come after it."""


@dataclass(frozen=True)
class Scope:
    """Where to look: pods of a namespace (by label), and its events."""

    namespace: str
    label_selector: str | None = None


@dataclass
class Diagnosis:
    """What was found: lines to read, and the reason that explains most, if any."""

    pods: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    reason: Reason | None = None

    def text(self) -> str:
        parts = []
        if self.pods:
            parts.append("Pods:\n" + "\n".join(f"  {line}" for line in self.pods))
        if self.events:
            parts.append("Events:\n" + "\n".join(f"  {line}" for line in self.events))
        return "\n".join(parts)


def diagnose(kube: Kube, scopes: Iterable[Scope]) -> Diagnosis:
    """Look at pods, events, Deployments, Jobs and the node. Never raises: what can't be looked at is said."""
    found = Diagnosis()
    facts: list[Fact] = []
    for scope in dict.fromkeys(scopes):
        try:
            pods = kube.list("v1/Pod", scope.namespace, label_selector=scope.label_selector)
            events = kube.list("v1/Event", scope.namespace)
            facts += scope_facts(kube, scope, pods, events)
        except HarnessError as error:
            found.events.append(f"{scope.namespace}: can't be looked at: {error.message}")
            continue
        for pod in pods[:MAX_PODS]:
            found.pods.extend(pod_lines(pod))
        found.events.extend(event_lines(events))
    found.reason = _with_last_words(classify([*facts, *_nodes(kube)]), facts)
    return found


def _with_last_words(reason: Reason | None, facts: Iterable[Fact]) -> Reason | None:
    """Where no rule knows more of a container than that it ended, what it said: often that alone says why."""
    if reason is None or reason.id not in _ENDED:
        return reason
    said = [it.text for it in facts if it.source in LOGS and it.subject == reason.subject]
    if not said:
        return reason
    words = next((line for line in said if _WHY.search(line)), said[0])
    return with_sentence(reason, redact(f"{reason.sentence}; its log says: {short(words)}"))


def scope_facts(kube: Kube, scope: Scope, pods: Sequence[Object], events: Sequence[Object]) -> list[Fact]:
    """What is wrong with the pods of a scope, and with what should have made pods there."""
    namespace, selector = scope.namespace, scope.label_selector
    sets = kube.list("apps/v1/ReplicaSet", namespace, label_selector=selector)
    deployments = kube.list("apps/v1/Deployment", namespace, label_selector=selector)
    jobs = kube.list("batch/v1/Job", namespace, label_selector=selector)
    makers = _owners(sets, pods) if selector else sets
    standing = without_superseded(pods, sets, deployments)
    facts = [*log_facts(kube, standing), *pods_facts(standing, events)]
    facts += [
        fact
        for it in deployments
        for fact in deployment_facts(it)
        if selector or fact.source != "object"  # somebody may have put a Deployment to sleep that is not ours
    ]
    facts += [fact for it in jobs for fact in job_facts(it)]
    facts += events_facts(events, [*standing, *makers, *jobs])
    return facts


def log_facts(kube: Kube, pods: Sequence[Object], *, all_containers: bool = False) -> list[Fact]:
    """The last words of containers that end again and again, or run without getting ready (or of all).

    What ended one is in the log of the run before.
    """
    found: list[Fact] = []
    chosen = [(pod, it) for pod in pods for it in (_begun(pod) if all_containers else _troubled(pod))]
    for pod, container in chosen[:MAX_LOGS]:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        where = f"pod {namespace}/{name} container {container['name']} says"
        subject = f"{owner(pod) or f'pod {namespace}/{name}'} {container['name']}"
        source = _SAYS.get(container["name"], "log")
        before = bool(container.get("restartCount")) and "terminated" not in container.get("state", {})
        for previous in (True, False) if before else (False,):
            with suppress(HarnessError):  # there may be no such log (any more)
                text = kube.logs(
                    name, namespace, container["name"], tail_lines=LOG_LINES, previous=previous, timeout_s=5
                )
                found += [
                    Fact(source, where, line, subject=subject, seen=pod)
                    for line in reversed(text.splitlines())
                    if line.strip()
                ]
    return found


def _begun(pod: Object) -> list[Object]:
    """Its containers that have a log, or had one."""
    return [
        it
        for it in pod.get("status", {}).get("containerStatuses") or ()
        if it.get("restartCount") or it.get("state", {}).keys() & {"running", "terminated"}
    ]


def _troubled(pod: Object) -> list[Object]:
    if pod["metadata"].get("deletionTimestamp"):
        return []
    return [it for it in _begun(pod) if not it.get("ready")]


def _owners(sets: Sequence[Object], pods: Sequence[Object]) -> list[Object]:
    owned = {owner(pod) for pod in pods}
    return [it for it in sets if not pods or it["metadata"]["uid"] in owned]


def _nodes(kube: Kube) -> list[Fact]:
    try:
        return node_facts(kube.list("v1/Node"))
    except HarnessError:
        return []  # a user without the right to see nodes


def scope_reason(kube: Kube, scope: Scope, deployment: Object | None = None) -> Reason | None:
    """Why pods of the scope do not run, else None: one look, for waits that ask often."""
    pods = kube.list("v1/Pod", scope.namespace, label_selector=scope.label_selector)
    own = deployment_facts(deployment) if deployment is not None else []
    if not own and not _suspicious(pods):
        return None
    events = kube.list("v1/Event", scope.namespace)
    facts = [*own, *scope_facts(kube, scope, pods, events)]
    return _with_last_words(classify(facts), facts)


def _suspicious(pods: Sequence[Object]) -> bool:
    """Some pod is not simply running, or none is there: only then is it worth a closer look."""
    return not pods or any(
        pod.get("status", {}).get("phase") in ("Pending", "Failed", None)
        or any("running" not in it.get("state", {}) for it in containers(pod.get("status", {})))
        or (_troubled(pod) and pod["status"].get("containerStatuses", [{}])[0].get("restartCount"))
        for pod in pods
        if not pod["metadata"].get("deletionTimestamp")
    )


def images(template: Mapping[str, Any]) -> list[str]:
    """The images of a pod, or of a Deployment's template, sorted."""
    return sorted(container["image"] for container in template["spec"]["containers"])


def without_superseded(
    pods: Sequence[Object], sets: Sequence[Object], deployments: Sequence[Object]
) -> list[Object]:
    """The pods but those of a Deployment that asks for other images by now: they are on their way out."""
    set_of = {it["metadata"]["uid"]: it for it in sets}
    deployment_of = {it["metadata"]["uid"]: it for it in deployments}

    def superseded(pod: Object) -> bool:
        deployment = deployment_of.get(owner(set_of.get(owner(pod), {})))
        return deployment is not None and images(deployment["spec"]["template"]) != images(pod)

    return [pod for pod in pods if not superseded(pod)]


def pod_lines(pod: Object) -> list[str]:
    """A pod as `kubectl get` shows it, then a line for each container that isn't running quietly."""
    status = pod.get("status", {})
    ready = sum(1 for container in status.get("containerStatuses", []) if container.get("ready"))
    total = len(pod.get("spec", {}).get("containers", []))
    state = "Terminating" if pod["metadata"].get("deletionTimestamp") else status.get("phase", "Unknown")
    lines = [f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']} {ready}/{total} {state}"]
    for container in containers(status):
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
            short(f"ended {ended.get('exitCode')} {ended.get('reason', '')} {ended.get('message', '')}")
            + after
        )
    waiting = state.get("waiting", {})
    return short(f"waiting {waiting.get('reason', '')} {waiting.get('message', '')}") + after


def event_lines(events: Sequence[Object], limit: int = MAX_EVENTS) -> list[str]:
    """Warnings first, then the newest of the others, oldest first within each."""
    ordered = sorted(events, key=event_time)
    warnings = [event for event in ordered if event.get("type") == "Warning"][-limit:]
    room = limit - len(warnings)
    others = [event for event in ordered if event.get("type") != "Warning"][-room:] if room else []
    return [_event_line(event) for event in warnings + others]


def _event_line(event: Object) -> str:
    involved = event.get("involvedObject", {})
    where = f"{involved.get('kind', '')}/{involved.get('name', '')}"
    times = f" (x{event['count']})" if (event.get("count") or 1) > 1 else ""
    return short(
        f"{event.get('type', '')} {where} {event.get('reason', '')}{times}: {event.get('message', '')}"
    )
