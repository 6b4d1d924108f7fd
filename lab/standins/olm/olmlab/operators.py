"""The cluster-scoped Operator object: one for each subscribed package and namespace, with its components."""

from __future__ import annotations

from olmlab.csvspec import owned, owner_labels, selector
from olmlab.informer import Informer, Queue
from olmlab.kube import (
    CLUSTER_ROLE,
    CLUSTER_ROLE_BINDING,
    CONDITION,
    CRD,
    CSV,
    DEPLOYMENT,
    INSTALL_PLAN,
    OPERATOR,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    SUBSCRIPTION,
    Kind,
    Kube,
    Obj,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    owned_by,
)

PREFIX = "operators.coreos.com/"
NAMESPACED = (
    CSV,
    CONDITION,
    INSTALL_PLAN,
    SUBSCRIPTION,
    DEPLOYMENT,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
)
CLUSTER = (CLUSTER_ROLE, CLUSTER_ROLE_BINDING, CRD)
SETTLE_S = 1.0  # one look after the last change of many: a look costs a dozen lists


class OperatorController:
    """Labels the components of each subscribed operator and writes them into the Operator's status."""

    def __init__(self, kube: Kube, subscriptions: Informer, csvs: Informer) -> None:
        self.kube, self.subscriptions, self.csvs = kube, subscriptions, csvs
        self.queue = Queue(self.sync, retry_s=1)

    def changed(self, obj: Obj) -> None:
        """Something happened in a namespace: look again at the operators subscribed there."""
        for sub in self.subscriptions.list(namespace_of(obj)):
            self.queue.add((namespace_of(sub), sub["spec"]["name"]), SETTLE_S)
        for label in labels_of(obj):
            if label.startswith(PREFIX) and "." in label:
                package, _, namespace = label.removeprefix(PREFIX).rpartition(".")
                self.queue.add((namespace, package), SETTLE_S)

    async def _label(self, obj: Obj, label: str) -> None:
        if label not in labels_of(obj):
            body = {"metadata": {"labels": {label: ""}}}
            await self.kube.patch((obj["apiVersion"], obj["kind"]), *key_of(obj), body)

    async def _adopt(self, sub: Obj, label: str) -> None:
        await self._label(sub, label)
        status = sub.get("status") or {}
        plan = (status.get("installPlanRef") or {}).get("name")
        if plan and (found := await self.kube.get(INSTALL_PLAN, namespace_of(sub), plan)):
            await self._label(found, label)
        csv = self.csvs.get(namespace_of(sub), status.get("installedCSV", ""))
        if csv is None:
            return
        await self._label(csv, label)
        for crd in owned(csv, "customresourcedefinitions"):
            if found := await self.kube.get(CRD, "", crd["name"]):
                await self._label(found, label)
        for kind in (CLUSTER_ROLE, CLUSTER_ROLE_BINDING):
            for obj in await self.kube.list(kind, "", selector(owner_labels(csv))):
                await self._label(obj, label)
        for kind in (DEPLOYMENT, SERVICE, SECRET, ROLE, ROLE_BINDING, CONDITION):
            for obj in await self.kube.list(kind, namespace_of(csv)):
                if owned_by(obj, csv):
                    await self._label(obj, label)

    async def sync(self, key: tuple[str, str]) -> None:
        namespace, package = key
        label, name = f"{PREFIX}{package}.{namespace}", f"{package}.{namespace}"
        subs = [s for s in self.subscriptions.list(namespace) if s["spec"]["name"] == package]
        for sub in subs:
            await self._adopt(sub, label)
        current = await self.kube.get(OPERATOR, "", name)
        if current is None:
            if not subs:
                return
            body = {"apiVersion": OPERATOR[0], "kind": OPERATOR[1], "metadata": {"name": name}, "spec": {}}
            current = await self.kube.create(body)
        refs = [
            self._ref(kind, obj)
            for kind in (*NAMESPACED, *CLUSTER)
            for obj in await self.kube.list(kind, "", label)
        ]
        refs = [r for r in refs if r]
        refs.sort(key=lambda r: (r["kind"], r["name"], r.get("namespace", "")))
        wanted = {"matchExpressions": [{"key": label, "operator": "Exists"}]}
        status = {"components": {"labelSelector": wanted, **({"refs": refs} if refs else {})}}
        if current.get("status") != status:
            await self.kube.update(current | {"status": status}, "status")

    @staticmethod
    def _ref(kind: Kind, obj: Obj) -> Obj:
        if "olm.copiedFrom" in labels_of(obj):
            return {}
        ref: Obj = {"apiVersion": kind[0], "kind": kind[1], "name": name_of(obj)}
        if namespace_of(obj):
            ref["namespace"] = namespace_of(obj)
        fields = ("type", "status", "reason", "message", "lastTransitionTime", "lastUpdateTime")
        found = (obj.get("status") or {}).get("conditions") or ()
        if kind == CSV and found:  # a CSV's conditions have phases; the last one stands for all
            last = found[-1]
            found = [{**last, "type": last["phase"], "status": "True"}]
        if found:
            ref["conditions"] = [{k: c[k] for k in fields if k in c} for c in found]
        return ref
