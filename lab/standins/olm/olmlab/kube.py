"""A small asynchronous Kubernetes client: requests and Events.

Objects are plain dicts. kopf isn't used here: it stops at start when any aggregated API (this program's own
packageserver, for one) doesn't answer discovery, and OLM has to come up exactly then.
"""

from __future__ import annotations

import base64
import copy
import json
import logging
import os
import ssl
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import yaml

Obj = dict[str, Any]
Kind = tuple[str, str]  # apiVersion, kind

log = logging.getLogger("olm")

OLM = "operators.coreos.com/v1alpha1"
CSV: Kind = (OLM, "ClusterServiceVersion")
SUBSCRIPTION: Kind = (OLM, "Subscription")
INSTALL_PLAN: Kind = (OLM, "InstallPlan")
CATALOG: Kind = (OLM, "CatalogSource")
GROUP: Kind = ("operators.coreos.com/v1", "OperatorGroup")
OPERATOR: Kind = ("operators.coreos.com/v1", "Operator")
CONDITION: Kind = ("operators.coreos.com/v2", "OperatorCondition")
DEPLOYMENT: Kind = ("apps/v1", "Deployment")
JOB: Kind = ("batch/v1", "Job")
CRD: Kind = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")
API_SERVICE: Kind = ("apiregistration.k8s.io/v1", "APIService")
NAMESPACE: Kind = ("v1", "Namespace")
POD: Kind = ("v1", "Pod")
SERVICE: Kind = ("v1", "Service")
SECRET: Kind = ("v1", "Secret")
CONFIG_MAP: Kind = ("v1", "ConfigMap")
SERVICE_ACCOUNT: Kind = ("v1", "ServiceAccount")
EVENT: Kind = ("v1", "Event")
RBAC = "rbac.authorization.k8s.io/v1"
ROLE: Kind = (RBAC, "Role")
ROLE_BINDING: Kind = (RBAC, "RoleBinding")
CLUSTER_ROLE: Kind = (RBAC, "ClusterRole")
CLUSTER_ROLE_BINDING: Kind = (RBAC, "ClusterRoleBinding")
VALIDATING: Kind = ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration")
MUTATING: Kind = ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration")

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MANAGED = {"olm.managed": "true"}


class ApiError(Exception):
    """An answer of the API server other than 2xx; `code` is the HTTP status, `reason` the Status reason."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


def now() -> str:
    """The present time as metav1.Time writes it (UTC, whole seconds)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def name_of(obj: Obj) -> str:
    return str(obj["metadata"]["name"])


def namespace_of(obj: Obj) -> str:
    return str(obj["metadata"].get("namespace", ""))


def labels_of(obj: Obj) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def annotations_of(obj: Obj) -> dict[str, str]:
    return obj["metadata"].get("annotations") or {}


def key_of(obj: Obj) -> tuple[str, str]:
    return namespace_of(obj), name_of(obj)


def owner_ref(owner: Obj, *, controller: bool = False, block: bool = False) -> Obj:
    """An ownerReference to `owner`, non-blocking by default as OLM writes them."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name_of(owner),
        "uid": owner["metadata"]["uid"],
        "controller": controller,
        "blockOwnerDeletion": block,
    }


def owned_by(obj: Obj, owner: Obj) -> bool:
    return any(r["uid"] == owner["metadata"]["uid"] for r in obj["metadata"].get("ownerReferences") or ())


def condition(obj: Obj, type_: str) -> Obj | None:
    """The entry of status.conditions with this type, if any."""
    return next((c for c in obj.get("status", {}).get("conditions") or () if c.get("type") == type_), None)


class Kube:
    """Requests to one API server, by the pod's service account or, outside a cluster, by $KUBECONFIG."""

    def __init__(self) -> None:
        self._resources: dict[Kind, tuple[str, bool]] = {}
        self._event_counts: dict[tuple[str, ...], tuple[str, int]] = {}
        self._token_file: Path | None = None
        tls = ssl.create_default_context()
        if path := os.environ.get("KUBECONFIG"):
            self.server = self._from_kubeconfig(yaml.safe_load(Path(path).read_text()), tls)
        else:
            host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
            self.server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
            tls = ssl.create_default_context(cafile=str(SERVICE_ACCOUNT_DIR / "ca.crt"))
            self._token_file = SERVICE_ACCOUNT_DIR / "token"
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )

    @staticmethod
    def _from_kubeconfig(config: Obj, tls: ssl.SSLContext) -> str:
        context = next(c for c in config["contexts"] if c["name"] == config["current-context"])["context"]
        cluster = next(c for c in config["clusters"] if c["name"] == context["cluster"])["cluster"]
        user = next(u for u in config["users"] if u["name"] == context["user"])["user"]
        tls.load_verify_locations(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.TemporaryDirectory() as tmp:
            pair = [Path(tmp, part) for part in ("client-certificate-data", "client-key-data")]
            for part in pair:
                part.write_bytes(base64.b64decode(user[part.name]))
            tls.load_cert_chain(*pair)
        return str(cluster["server"])

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token_file.read_text()}"} if self._token_file else {}

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: dict[str, str] | None = None,
        patch: str = "",
    ) -> Obj:
        headers = self.headers() | {"Content-Type": patch or "application/json"}
        data = None if body is None else json.dumps(body)
        timeout = aiohttp.ClientTimeout(total=30)
        async with self.session.request(
            method, self.server + path, data=data, params=params, headers=headers, timeout=timeout
        ) as answer:
            text = await answer.text()
            if answer.status < 300:
                return dict(json.loads(text)) if text else {}
            try:
                status = json.loads(text)
            except ValueError:
                status = {"message": text}
            raise ApiError(answer.status, str(status.get("reason", "")), str(status.get("message", "")))

    async def path(self, kind: Kind, namespace: str = "", name: str = "", sub: str = "") -> str:
        """The URL path of a resource; the plural and the scope come from discovery, once a kind."""
        prefix = f"/apis/{kind[0]}" if "/" in kind[0] else f"/api/{kind[0]}"
        if kind not in self._resources:
            for found in (await self.request("GET", prefix))["resources"]:
                if "/" not in found["name"]:
                    self._resources[kind[0], found["kind"]] = (found["name"], found["namespaced"])
        if kind not in self._resources:
            raise ApiError(404, "NotFound", f"the server doesn't have a resource type {kind[1]} in {kind[0]}")
        plural, namespaced = self._resources[kind]
        parts = [prefix, "namespaces", namespace] if namespaced and namespace else [prefix]
        return "/".join([*parts, plural, *([name] if name else []), *([sub] if sub else [])])

    async def get(self, kind: Kind, namespace: str, name: str) -> Obj | None:
        try:
            return await self.request("GET", await self.path(kind, namespace, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def list(self, kind: Kind, namespace: str = "", selector: str = "") -> list[Obj]:
        params = {"labelSelector": selector} if selector else None
        try:
            found = await self.request("GET", await self.path(kind, namespace), params=params)
        except ApiError as error:
            if error.code == 404:
                return []
            raise
        return [item | {"apiVersion": kind[0], "kind": kind[1]} for item in found["items"]]

    async def create(self, obj: Obj) -> Obj:
        kind = (obj["apiVersion"], obj["kind"])
        return await self.request("POST", await self.path(kind, namespace_of(obj)), obj)

    async def update(self, obj: Obj, sub: str = "") -> Obj:
        kind = (obj["apiVersion"], obj["kind"])
        return await self.request("PUT", await self.path(kind, namespace_of(obj), name_of(obj), sub), obj)

    async def patch(self, kind: Kind, namespace: str, name: str, body: Obj, sub: str = "") -> Obj:
        path = await self.path(kind, namespace, name, sub)
        return await self.request("PATCH", path, body, patch="application/merge-patch+json")

    async def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Delete in the background; an object that isn't there is no error."""
        try:
            body = {"propagationPolicy": "Background"}
            await self.request("DELETE", await self.path(kind, namespace, name), body)
        except ApiError as error:
            if error.code != 404:
                raise

    async def ensure(self, obj: Obj, *fields: str) -> tuple[Obj, bool]:
        """Create `obj`, or bring `fields` (and its labels, owners) of the existing one up to it.

        Returns the object in the cluster and whether it was created.
        """
        kind = (obj["apiVersion"], obj["kind"])
        try:
            return await self.create(obj), True
        except ApiError as error:
            if error.code != 409:
                raise
        current = await self.get(kind, namespace_of(obj), name_of(obj)) or {}
        wanted = copy.deepcopy(current)
        for part in ("labels", "annotations"):
            if obj["metadata"].get(part):
                wanted["metadata"][part] = (wanted["metadata"].get(part) or {}) | obj["metadata"][part]
        owners = {r["uid"]: r for r in current["metadata"].get("ownerReferences") or ()}
        owners |= {r["uid"]: r for r in obj["metadata"].get("ownerReferences") or ()}
        if owners:
            wanted["metadata"]["ownerReferences"] = list(owners.values())
        wanted |= {field: obj[field] for field in fields if field in obj}
        return (current if wanted == current else await self.update(wanted)), False

    async def event(self, obj: Obj, reason: str, message: str, *, warning: bool = False) -> None:
        """Post an Event about `obj`; the same one again raises `count`, as client-go's recorder does."""
        about = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "name": name_of(obj)}
        about |= {"namespace": namespace_of(obj), "uid": obj["metadata"]["uid"]}
        namespace = namespace_of(obj) or "default"
        key = (*about.values(), reason, message)
        try:
            if key in self._event_counts:
                name, count = self._event_counts[key]
                self._event_counts[key] = (name, count + 1)
                await self.patch(EVENT, namespace, name, {"count": count + 1, "lastTimestamp": now()})
                return
            made = await self.create(
                {
                    "apiVersion": "v1",
                    "kind": "Event",
                    "metadata": {"generateName": f"{name_of(obj)}.", "namespace": namespace},
                    "involvedObject": {k: v for k, v in about.items() if v},
                    "type": "Warning" if warning else "Normal",
                    "reason": reason,
                    "message": message,
                    "source": {"component": "operator-lifecycle-manager"},
                    "count": 1,
                    "firstTimestamp": now(),
                    "lastTimestamp": now(),
                }
            )
            self._event_counts[key] = (name_of(made), 1)
        except (ApiError, aiohttp.ClientError) as error:
            self._event_counts.pop(key, None)
            log.info("event %s about %s not posted: %s", reason, name_of(obj), error)
