"""What comes with a CSV: OperatorCondition, lifted rights, roles for its APIs, copies, clean-up."""

from __future__ import annotations

from olmlab import requirements
from olmlab.csvspec import (
    COPIED,
    UNCOPIED_REASONS,
    is_copied,
    owned,
    owner_labels,
    provided_apis,
    selector,
    strategy_of,
)
from olmlab.groups import VERBS, aggregation_label
from olmlab.informer import Informer, Queue
from olmlab.kube import (
    API_SERVICE,
    CLUSTER_ROLE,
    CLUSTER_ROLE_BINDING,
    CONDITION,
    CRD,
    CSV,
    GROUP,
    MANAGED,
    MUTATING,
    RBAC,
    ROLE,
    ROLE_BINDING,
    VALIDATING,
    Kube,
    Obj,
    annotations_of,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    owner_ref,
)


class Companions:
    """Keeps the objects around each CSV."""

    def __init__(self, kube: Kube, csvs: Informer, groups: Informer, namespaces: Informer) -> None:
        self.kube, self.csvs, self.groups, self.namespaces = kube, csvs, groups, namespaces
        self.copies = Queue(self.copy_to_namespaces)

    def group_of(self, csv: Obj) -> Obj | None:
        groups = self.groups.list(namespace_of(csv))
        return groups[0] if len(groups) == 1 else None

    async def ensure_condition_object(self, csv: Obj) -> None:
        """The OperatorCondition of a CSV and the right of its service accounts to write it."""
        strategy = strategy_of(csv)
        accounts = [
            p["serviceAccountName"]
            for f in ("permissions", "clusterPermissions")
            for p in strategy.get(f) or ()
        ]
        if not strategy.get("deployments"):
            return
        spec = {"deployments": [d["name"] for d in strategy["deployments"]], "serviceAccounts": accounts}
        meta = {"name": name_of(csv), "namespace": namespace_of(csv)}
        owned_by_csv = meta | {"ownerReferences": [owner_ref(csv, controller=True)]}
        made, _ = await self.kube.ensure(
            {"apiVersion": CONDITION[0], "kind": CONDITION[1], "metadata": owned_by_csv, "spec": spec}
        )
        meta |= {"labels": MANAGED, "ownerReferences": [owner_ref(made, controller=True)]}
        rule = {
            "apiGroups": ["operators.coreos.com"],
            "resources": ["operatorconditions"],
            "resourceNames": [name_of(csv)],
            "verbs": ["get", "update", "patch"],
        }
        await self.kube.ensure({"apiVersion": RBAC, "kind": "Role", "metadata": meta, "rules": [rule]})
        role = {"apiGroup": RBAC.split("/")[0], "kind": "Role", "name": name_of(csv)}
        subjects = [{"kind": "ServiceAccount", "name": a} for a in accounts]
        binding = {
            "apiVersion": RBAC,
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": role,
            "subjects": subjects,
        }
        await self.kube.ensure(binding)

    async def lift_rights(self, csv: Obj) -> None:
        """For an operator of all namespaces: its namespaced Roles once more as ClusterRoles."""
        if not strategy_of(csv).get("permissions"):
            return
        wanted = selector(owner_labels(csv))
        roles = await self.kube.list(ROLE, namespace_of(csv), wanted)
        bindings = await self.kube.list(ROLE_BINDING, namespace_of(csv), wanted)
        if not roles or (await requirements.permissions(self.kube, csv, lifted=True))[0]:
            return
        for role in roles:
            namespaces = {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]}
            meta = {"name": name_of(role), "labels": labels_of(role)}
            rules = [*(role.get("rules") or []), namespaces]
            await self.kube.ensure(
                {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": meta, "rules": rules}, "rules"
            )
        for binding in bindings:
            meta = {"name": name_of(binding), "labels": labels_of(binding)}
            made = {
                "apiVersion": RBAC,
                "kind": "ClusterRoleBinding",
                "metadata": meta,
                "subjects": binding["subjects"],
            }
            await self.kube.ensure(
                {**made, "roleRef": binding["roleRef"] | {"kind": "ClusterRole"}}, "subjects"
            )

    async def roles_for_apis(self, csv: Obj) -> None:
        """The aggregated ClusterRoles by which admins, editors and viewers may use the operator's kinds."""
        for crd in owned(csv, "customresourcedefinitions"):
            plural, group = crd["name"].split(".", 1)
            found = await self.kube.get(CRD, "", crd["name"])
            if not found:
                continue
            owner = {**owner_ref(found), "kind": "customresourcedefinition"}
            rule = {"apiGroups": [group], "resources": [plural]}
            api = f"{crd['kind']}.{crd['version']}.{group}"
            wanted = {s: [rule | {"verbs": verbs}] for s, verbs in VERBS.items()}
            seen = {"apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"]}
            wanted["crdview"] = [seen | {"resourceNames": [crd["name"]], "verbs": ["get"]}]
            for suffix, rules in wanted.items():
                role = suffix.removeprefix("crd")
                labels = {
                    f"rbac.authorization.k8s.io/aggregate-to-{role}": "true",
                    aggregation_label(api, role): "true",
                }
                meta = {"name": f"{crd['name']}-{crd['version']}-{suffix}", "labels": MANAGED | labels}
                meta["ownerReferences"] = [owner]
                made = {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": meta, "rules": rules}
                await self.kube.ensure(made, "rules")

    async def copy_to_namespaces(self, key: tuple[str, str]) -> None:
        """Bring the copies of a CSV in its target namespaces up to date; without it, remove them."""
        csv = self.csvs.get(*key)
        group = self.group_of(csv) if csv else None
        targets = set((group.get("status") or {}).get("namespaces") or ()) if group else set()
        if "" in targets:
            targets = {name_of(n) for n in self.namespaces.list() if "deletionTimestamp" not in n["metadata"]}
        targets.discard(key[0])
        existing = {
            namespace_of(c): c
            for c in self.csvs.list()
            if labels_of(c).get(COPIED) == key[0] and name_of(c) == key[1]
        }
        kind = CSV
        for namespace in sorted(existing.keys() - targets if csv is None or group else ()):
            await self.kube.delete(kind, namespace, key[1])
        if csv is None or (csv.get("status") or {}).get("reason") in UNCOPIED_REASONS:
            return
        labels = {k: v for k, v in labels_of(csv).items() if not k.startswith("operators.coreos.com/")}
        notes = {k: v for k, v in annotations_of(csv).items() if k != "olm.targetNamespaces"}
        text = f"The operator is running in {key[0]} but is managing this namespace"
        status = csv.get("status", {}) | {"reason": "Copied", "message": text}
        for namespace in sorted(targets):
            wanted = {
                "name": key[1],
                "namespace": namespace,
                "annotations": notes,
                "labels": labels | {COPIED: key[0]},
            }
            body = {"apiVersion": kind[0], "kind": kind[1], "metadata": wanted, "spec": csv["spec"]}
            current = existing.get(namespace)
            if current is None:
                current, _ = await self.kube.ensure(body, "spec")
            elif (current["spec"], annotations_of(current)) != (csv["spec"], notes):
                current = await self.kube.update(current | {"spec": csv["spec"]})
            if current.get("status") != status:
                await self.kube.update(current | {"status": status}, "status")

    async def clean_up(self, namespace: str, name: str) -> None:
        """After a CSV is gone: what carries its label outside its namespace, and its CRDs' conversion."""
        csv = {"metadata": {"namespace": namespace, "name": name}}
        wanted = selector(owner_labels(csv))
        for webhook_kind in (MUTATING, VALIDATING):
            for found in await self.kube.list(webhook_kind, "", wanted):
                await self.kube.delete(webhook_kind, "", name_of(found))
        for kind in (CLUSTER_ROLE, CLUSTER_ROLE_BINDING, API_SERVICE):
            for found in await self.kube.list(kind, "", wanted):
                await self.kube.delete(kind, "", name_of(found))
        for found in await self.kube.list(ROLE_BINDING, "kube-system", wanted):
            await self.kube.delete(ROLE_BINDING, "kube-system", name_of(found))
        for group in self.groups.list(namespace):
            left = {a for c in self.csvs.list(namespace) if not is_copied(c) for a in provided_apis(c)}
            have = annotations_of(group).get("olm.providedAPIs")
            if have is not None and set(filter(None, have.split(","))) != left:
                body = {"metadata": {"annotations": {"olm.providedAPIs": ",".join(sorted(left))}}}
                await self.kube.patch(GROUP, *key_of(group), body)
        self.copies.add((namespace, name))

    async def undo_conversion(self, csv: Obj) -> None:
        """A deleted CSV's conversion webhooks: back to no conversion, unless a successor took over."""
        for hook in csv["spec"].get("webhookdefinitions") or ():
            for name in hook.get("conversionCRDs") or ():
                body = {"spec": {"conversion": {"strategy": "None", "webhook": None}}}
                await self.kube.patch(CRD, "", name, body)
