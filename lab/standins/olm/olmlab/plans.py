"""InstallPlans: approval, and the execution of their steps."""

from __future__ import annotations

import asyncio
import copy
import json

from olmlab.hashing import alongside_key
from olmlab.informer import Informer, Queue
from olmlab.kube import (
    CONFIG_MAP,
    CRD,
    CSV,
    INSTALL_PLAN,
    MANAGED,
    ApiError,
    Kube,
    Obj,
    annotations_of,
    condition,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    now,
    owner_ref,
)
from olmlab.requirements import ALONGSIDE
from olmlab.unpack import objects_of

# client-go's default of 5 requests a second is why an observer of the real one always sees a new CSV wait for
# its CRD and RBAC (RequirementsNotMet) before it is installed.
STEP_PAUSE_S = 0.15
RETRIES = 6
RETRY_S = 10  # with RETRIES about --install-plan-retry-timeout's minute
UNOWNED = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", CRD[1], CSV[1])


class PlanController:
    """Executes approved InstallPlans."""

    def __init__(self, kube: Kube, plans: Informer, csvs: Informer) -> None:
        self.kube, self.plans, self.csvs = kube, plans, csvs
        self.queue = Queue(self.sync)
        self.attempts: dict[tuple[str, str], int] = {}

    async def sync(self, key: tuple[str, str]) -> None:
        plan = await self.kube.get(INSTALL_PLAN, *key)
        if plan is None:
            self.attempts.pop(key, None)
            return
        status = plan.get("status") or {}
        if status.get("phase") == "RequiresApproval" and plan["spec"]["approved"]:
            await self.kube.update(plan | {"status": status | {"phase": "Installing"}}, "status")
        elif status.get("phase") == "Installing":
            await self._install(plan)

    async def _install(self, plan: Obj) -> None:
        status = copy.deepcopy(plan["status"])
        status.setdefault("startTime", now())
        done: Obj = {"type": "Installed", "status": "True"}
        try:
            status["plan"] = await self._execute(plan)
            status["phase"] = "Complete"
        except ApiError as error:
            attempt = self.attempts[key_of(plan)] = self.attempts.get(key_of(plan), 0) + 1
            if attempt <= RETRIES:
                self.queue.add(key_of(plan), RETRY_S if error.code != 409 else 0.5)
                return
            status["phase"] = "Failed"
            done |= {"status": "False", "reason": "InstallComponentFailed", "message": str(error)}
        status["conditions"] = [done | {"lastTransitionTime": now(), "lastUpdateTime": now()}]
        fresh = await self.kube.get(INSTALL_PLAN, *key_of(plan))
        if fresh:
            await self.kube.update(fresh | {"status": status}, "status")

    async def _execute(self, plan: Obj) -> list[Obj]:
        """Create what the steps name; returns them with the status Created or Present."""
        steps, objects = copy.deepcopy(plan["status"]["plan"]), {}
        for manifest in {s["resource"]["manifest"] for s in steps}:
            ref = json.loads(manifest)
            config_map = await self.kube.get(CONFIG_MAP, ref["namespace"], ref["name"])
            if config_map is None:
                raise ApiError(404, "NotFound", f'configmaps "{ref["name"]}" not found')
            for obj in objects_of(config_map, namespace_of(plan), ref["replaces"], ref["properties"]):
                objects[manifest, obj["kind"], name_of(obj)] = obj
        for step in steps:
            resource = step["resource"]
            obj = objects[resource["manifest"], resource["kind"], resource["name"]]
            created = await self._apply(obj, step["resolving"], namespace_of(plan))
            step["status"] = "Created" if created else "Present"
            await asyncio.sleep(STEP_PAUSE_S)
        return steps

    async def _apply(self, obj: Obj, csv_name: str, namespace: str) -> bool:
        obj = copy.deepcopy(obj)
        meta = obj["metadata"]
        meta["labels"] = labels_of(obj) | MANAGED
        if obj["kind"] == CRD[1]:
            return await self._apply_crd(obj, csv_name, namespace)
        cluster_wide = obj["kind"].startswith("Cluster") and obj["kind"] != CSV[1]
        if not cluster_wide:
            meta["namespace"] = namespace
        own = obj["kind"] not in UNOWNED or "olm.owner" in labels_of(obj)
        if own and not cluster_wide and (csv := await self.kube.get(CSV, namespace, csv_name)):
            meta["ownerReferences"] = [owner_ref(csv)]
        if obj["kind"] == "ClusterRole" and "olm.owner" not in labels_of(obj):
            meta["labels"]["olm.owner"] = csv_name
        if obj["kind"] == CSV[1]:
            try:
                await self.kube.create(obj)
            except ApiError as error:
                if error.code == 409:
                    return False
                raise
            return True
        # of a Service everything stays, its cluster IP to begin with
        fields = () if obj["kind"] == "Service" else ("rules", "subjects", "data", "spec")
        _, created = await self.kube.ensure(obj, *fields)
        return created

    async def _apply_crd(self, crd: Obj, csv_name: str, namespace: str) -> bool:
        current = await self.kube.get(CRD, "", name_of(crd))
        notes = dict(annotations_of(crd))
        if current:  # forget the CSVs that are gone
            for key, value in annotations_of(current).items():
                ns, _, name = value.partition("/")
                if not key.startswith(ALONGSIDE) or self.csvs.get(ns, name):
                    notes.setdefault(key, value)
        notes[alongside_key(namespace, csv_name)] = f"{namespace}/{csv_name}"
        crd["metadata"]["annotations"] = notes
        if current is None:
            made = await self.kube.create(crd)
            for _ in range(20):
                if (condition(made, "Established") or {}).get("status") == "True":
                    break
                await asyncio.sleep(0.1)
                made = await self.kube.get(CRD, "", name_of(crd)) or made
            return True
        wanted = copy.deepcopy(current)
        wanted["metadata"]["annotations"] = notes
        wanted["metadata"]["labels"] = labels_of(current) | labels_of(crd)
        conversion = current["spec"].get("conversion")
        wanted["spec"] = crd["spec"] | ({"conversion": conversion} if conversion else {})
        await self.kube.update(wanted)
        return False
