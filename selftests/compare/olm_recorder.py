"""Watches a cluster and writes down what OLM does there, in the recordings' form."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import kubernetes
from kubernetes.dynamic import DynamicClient

Obj = dict[str, Any]
RBAC = "rbac.authorization.k8s.io/v1"
OPERATORS = "operators.coreos.com/v1alpha1"
HOOKS = "admissionregistration.k8s.io/v1"
KINDS = (
    (OPERATORS, "CatalogSource"),
    (OPERATORS, "ClusterServiceVersion"),
    (OPERATORS, "InstallPlan"),
    (OPERATORS, "Subscription"),
    ("operators.coreos.com/v1", "OperatorGroup"),
    ("operators.coreos.com/v2", "OperatorCondition"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ("apiregistration.k8s.io/v1", "APIService"),
    ("apps/v1", "Deployment"),
    ("batch/v1", "Job"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("v1", "Event"),
    (RBAC, "Role"),
    (RBAC, "RoleBinding"),
    (RBAC, "ClusterRole"),
    (RBAC, "ClusterRoleBinding"),
    (HOOKS, "MutatingWebhookConfiguration"),
    (HOOKS, "ValidatingWebhookConfiguration"),
)
# Not OLM's: made by Kubernetes in every namespace or at every start.
FOREIGN = (
    "kube-root-ca.crt",
    "default",
    "kubernetes",
    "extension-apiserver-authentication",
    "runner-operator-lock",
)


def status_of(obj: Obj) -> Obj | None:
    """The state that is compared; None for kinds of which only coming and going matters."""
    kind, spec, status = obj["kind"], obj.get("spec") or {}, obj.get("status") or {}
    match kind:
        case "CatalogSource":
            found = {"lastObservedState": (status.get("connectionState") or {}).get("lastObservedState")}
        case "ClusterServiceVersion":
            found = {k: status.get(k) for k in ("phase", "reason", "message")}
        case "InstallPlan":
            found = {"approved": spec["approved"], "csvs": spec["clusterServiceVersionNames"]}
            found |= {"phase": status.get("phase"), "conditions": status.get("conditions")}
        case "Subscription":
            found = {k: status.get(k) for k in ("state", "currentCSV", "installedCSV", "conditions")}
        case "OperatorGroup":
            found = {"namespaces": status.get("namespaces"), "conditions": status.get("conditions")}
            found["annotations"] = obj["metadata"].get("annotations")
        case "Job":
            found = {"conditions": status.get("conditions")}
        case "CustomResourceDefinition":
            found = {"conversion": (spec.get("conversion") or {}).get("strategy")}
        case "Event":
            found = {k: obj.get(k) for k in ("type", "reason", "message")}
        case _:
            return None
    return {k: v for k, v in found.items() if v not in (None, [], {})}


class Recorder:
    """Follows KINDS of one cluster in threads until `stop`."""

    def __init__(self, kubeconfig: Path) -> None:
        configuration = kubernetes.client.Configuration()
        kubernetes.config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        self.cache = tempfile.TemporaryDirectory()  # of its own: the default one is shared by host address
        cache_file = str(Path(self.cache.name, "discovery.json"))
        self.client = DynamicClient(kubernetes.client.ApiClient(configuration), cache_file=cache_file)
        self.resources: dict[tuple[str, str], Any] = {}
        self.discovery = threading.Lock()  # the client's discovery isn't safe for threads
        self.entries: list[Obj] = []
        self.known: set[tuple[str, ...]] = set()
        self.last: dict[tuple[str, ...], Obj | None] = {}
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.started = time.monotonic()

    def resource(self, api_version: str, kind: str) -> Any:
        key = (api_version, kind)
        with self.discovery:
            if key not in self.resources:
                self.resources[key] = self.client.resources.get(api_version=api_version, kind=kind)
            return self.resources[key]

    def start(self) -> None:
        for api_version, kind in KINDS:
            threading.Thread(target=self._follow, args=(api_version, kind), daemon=True).start()

    def _follow(self, api_version: str, kind: str) -> None:
        version, at_start = None, True
        while not self.stopped.is_set():
            try:
                resource = self.resource(api_version, kind)
                if version is None:
                    listed = resource.get()
                    version = listed.metadata.resourceVersion
                    for item in listed.items:
                        self._note("KNOWN" if at_start else "ADDED", item.to_dict() | {"kind": kind})
                at_start = False
                for event in resource.watch(resource_version=version, timeout=60):
                    obj = event["raw_object"]
                    version = obj["metadata"]["resourceVersion"]
                    self._note(event["type"], obj)
            except Exception:  # a kind that isn't there yet, or a closed watch: again
                version, at_start = None, False
                time.sleep(0.5)

    def _note(self, type_: str, obj: Obj) -> None:
        meta, kind = obj["metadata"], obj["kind"]
        if "olm.copiedFrom" in (meta.get("labels") or {}) or meta["name"] in FOREIGN:
            return
        if kind == "CustomResourceDefinition" and meta["name"].endswith(".operators.coreos.com"):
            return
        name = meta["name"]
        if kind == "Event":
            if (obj.get("source") or {}).get("component") != "operator-lifecycle-manager":
                return
            name = f"{obj['involvedObject']['kind']}/{obj['involvedObject']['name']}"
        key = (kind, meta.get("namespace", ""), meta["name"])
        with self.lock:
            if type_ == "ADDED" and key in self.known:
                type_ = "MODIFIED"  # listed again
            (self.known.discard if type_ == "DELETED" else self.known.add)(key)
            if type_ == "KNOWN":  # was there before OLM
                return
            entry = {
                "t": round(time.monotonic() - self.started, 2),
                "kind": kind,
                "name": name,
                "event": type_,
            }
            entry |= {"namespace": meta["namespace"]} if meta.get("namespace") else {}
            status = status_of(obj)
            if status is None and type_ == "MODIFIED":
                return
            if status is not None and type_ != "DELETED":
                entry["status"] = status
                if type_ == "MODIFIED" and self.last.get(key) == status and kind != "Event":
                    return
            self.last[key] = status
            self.entries.append(entry)

    def take(self) -> list[Obj]:
        """What was noted since the last take."""
        with self.lock:
            found, self.entries = self.entries, []
        self.started = time.monotonic()
        return found

    def stop(self) -> None:
        self.stopped.set()
        self.cache.cleanup()


def within(entries: Iterable[Obj], namespaces: Collection[str]) -> list[Obj]:
    """The entries of objects that are in these namespaces, or in none."""
    wanted = {"", *namespaces}
    return [e for e in entries if e.get("namespace", "") in wanted or _about(e) in namespaces]


def _about(entry: Obj) -> str:
    """The namespace that an Event in `default` speaks of."""
    return entry["name"].removeprefix("Namespace/") if entry["kind"] == "Event" else ""


def until(ready: Callable[[], Any], what: str, timeout_s: float = 120) -> Any:
    """Wait for a true answer; the error names what was awaited and the last answer."""
    end, last = time.monotonic() + timeout_s, None
    while time.monotonic() < end:
        last = ready()
        if last:
            return last
        time.sleep(0.3)
    raise TimeoutError(f"{what}: not within {timeout_s} s; last seen: {json.dumps(last, default=str)[:300]}")
