"""OperatorGroups: target namespaces, ClusterRoles, and the complaint about a second one."""

from __future__ import annotations

from olmlab.hashing import fnv, long_hash
from olmlab.informer import Informer, Queue
from olmlab.kube import (
    CLUSTER_ROLE,
    MANAGED,
    RBAC,
    Kube,
    Obj,
    annotations_of,
    condition,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    now,
)

VERBS = {
    "admin": ["*"],
    "edit": ["create", "update", "patch", "delete"],
    "view": ["get", "list", "watch"],
}
# A second OperatorGroup's removal isn't noticed at all, the last one's only after this long (recorded 9.3 s).
GONE_S = 9


def aggregation_label(api: str, suffix: str) -> str:
    return f"olm.opgroup.permissions/aggregate-to-{fnv(api.encode(), 64):x}-{suffix}"


class GroupController:
    """Keeps OperatorGroups' status and ClusterRoles."""

    def __init__(self, kube: Kube, groups: Informer, namespaces: Informer) -> None:
        self.kube, self.groups, self.namespaces = kube, groups, namespaces
        self.queue = Queue(self.sync)

    def targets(self, group: Obj) -> list[str]:
        spec = group.get("spec") or {}
        if wanted := (spec.get("selector") or {}).get("matchLabels"):
            return sorted(
                name_of(n) for n in self.namespaces.list() if wanted.items() <= labels_of(n).items()
            )
        return sorted(spec.get("targetNamespaces") or [""])

    async def sync(self, key: tuple[str, str]) -> None:
        group = self.groups.get(*key)
        if group is None:
            await self.clean_up(*key)
            return
        several = len(self.groups.list(key[0])) > 1
        status = dict(group.get("status") or {})
        if status.get("namespaces") != self.targets(group):
            status |= {"namespaces": self.targets(group), "lastUpdated": now()}
        if several and not condition(group, "MultipleOperatorGroup"):
            status["conditions"] = [
                {
                    "type": "MultipleOperatorGroup",
                    "status": "True",
                    "reason": "MultipleOperatorGroupsFound",
                    "message": "Multiple OperatorGroup found in the same namespace",
                    "lastTransitionTime": now(),
                }
            ]
        elif not several:
            status.pop("conditions", None)
        if status != group.get("status"):
            await self.kube.update(group | {"status": status}, "status")
        if several:
            for other in self.groups.list(key[0]):
                if not condition(other, "MultipleOperatorGroup") and key_of(other) != key:
                    self.queue.add(key_of(other))
            return
        await self.ensure_roles(group)

    async def ensure_roles(self, group: Obj) -> None:
        apis = sorted(filter(None, annotations_of(group).get("olm.providedAPIs", "").split(",")))
        for suffix in VERBS:
            digest = long_hash(f"{namespace_of(group)}/{name_of(group)}/{suffix}".encode())
            labels = MANAGED | {
                "olm.owner": name_of(group),
                "olm.owner.namespace": namespace_of(group),
                "olm.owner.kind": "OperatorGroup",
            }
            meta = {"name": f"olm.og.{name_of(group)}.{suffix}-{digest}", "labels": labels}
            role: Obj = {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": meta}
            if apis:
                found = [{"matchLabels": {aggregation_label(api, suffix): "true"}} for api in apis]
                role["aggregationRule"] = {"clusterRoleSelectors": found}
            await self.kube.ensure(role, "aggregationRule")

    async def clean_up(self, namespace: str, name: str) -> None:
        wanted = f"olm.owner={name},olm.owner.namespace={namespace},olm.owner.kind=OperatorGroup"
        for role in await self.kube.list(CLUSTER_ROLE, "", wanted):
            await self.kube.delete(CLUSTER_ROLE, "", name_of(role))
