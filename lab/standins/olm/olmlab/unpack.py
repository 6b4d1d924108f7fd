"""Unpacking of bundle images by a Job into a ConfigMap, and the install steps a bundle makes."""

from __future__ import annotations

import base64
import gzip
import json
import re

import yaml

from olmlab.csvspec import owner_labels, strategy_of
from olmlab.hashing import bundle_name, canonical, long_hash, short_hash
from olmlab.kube import (
    CONFIG_MAP,
    JOB,
    MANAGED,
    RBAC,
    Kube,
    Obj,
    annotations_of,
    condition,
    name_of,
    namespace_of,
    owner_ref,
)
from olmlab.registry import Message

TIMEOUT_ANNOTATION = "operatorframework.io/bundle-unpack-timeout"
UNIT_S = {"h": 3600, "m": 60, "s": 1}


class UnpackFailed(Exception):
    """The unpack Job failed for good."""


def seconds(text: str) -> int:
    """A Go duration ("10m", "1h30m", "90s") in seconds."""
    return sum(int(n) * UNIT_S[u] for n, u in re.findall(r"(\d+)([hms])", text))


class Unpacker:
    """Makes and reads unpack Jobs; they live in the catalog's namespace and stay there."""

    def __init__(
        self, kube: Kube, *, opm_image: str, util_image: str, timeout_s: int, user_id: int | None
    ) -> None:
        self.kube, self.opm_image, self.util_image = kube, opm_image, util_image
        self.timeout_s, self.user_id = timeout_s, user_id

    async def unpack(self, catalog: Obj, image: str, group: Obj) -> Obj | None:
        """The ConfigMap with the bundle's manifests, or None while the Job runs; raises UnpackFailed."""
        namespace, name = namespace_of(catalog), bundle_name(image)
        timeout_s = seconds(annotations_of(group).get(TIMEOUT_ANNOTATION, "")) or self.timeout_s
        config_map = await self.kube.get(CONFIG_MAP, namespace, name)
        job = await self.kube.get(JOB, namespace, name) if config_map else None
        if config_map is None or job is None:
            await self._start(catalog, image, name, timeout_s)
            return None
        if failed := condition(job, "Failed"):
            raise UnpackFailed(f"Reason: {failed['reason']}, and Message: {failed['message']}")
        return config_map if condition(job, "Complete") and config_map.get("binaryData") else None

    async def _start(self, catalog: Obj, image: str, name: str, timeout_s: int) -> None:
        namespace = namespace_of(catalog)
        meta = {"name": name, "namespace": namespace, "labels": MANAGED}
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": meta | {"ownerReferences": [owner_ref(catalog)]},
        }
        config_map, _ = await self.kube.ensure(body)
        meta |= {"ownerReferences": [owner_ref(config_map)]}
        verbs = ["create", "get", "update"]
        rules = [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name], "verbs": verbs}]
        await self.kube.ensure({"apiVersion": RBAC, "kind": "Role", "metadata": meta, "rules": rules})
        role = {"apiGroup": RBAC.split("/")[0], "kind": "Role", "name": name}
        subjects = [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}]
        binding = {
            "apiVersion": RBAC,
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": role,
            "subjects": subjects,
        }
        await self.kube.ensure(binding)
        labels = MANAGED | {"operatorframework.io/bundle-unpack-ref": name}
        secrets = catalog["spec"].get("secrets") or []
        spec = self._job_spec(name, namespace, image, timeout_s, secrets)
        await self.kube.ensure(
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta | {"labels": labels}, "spec": spec}
        )

    def _job_spec(self, name: str, namespace: str, image: str, timeout_s: int, secrets: list[str]) -> Obj:
        def container(which: str, image: str, command: list[str], *mounts: str) -> Obj:
            return {
                "name": which,
                "image": image,
                "command": command,
                "imagePullPolicy": "IfNotPresent" if "@sha256:" in image else "Always",
                "volumeMounts": [{"name": m, "mountPath": f"/{m}"} for m in mounts],
                "resources": {"requests": {"cpu": "10m", "memory": "50Mi"}},
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }

        opm = ["opm", "alpha", "bundle", "extract", "-m", "/bundle/", "-n", namespace, "-c", name, "-z"]
        extract = container("extract", self.opm_image, opm, "bundle")
        extract["env"] = [{"name": "CONTAINER_IMAGE", "value": image}]
        security: Obj = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        if self.user_id is not None:
            security["runAsUser"] = self.user_id
        arches = ("amd64", "arm64", "ppc64le", "s390x")
        pod = {
            "restartPolicy": "Never",
            "securityContext": security,
            "imagePullSecrets": [{"name": s} for s in secrets],
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "kubernetes.io/arch", "operator": "Equal", "value": a} for a in arches],
            "initContainers": [
                container("util", self.util_image, ["/bin/cp", "-Rv", "/bin/cpb", "/util/cpb"], "util"),
                container("pull", image, ["/util/cpb", "/bundle"], "bundle", "util"),
            ],
            "containers": [extract],
            "volumes": [{"name": v, "emptyDir": {}} for v in ("bundle", "util")],
        }
        template = {"metadata": {"name": name, "labels": MANAGED}, "spec": pod}
        return {"activeDeadlineSeconds": timeout_s, "backoffLimit": 3, "template": template}


def manifests(config_map: Obj) -> list[Obj]:
    """The bundle's objects from an unpack ConfigMap: the CSV first, CRDs last, the others by file name.

    The real one's order behind the CSV is random; a late CRD makes the wait for it visible in every install.
    """
    packed = annotations_of(config_map).get("olm.contentEncoding") == "gzip+base64"
    objects = []
    for _, text in sorted((config_map.get("binaryData") or {}).items()):
        data = base64.b64decode(text)
        objects.append(yaml.safe_load(gzip.decompress(base64.b64decode(data)) if packed else data))
    place = {"ClusterServiceVersion": 0, "CustomResourceDefinition": 2}
    return sorted(objects, key=lambda o: place.get(o["kind"], 1))


def rbac_of(csv: Obj) -> list[Obj]:
    """Roles and bindings (and missing service accounts) for the permissions in a CSV's install strategy."""
    name, namespace, strategy = name_of(csv), namespace_of(csv), strategy_of(csv)
    group, labels, made = RBAC.split("/")[0], owner_labels(csv), []

    def add(prefix: str, account: str, rules: list[Obj], seed: object, namespaced: bool) -> None:
        full = f"{prefix}-{short_hash(seed)}"
        meta: Obj = {"name": full} | ({"namespace": namespace} if namespaced else {})
        scope = "" if namespaced else "Cluster"
        ref = {"apiGroup": group, "kind": f"{scope}Role", "name": full}
        who = [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]
        for kind, fields in (("Role", {"rules": rules}), ("RoleBinding", {"roleRef": ref, "subjects": who})):
            marked = labels | {"olm.permissions.hash": long_hash(canonical(fields))}
            made.append(
                {"apiVersion": RBAC, "kind": scope + kind, "metadata": meta | {"labels": marked}, **fields}
            )

    accounts = {
        p["serviceAccountName"] for f in ("permissions", "clusterPermissions") for p in strategy.get(f) or ()
    }
    for account in sorted(accounts - {"default"}):
        meta = {"name": account, "namespace": namespace, "labels": labels}
        made.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    for p in strategy.get("permissions") or ():
        account, rules = p["serviceAccountName"], p.get("rules") or []
        add(f"{name}-{account}", account, rules, [name, account, rules], True)
    for p in strategy.get("clusterPermissions") or ():
        account, rules = p["serviceAccountName"], p.get("rules") or []
        add(name, account, rules, [namespace, name, account, rules], False)
    return made


def objects_of(config_map: Obj, namespace: str, replaces: str, properties: str) -> list[Obj]:
    """Everything that installing a bundle in `namespace` creates, in the order of the steps."""
    objects = manifests(config_map)
    csv = objects[0]
    csv["metadata"]["namespace"] = namespace
    csv["metadata"].setdefault("annotations", {})["operatorframework.io/properties"] = properties
    csv["spec"].pop("replaces", None)  # the channel's entry decides, not the bundle
    if replaces:
        csv["spec"]["replaces"] = replaces
    present = {(o["kind"], name_of(o)) for o in objects}
    return objects + [o for o in rbac_of(csv) if (o["kind"], name_of(o)) not in present]


def properties_of(bundle: Message) -> str:
    found = [{"type": p["type"], "value": json.loads(p["value"])} for p in bundle["properties"]]
    return json.dumps({"properties": found}, separators=(",", ":"))


def lookup_for(bundle: Message, catalog: Obj) -> Obj:
    """InstallPlan.status.bundleLookups' entry for a bundle."""
    made = {
        "catalogSourceRef": {"name": name_of(catalog), "namespace": namespace_of(catalog)},
        "identifier": bundle["csvName"],
        "path": bundle["bundlePath"],
        "properties": properties_of(bundle),
    }
    return made | ({"replaces": bundle["replaces"]} if bundle["replaces"] else {})


def steps_for(lookup: Obj, config_map: Obj, namespace: str) -> list[Obj]:
    """The plan's steps: each refers to the ConfigMap for its manifest."""
    source = lookup["catalogSourceRef"]
    reference = {"kind": "ConfigMap", "name": name_of(config_map), "namespace": namespace_of(config_map)}
    reference |= {"catalogSourceName": source["name"], "catalogSourceNamespace": source["namespace"]}
    reference |= {"replaces": lookup.get("replaces", ""), "properties": lookup["properties"]}
    manifest = json.dumps(reference, separators=(",", ":"))
    steps = []
    for obj in objects_of(config_map, namespace, lookup.get("replaces", ""), lookup["properties"]):
        group, _, version = obj["apiVersion"].rpartition("/")
        resource = {
            "group": group,
            "version": version,
            "kind": obj["kind"],
            "name": name_of(obj),
            "manifest": manifest,
        }
        resource |= {"sourceName": source["name"], "sourceNamespace": source["namespace"]}
        steps.append({"resolving": lookup["identifier"], "resource": resource, "status": "Unknown"})
    return steps
