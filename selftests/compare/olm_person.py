"""What a person does on a cluster with OLM, and what the play watches meanwhile."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import kubernetes
import yaml

from selftests.compare.olm_recorder import Obj, Recorder, until

NAME, OPERATOR = "my-gitlab-runner-operator", "gitlab-runner-operator"
DEPLOYMENT = "gitlab-runner-controller-manager"
OLD, NEW = f"{OPERATOR}.v1.15.1", f"{OPERATOR}.v1.20.0"
BUNDLE_IMAGE = "quay.io/operatorhubio/gitlab-runner-operator"
API = "operators.coreos.com/v1alpha1"
MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"


CATALOG = {"operators": "1.15.0 1.15.1 1.20.0", "runner": "16.0.1"}
"""What the recordings' catalog offers; its head last."""


class Person:
    """Hands on one cluster."""

    def __init__(self, kubeconfig: Path) -> None:
        self.recorder = Recorder(kubeconfig)
        self.recorder.start()

    def _resource(self, kind: str, api: str = "") -> Any:
        known = {
            "Deployment": "apps/v1",
            "OperatorGroup": "operators.coreos.com/v1",
            "Namespace": "v1",
            "Pod": "v1",
        }
        return self.recorder.resource(api or known.get(kind, API), kind)

    def create(self, *objects: Obj) -> None:
        for obj in objects:
            namespace = obj["metadata"].get("namespace")
            self._resource(obj["kind"], obj["apiVersion"]).create(body=obj, namespace=namespace)

    def get(self, kind: str, name: str, namespace: str = "operators") -> Obj:
        try:
            return self._resource(kind).get(name=name, namespace=namespace or None).to_dict()
        except kubernetes.client.exceptions.ApiException as error:
            if error.status == 404:
                return {}
            raise

    def items(self, kind: str, namespace: str = "operators") -> list[Obj]:
        return [i.to_dict() for i in self._resource(kind).get(namespace=namespace).items]

    def patch(self, kind: str, name: str, body: Any, namespace: str = "operators", how: str = MERGE) -> None:
        self._resource(kind).patch(name=name, namespace=namespace, body=body, content_type=how)

    def delete(self, kind: str, name: str, namespace: str = "operators") -> None:
        try:
            self._resource(kind).delete(name=name, namespace=namespace or None)
        except kubernetes.client.exceptions.ApiException as error:
            if error.status != 404:
                raise

    def subscribe(self, namespace: str = "operators", **changes: str) -> None:
        spec = {
            "channel": "stable",
            "name": OPERATOR,
            "source": "operatorhubio-catalog",
            "sourceNamespace": "olm",
        }
        meta = {"name": NAME, "namespace": namespace}
        self.create({"apiVersion": API, "kind": "Subscription", "metadata": meta, "spec": spec | changes})

    def namespace(self, name: str, *groups: Obj) -> None:
        """A namespace and its OperatorGroups. OLM answers each before the next comes: recorded so."""
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for group in groups:
            self.create(
                copy.deepcopy(group) | {"apiVersion": "operators.coreos.com/v1", "kind": "OperatorGroup"}
            )
            made = group["metadata"]["name"]
            until(partial(self._answered, made, name), f"OLM's status of OperatorGroup {made}")

    def _answered(self, group: str, namespace: str) -> bool:
        return bool((self.get("OperatorGroup", group, namespace).get("status") or {}).get("namespaces"))

    def catalog(self, name: str, namespace: str, **spec: str) -> None:
        meta = {"name": name, "namespace": namespace}
        wanted = {"sourceType": "grpc", "displayName": name, "publisher": "test"} | spec
        if "image" in spec:
            wanted["grpcPodConfig"] = {"securityContextConfig": "restricted"}
        self.create({"apiVersion": API, "kind": "CatalogSource", "metadata": meta, "spec": wanted})

    def catalog_ready(self, name: str) -> None:
        """Wait until OLM is connected to a catalog in its namespace."""

        def state() -> bool:
            found = self.get("CatalogSource", name, "olm").get("status") or {}
            return (found.get("connectionState") or {}).get("lastObservedState") == "READY"

        until(state, f"catalog {name} READY")

    def approve(self, csv: str, namespace: str = "operators") -> None:
        def plan() -> str | None:
            for p in self.items("InstallPlan", namespace):
                if p["spec"]["clusterServiceVersionNames"] == [csv] and (p.get("status") or {}).get("phase"):
                    return str(p["metadata"]["name"])
            return None

        name = until(plan, f"InstallPlan for {csv}")
        time.sleep(1)
        self.patch("InstallPlan", name, {"spec": {"approved": True}}, namespace)

    def phase(self, csv: str, wanted: str, namespace: str = "operators", timeout_s: float = 120) -> None:
        def status() -> Obj:
            return self.get("ClusterServiceVersion", csv, namespace).get("status") or {}

        until(
            lambda: f"{status().get('phase')}/{status().get('reason')}".startswith(wanted),
            f"{csv} {wanted}",
            timeout_s,
        )

    def subscription(
        self, ready: Callable[[Obj], Any], what: str, namespace: str = "operators", timeout_s: float = 90
    ) -> None:
        until(lambda: ready(self.get("Subscription", NAME, namespace).get("status") or {}), what, timeout_s)

    def said(self, type_: str, reason: str) -> Callable[[Obj], bool]:
        return lambda s: any(
            (c["type"], c.get("reason")) == (type_, reason) for c in s.get("conditions") or ()
        )

    def image_of_csv(self, csv: str, image: str) -> None:
        path = "/spec/install/spec/deployments/0/spec/template/spec/containers/0/image"
        body = [{"op": "replace", "path": path, "value": image}]
        self.patch("ClusterServiceVersion", csv, body, how=JSON)

    def image_of_deployment(self, image: str) -> None:
        body = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image}]
        self.patch("Deployment", DEPLOYMENT, body, how=JSON)


@contextmanager
def serve_catalog(host: str, port: int, change: Callable[[list[Obj]], list[Obj]]) -> Iterator[str]:
    """The lab's catalog on the host, its documents changed, served by the stand-in's opm; its address."""
    lab = Path("lab/standins").resolve()
    with tempfile.TemporaryDirectory() as tmp:
        values = Path(tmp, "values.json")
        values.write_text(json.dumps({"variables": CATALOG, "digests": {}}))
        script = lab / "gitlab_runner_operator/generate.py"
        subprocess.run([sys.executable, script, tmp, values], check=True, capture_output=True)
        path = Path(tmp, "catalog", OPERATOR, "catalog.yaml")
        path.write_text(yaml.safe_dump_all(change(list(yaml.safe_load_all(path.read_text())))))
        command = [sys.executable, str(lab / "olm/bin/opm"), "serve", str(path.parent), "--port", str(port)]
        served = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": str(lab / "olm")}, stdout=subprocess.DEVNULL
        )
        try:
            yield f"{host}:{port}"
        finally:
            served.terminate()
            served.wait(10)


def with_image(image: str) -> Callable[[list[Obj]], list[Obj]]:
    """Every bundle's image is ``image``, with the bundle's own tag."""

    def change(documents: list[Obj]) -> list[Obj]:
        bundles = (it for it in documents if it["schema"] == "olm.bundle")
        for it in bundles:
            it["image"] = f"{image}:{it['image'].rpartition(':')[2]}"
        return documents

    return change


def only(csv: str, image: str) -> Callable[[list[Obj]], list[Obj]]:
    """A channel with one entry, which therefore replaces nothing; its bundle is ``image``."""

    def change(documents: list[Obj]) -> list[Obj]:
        kept = [it for it in documents if it["schema"] != "olm.bundle" or it["name"] == csv]
        for it in kept:
            if it["schema"] == "olm.channel":
                it["entries"] = [{"name": csv}]
            elif it["schema"] == "olm.bundle":
                it["image"] = image
        return kept

    return change
