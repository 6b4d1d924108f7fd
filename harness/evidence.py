"""What to collect of a layer when something fails: bounded in time and size, and without secrets.

Secrets and ConfigMaps are never read as objects. Everything written has passed ``redact``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from harness.diagnose import Diagnosis, Scope, diagnose, event_lines, pod_lines
from harness.diagnosis import Reason
from harness.errors import HarnessError
from harness.kube import Object
from harness.redact import redact, redact_manifest
from harness.stack import StackContext

TIMEOUT_S = 20.0
MAX_BYTES = 5_000_000
LOG_LINES = 500
LOG_BYTES = 200_000
SUMMARY_LOG_LINES = 8
MAX_EVENTS = 200

_ALWAYS = (
    "apps/v1/Deployment",
    "apps/v1/ReplicaSet",
    "batch/v1/Job",
    "v1/Service",
    "v1/ServiceAccount",
    "v1/ResourceQuota",
    "v1/LimitRange",
    "apps.gitlab.com/v1beta2/Runner",
)
_OF_THE_CLUSTER = (
    "v1/Node",
    "v1/Namespace",
    "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration",
    "admissionregistration.k8s.io/v1/MutatingWebhookConfiguration",
    "apiregistration.k8s.io/v1/APIService",
)
"""What may refuse or disturb everything: node, labels of namespaces (Pod Security), webhooks, APIs behind."""
_NEVER = ("Secret", "ConfigMap")


@dataclass
class Evidence:
    """Files written, and a summary short enough for a failure message."""

    files: list[Path] = field(default_factory=list)
    summary: str = ""


def collect(
    ctx: StackContext,
    layer: str,
    directory: Path,
    *,
    namespaces: Iterable[str] = (),
    recorded: Iterable[Path] = (),
    timeout_s: float = TIMEOUT_S,
    max_bytes: int = MAX_BYTES,
) -> Evidence:
    """Collect pods, events, objects and logs of a layer (and of further ``namespaces``) below ``directory``.

    The reason and the object that decides come first. ``recorded`` are files of what is gone by now.
    Never raises for what can't be had: the file ``problems.txt`` says it.
    """
    from harness.stack.catalogue import LAYERS

    known = LAYERS.get(layer)
    where = list(dict.fromkeys((*(known.namespaces if known else ()), *namespaces)))
    kinds = (*_ALWAYS, *(known.kinds if known else ()))
    keeper = _Collector(ctx, directory, time.monotonic() + timeout_s, max_bytes)
    seen = diagnose(ctx.kube, [Scope(namespace) for namespace in where])
    keeper.reason(seen.reason)
    for namespace in where:
        keeper.namespace(namespace, kinds)
    for kind in _OF_THE_CLUSTER:
        keeper.of_the_cluster(kind)
    keeper.node()
    for path in recorded:
        keeper.copy(f"recorded/{path.name}", path)
    keeper.write("problems.txt", "\n".join(keeper.problems))
    return Evidence(keeper.files, redact(_summary(seen, keeper.last_lines)))


def _summary(seen: Diagnosis, last_lines: list[str]) -> str:
    parts = [seen.reason.sentence] if seen.reason else []
    parts.append(seen.text())
    if last_lines:
        parts.append("Last log lines:\n" + "\n".join(f"  {line}" for line in last_lines))
    return "\n".join(part for part in parts if part)


class _Collector:
    """Writes files until time or space is used up."""

    def __init__(self, ctx: StackContext, directory: Path, deadline: float, max_bytes: int) -> None:
        self.ctx = ctx
        self.directory = directory
        self.deadline = deadline
        self.left = max_bytes
        self.files: list[Path] = []
        self.problems: list[str] = []
        self.last_lines: list[str] = []

    def reason(self, reason: Reason | None) -> None:
        """What seems to be the matter, and the object that says so."""
        if reason is None:
            return
        told = (reason.sentence, f"id: {reason.id}", f"at fault: {reason.blame}", f"what to do: {reason.do}")
        self.write("0-reason.txt", "\n".join((*told, *(f"also: {it.sentence}" for it in reason.others))))
        metadata = reason.evidence.get("metadata") or {}
        if metadata.get("name") and reason.evidence.get("kind") not in _NEVER:
            self._objects("0-decides.yaml", [dict(reason.evidence)])

    def of_the_cluster(self, kind: str) -> None:
        """Objects that belong to no namespace."""
        plain = kind.rpartition("/")[2]
        self._objects(f"cluster/{plain.lower()}.yaml", self._list(kind, None))

    def copy(self, name: str, path: Path) -> None:
        """A file that was written before."""
        try:
            self.write(name, path.read_text(errors="replace"))
        except OSError as error:
            self.problems.append(f"{path.name}: {error.strerror}")

    def namespace(self, namespace: str, kinds: Iterable[str]) -> None:
        pods = self._list("v1/Pod", namespace)
        lines = [line for pod in pods for line in pod_lines(pod)]
        self.write(f"{namespace}/pods.txt", "\n".join(lines))
        events = self._list("v1/Event", namespace)
        self.write(f"{namespace}/events.txt", "\n".join(event_lines(events, MAX_EVENTS)))
        for kind in dict.fromkeys(kinds):
            plain = kind.rpartition("/")[2]
            if plain not in _NEVER:
                self._objects(f"{namespace}/{plain.lower()}.yaml", self._list(kind, namespace))
        self._objects(f"{namespace}/pod.yaml", pods)
        for pod in pods:
            self._logs(namespace, pod)

    def node(self) -> None:
        """The ends of the node's own logs, where the cluster keeps them below its state directory."""
        cluster = self.ctx.state_dir / "cluster"
        for log in sorted((*cluster.glob("logs/*.log"), *cluster.glob("registry/*.log"))):
            try:
                with log.open("rb") as source:
                    source.seek(max(0, log.stat().st_size - LOG_BYTES))
                    self.write(f"node/{log.name}", source.read().decode(errors="replace"))
            except OSError as error:
                self.problems.append(f"{log}: {error}")

    def _list(self, kind: str, namespace: str | None) -> list[Object]:
        if time.monotonic() > self.deadline:
            self.problems.append(f"{namespace or 'cluster'} {kind}: no time left")
            return []
        try:
            return self.ctx.kube.list(kind, namespace)
        except HarnessError as error:
            self.problems.append(f"{namespace or 'cluster'} {kind}: {error.message}")
            return []

    def _objects(self, name: str, objects: list[Object]) -> None:
        if objects:
            self.write(name, yaml.safe_dump_all([_quiet(it) for it in objects], sort_keys=False, width=120))

    def _logs(self, namespace: str, pod: Object) -> None:
        status = pod.get("status", {})
        both = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        for container in both:
            started = container.get("state", {}).keys() & {"running", "terminated"}
            if started:
                self._log(namespace, pod, container, previous=False)
            if container.get("restartCount"):
                self._log(namespace, pod, container, previous=True)

    def _log(self, namespace: str, pod: Object, container: dict[str, Any], *, previous: bool) -> None:
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            self.problems.append(f"log of {pod['metadata']['name']}: no time left")
            return
        name, part = pod["metadata"]["name"], container["name"]
        try:
            text = self.ctx.kube.logs(
                name,
                namespace,
                part,
                tail_lines=LOG_LINES,
                limit_bytes=LOG_BYTES,
                previous=previous,
                timeout_s=min(left_s, 5.0),
            )
        except HarnessError as error:
            self.problems.append(f"log of {name}/{part}: {error.message}")
            return
        suffix = ".previous" if previous else ""
        self.write(f"{namespace}/logs/{name}.{part}{suffix}.log", text)
        if text and (previous or not container.get("ready", True)):
            tail = text.splitlines()[-SUMMARY_LOG_LINES:]
            self.last_lines += [f"{name}/{part}: {line[:300]}" for line in tail]

    def write(self, name: str, text: str) -> None:
        """Write redacted text, cut to the space that is left; nothing for empty text."""
        data = redact(text).encode()
        if not data:
            return
        if len(data) > self.left:
            self.problems.append(f"{name}: cut, the limit of this collection is reached")
            data = data[: self.left]
        if not data:
            return
        self.left -= len(data)
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.files.append(path)


def _quiet(manifest: Object) -> Object:
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "managedFields"}
    cut: Object = redact_manifest({**manifest, "metadata": metadata})
    return cut


def copy_logs(state_dir: Path, directory: Path) -> list[Path]:
    """The logs of a cluster that never came up: all that there is of it."""
    copied = []
    cluster = state_dir / "cluster"
    for log in sorted((*cluster.glob("*.log"), *cluster.glob("logs/*.log"), *cluster.glob("registry/*.log"))):
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / log.name
        path.write_text(redact(log.read_text(errors="replace")[-LOG_BYTES:]), encoding="utf-8")
        copied.append(path)
    return copied


def write_index(directory: Path, failures: Iterable[tuple[str, str, Iterable[str]]]) -> Path | None:
    """``index.html`` of the evidence below ``directory``: what failed, why, and its files; None without any.

    ``failures``: name, reason in one line, files relative to ``directory``'s parent.
    """
    rows = [
        f"<h2>{escape(name)}</h2><p>{escape(redact(reason))}</p><ul>"
        + "".join(f'<li><a href="../{quote(path)}">{escape(path)}</a></li>' for path in files)
        + "</ul>"
        for name, reason, files in failures
    ]
    if not rows:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    page = directory / "index.html"
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Evidence</title><h1>Evidence</h1>'
    page.write_text(head + "".join(rows) + "</html>\n", encoding="utf-8")
    return page
