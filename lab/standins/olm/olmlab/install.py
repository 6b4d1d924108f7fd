"""What a CSV's install strategy makes: Deployments, serving certificates, APIServices and webhooks."""

from __future__ import annotations

import base64
import copy
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from olmlab.certificates import make_certificate
from olmlab.csvspec import cert_users, owner_labels, selector, strategy_of
from olmlab.hashing import short_hash
from olmlab.kube import (
    API_SERVICE,
    CLUSTER_ROLE_BINDING,
    CRD,
    DEPLOYMENT,
    MANAGED,
    MUTATING,
    RBAC,
    SECRET,
    SERVICE,
    VALIDATING,
    Kube,
    Obj,
    annotations_of,
    condition,
    labels_of,
    name_of,
    namespace_of,
    owner_ref,
)

HASH_LABEL = "olm.deployment-spec-hash"
CERT_DAYS = 730
SERVING_CERTS = "/tmp/k8s-webhook-server/serving-certs"
APISERVER_CERTS = "/apiserver.local.config/certificates"


class NotInstalled(Exception):
    """The strategy isn't (yet) installed; `changed`: the Deployment isn't what the CSV asks for."""

    def __init__(self, message: str, *, changed: bool = False, hopeless: bool = False) -> None:
        super().__init__(message)
        self.changed, self.hopeless = changed, hopeless


class BadDeployment(Exception):
    """What the Deployment should be can't be worked out: its certificate is gone."""


def service_name(deployment: str) -> str:
    return f"{deployment}-service"


def ca_hash(pem: bytes) -> str:
    return hashlib.sha256(pem).hexdigest()


def mount_certificate(pod: Obj, secret: str) -> None:
    """Mount the serving certificate in every container, in place of whatever was mounted at its two paths."""
    files = {
        "apiservice-cert": (APISERVER_CERTS, "apiserver.crt", "apiserver.key"),
        "webhook-cert": (SERVING_CERTS, "tls.crt", "tls.key"),
    }
    for volume, (path, crt, key) in files.items():
        items = [{"key": "tls.crt", "path": crt}, {"key": "tls.key", "path": key}]
        volumes = [v for v in pod.get("volumes") or () if v["name"] != volume]
        pod["volumes"] = [*volumes, {"name": volume, "secret": {"secretName": secret, "items": items}}]
        for container in pod["containers"]:
            mounts = [
                m
                for m in container.get("volumeMounts") or ()
                if m["mountPath"] != path and m["name"] != volume
            ]
            container["volumeMounts"] = [*mounts, {"name": volume, "mountPath": path}]


def add_env(pod: Obj, name: str, value: str) -> None:
    for container in pod["containers"]:
        others = [e for e in container.get("env") or () if e["name"] != name]
        container["env"] = [*others, {"name": name, "value": value}]


def apply_subscription_config(pod: Obj, config: Obj) -> None:
    """Subscription.spec.config as far as it is commonly used: env, resources, nodeSelector, tolerations."""
    for variable in config.get("env") or ():
        if "value" in variable:
            add_env(pod, variable["name"], variable["value"])
    for container in pod["containers"]:
        if config.get("resources"):
            container["resources"] = config["resources"]
    if config.get("nodeSelector"):
        pod["nodeSelector"] = config["nodeSelector"]
    if config.get("tolerations"):
        pod["tolerations"] = [*(pod.get("tolerations") or []), *config["tolerations"]]


class Installer:
    """Installs and checks the strategy of one CSV."""

    def __init__(self, kube: Kube, csv: Obj, config: Obj | None = None) -> None:
        self.kube, self.csv, self.config = kube, csv, config or {}
        self.namespace = namespace_of(csv)
        self.owner = owner_ref(csv)
        self.certs_rotate_at: str | None = None

    def _users(self, deployment: str) -> list[Obj]:
        return [d for d in cert_users(self.csv) if d.get("deploymentName") == deployment]

    def _object(self, api_version: str, kind: str, name: str, **fields: Any) -> Obj:
        meta = {
            "name": name,
            "namespace": self.namespace,
            "labels": dict(MANAGED),
            "ownerReferences": [self.owner],
        }
        return {"apiVersion": api_version, "kind": kind, "metadata": meta, **fields}

    def deployment(self, wanted: Obj, ca: bytes | None) -> Obj:
        """The Deployment for one entry of the strategy, with its hash label; `ca` if it has a certificate."""
        spec = copy.deepcopy(wanted["spec"])
        template = spec["template"]
        template.setdefault("metadata", {})
        own = template["metadata"].get("annotations") or {}
        template["metadata"]["annotations"] = own | annotations_of(self.csv)
        pod = template["spec"]
        if ca is not None:
            mount_certificate(pod, f"{service_name(wanted['name'])}-cert")
            pod.setdefault("serviceAccountName", "default")
            template["metadata"]["annotations"]["olmcahash"] = ca_hash(ca)
        apply_subscription_config(pod, self.config)
        add_env(pod, "OPERATOR_CONDITION_NAME", name_of(self.csv))
        spec["revisionHistoryLimit"] = 1
        made = self._object(*DEPLOYMENT, wanted["name"], spec=spec)
        made["metadata"]["labels"] |= (wanted.get("label") or {}) | owner_labels(self.csv)
        made["metadata"]["labels"][HASH_LABEL] = short_hash(spec)
        return made

    async def install(self) -> None:
        """Certificates, Deployments, then APIServices and webhooks; a Deployment is written over whole."""
        for wanted in strategy_of(self.csv).get("deployments") or ():
            users = self._users(wanted["name"])
            ca = await self._certificate(wanted, users) if users else None
            made = self.deployment(wanted, ca)
            current = await self.kube.get(DEPLOYMENT, self.namespace, wanted["name"])
            if current is None:
                await self.kube.create(made)
            else:
                meta = current["metadata"]
                labels = {k: v for k, v in labels_of(current).items() if not k.startswith("olm.")}
                meta["labels"] = labels | made["metadata"]["labels"]
                meta["ownerReferences"] = [self.owner]
                await self.kube.update({**current, **{"kind": "Deployment", "spec": made["spec"]}})
            for user in users:
                await self._publish(user, ca or b"")
        await self._remove_orphans()

    async def _remove_orphans(self) -> None:
        names = {d["name"] for d in strategy_of(self.csv).get("deployments") or ()}
        for found in await self.kube.list(DEPLOYMENT, self.namespace, selector(owner_labels(self.csv))):
            if name_of(found) not in names:
                await self.kube.delete(DEPLOYMENT, self.namespace, name_of(found))

    async def _certificate(self, wanted: Obj, users: list[Obj]) -> bytes:
        """Service, Secret and RBAC for a Deployment that serves; returns the CA's PEM."""
        service = service_name(wanted["name"])
        ports = {}
        for user in users:
            port = user.get("containerPort") or 443
            ports[port] = {"name": str(port), "port": port, "targetPort": user.get("targetPort") or port}
        spec = {"ports": list(ports.values()), "selector": wanted["spec"]["selector"]["matchLabels"]}
        await self.kube.delete(SERVICE, self.namespace, service)  # OLM makes a new one at each reinstall
        await self.kube.create(self._object(*SERVICE, service, spec=spec))
        ca = await self._secret(service)
        account = wanted["spec"]["template"]["spec"].get("serviceAccountName") or "default"
        subjects = [{"kind": "ServiceAccount", "name": account, "namespace": self.namespace}]
        rule = {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": [f"{service}-cert"],
            "verbs": ["get"],
        }
        role = {"apiGroup": RBAC.split("/")[0], "kind": "Role", "name": f"{service}-cert"}
        await self.kube.ensure(self._object(RBAC, "Role", f"{service}-cert", rules=[rule]), "rules")
        await self.kube.ensure(
            self._object(RBAC, "RoleBinding", f"{service}-cert", roleRef=role, subjects=subjects), "subjects"
        )
        delegator = {"apiGroup": role["apiGroup"], "kind": "ClusterRole", "name": "system:auth-delegator"}
        binding = self._object(*CLUSTER_ROLE_BINDING, f"{service}-{delegator['name']}")
        binding |= {"roleRef": delegator, "subjects": subjects}
        reader = self._object(RBAC, "RoleBinding", f"{service}-auth-reader")
        reader |= {
            "roleRef": {**role, "name": "extension-apiserver-authentication-reader"},
            "subjects": subjects,
        }
        reader["metadata"]["namespace"] = "kube-system"
        for other in (binding, reader):
            del other["metadata"]["ownerReferences"]  # out of the CSV's namespace: by label instead
            other["metadata"]["labels"] |= owner_labels(self.csv)
            await self.kube.ensure(other, "subjects")
        return ca

    async def _secret(self, service: str) -> bytes:
        name = f"{service}-cert"
        existing = await self.kube.get(SECRET, self.namespace, name)
        if existing and "olmCAKey" in (existing.get("data") or {}):
            await self.kube.ensure(
                self._object(*SECRET, name)
            )  # it must outlive the CSV that this one replaces
            return base64.b64decode(existing["data"]["olmCAKey"])
        until = datetime.now(UTC) + timedelta(days=CERT_DAYS)
        hosts = [f"{service}.{self.namespace}", f"{service}.{self.namespace}.svc"]
        ca, crt, key = make_certificate(hosts, until)
        parts = {"tls.crt": crt, "tls.key": key, "olmCAKey": ca}
        data = {k: base64.b64encode(v).decode() for k, v in parts.items()}
        secret = self._object(*SECRET, name, type="kubernetes.io/tls", data=data)
        secret["metadata"]["annotations"] = {"olmcahash": ca_hash(ca)}
        await self.kube.ensure(secret, "data")
        self.certs_rotate_at = (until - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return ca

    async def _publish(self, user: Obj, ca: bytes) -> None:
        bundle = base64.b64encode(ca).decode()
        if "generateName" not in user:
            await self._api_service(user, bundle)
        elif user["type"] == "ConversionWebhook":
            await self._conversion(user, bundle)
        else:
            await self._webhook(user, bundle)

    def _client_config(self, user: Obj, bundle: str) -> Obj:
        service = {"name": service_name(user["deploymentName"]), "namespace": self.namespace}
        service |= {"path": user.get("webhookPath") or "/", "port": user.get("containerPort") or 443}
        return {"caBundle": bundle, "service": service}

    async def _api_service(self, user: Obj, bundle: str) -> None:
        made = self._object(*API_SERVICE, f"{user['version']}.{user['group']}")
        del made["metadata"]["namespace"], made["metadata"]["ownerReferences"]
        made["metadata"]["labels"] |= owner_labels(self.csv)
        service = {"name": service_name(user["deploymentName"]), "namespace": self.namespace}
        made["spec"] = {
            "group": user["group"],
            "version": user["version"],
            "groupPriorityMinimum": 2000,
            "versionPriority": 15,
            "caBundle": bundle,
            "service": {**service, "port": user.get("containerPort") or 443},
        }
        await self.kube.ensure(made, "spec")

    async def _conversion(self, user: Obj, bundle: str) -> None:
        webhook = {
            "clientConfig": self._client_config(user, bundle),
            "conversionReviewVersions": user["admissionReviewVersions"],
        }
        for name in user.get("conversionCRDs") or ():
            await self.kube.patch(
                CRD, "", name, {"spec": {"conversion": {"strategy": "Webhook", "webhook": webhook}}}
            )

    async def _webhook(self, user: Obj, bundle: str) -> None:
        kind = VALIDATING if user["type"].startswith("Validating") else MUTATING
        copied = ("rules", "failurePolicy", "matchPolicy", "objectSelector", "sideEffects", "timeoutSeconds")
        hook = {k: user[k] for k in (*copied, "admissionReviewVersions", "reinvocationPolicy") if k in user}
        targets = annotations_of(self.csv).get("olm.targetNamespaces", "")
        if targets:
            values = targets.split(",")
            key = "kubernetes.io/metadata.name"
            hook["namespaceSelector"] = {
                "matchExpressions": [{"key": key, "operator": "In", "values": values}]
            }
        hook |= {"name": user["generateName"], "clientConfig": self._client_config(user, bundle)}
        labels = owner_labels(self.csv) | {"olm.webhook-description-generate-name": user["generateName"]}
        found = await self.kube.list(kind, "", selector(labels))
        labels |= MANAGED | {"olm.webhook-description-hash": short_hash(user)}
        if found:
            await self.kube.update({**found[0], "webhooks": [hook]})
            return
        meta = {"generateName": user["generateName"] + "-", "labels": labels}
        await self.kube.create({"apiVersion": kind[0], "kind": kind[1], "metadata": meta, "webhooks": [hook]})

    async def check(self) -> None:
        """Raises NotInstalled with the reason while a Deployment isn't there, not ready or not the CSV's."""
        for wanted in strategy_of(self.csv).get("deployments") or ():
            found = await self.kube.get(DEPLOYMENT, self.namespace, wanted["name"])
            if found is None or labels_of(found).get("olm.owner") != name_of(self.csv):
                raise NotInstalled(f"missing deployment with name={wanted['name']}")
            _check_status(found)
            template = found["spec"]["template"]["metadata"].get("annotations") or {}
            for key, value in annotations_of(self.csv).items():
                if key not in template:
                    raise NotInstalled(
                        f"annotations on deployment does not contain expected key: {key}", changed=True
                    )
                if template[key] != value:
                    raise NotInstalled(
                        f"unexpected annotation on deployment. Expected {key}:{value}, "
                        f"found {key}:{template[key]}",
                        changed=True,
                    )
            ca = await self.expected_ca(wanted["name"]) if self._users(wanted["name"]) else None
            new = labels_of(self.deployment(wanted, ca))[HASH_LABEL]
            old = labels_of(found).get(HASH_LABEL)
            if old is None:
                raise NotInstalled(
                    f"deployment {wanted['name']} doesn't have a spec hash, update it", changed=True
                )
            if old != new:
                raise NotInstalled(f"deployment changed old hash={old}, new hash={new}", changed=True)

    async def expected_ca(self, deployment: str) -> bytes:
        """The CA the Deployment's users were published with; BadDeployment when one of them lost it."""
        for user in self._users(deployment):
            name = f"{user['version']}.{user['group']}" if "group" in user else str(user["generateName"])
            if not await self._published(user):
                what = "owned APIServices" if "group" in user else "WebhookDescription"
                raise BadDeployment(f"could not retrieve caBundle for {what} {name}: unable to find CA")
        secret = await self.kube.get(SECRET, self.namespace, f"{service_name(deployment)}-cert")
        if not secret or "olmCAKey" not in (secret.get("data") or {}):
            raise BadDeployment(f"unable to get secret {service_name(deployment)}-cert")
        return base64.b64decode(secret["data"]["olmCAKey"])

    async def _published(self, user: Obj) -> bool:
        if "generateName" not in user:
            return await self.kube.get(API_SERVICE, "", f"{user['version']}.{user['group']}") is not None
        if user["type"] == "ConversionWebhook":
            found = [await self.kube.get(CRD, "", name) for name in user.get("conversionCRDs") or ()]
            return all(c and (c["spec"].get("conversion") or {}).get("strategy") == "Webhook" for c in found)
        kind = VALIDATING if user["type"].startswith("Validating") else MUTATING
        labels = owner_labels(self.csv) | {"olm.webhook-description-generate-name": user["generateName"]}
        return bool(await self.kube.list(kind, "", selector(labels)))


def _check_status(deployment: Obj) -> None:
    """kubectl rollout status' view of a Deployment, in OLM's words."""
    name, status = name_of(deployment), deployment.get("status") or {}
    waiting = f"waiting for deployment {name} to become ready: "
    if deployment["metadata"]["generation"] > status.get("observedGeneration", 0):
        raise NotInstalled(f'{waiting}waiting for spec update of deployment "{name}" to be observed...')
    progressing = condition(deployment, "Progressing") or {}
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        text = (
            f'deployment {name} not ready before timeout: deployment "{name}" exceeded its progress deadline'
        )
        raise NotInstalled(text, hopeless=True)
    outdated = status.get("replicas", 0) - status.get("updatedReplicas", 0)
    if outdated > 0:
        raise NotInstalled(
            f'{waiting}deployment "{name}" waiting for {outdated} outdated replica(s) to be terminated'
        )
    available = condition(deployment, "Available")
    if not available or available["status"] != "True":
        why = available["message"] if available else 'missing condition "Available"'
        raise NotInstalled(f'{waiting}deployment "{name}" not available: {why}')
