"""Subscriptions: catalog health, install plan state, and the resolution of a namespace into a plan."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

from olmlab.catalogs import CatalogController, CatalogUnavailable
from olmlab.csvspec import is_copied
from olmlab.informer import Queue
from olmlab.kube import (
    CATALOG,
    CSV,
    GROUP,
    INSTALL_PLAN,
    NAMESPACE,
    SUBSCRIPTION,
    Kube,
    Obj,
    condition,
    key_of,
    name_of,
    namespace_of,
    now,
    owner_ref,
)
from olmlab.resolve import Choice, Unsatisfiable, choose, refuse_strangers
from olmlab.unpack import Unpacker, UnpackFailed, lookup_for, steps_for

HEALTH = "CatalogSourcesUnhealthy"
PENDING = "InstallPlanPending"
# The real one's next resolution of a namespace comes 1 to 3 s after a CSV appeared (request limits, queues).
AFTER_CSV_S = 2.0


class NotConnected(Exception):
    """A catalog was made this moment and has no client yet."""


def set_condition(
    sub: Obj, type_: str, status: str, reason: str = "", message: str = "", *, timed: bool = False
) -> bool:
    """Set one of a Subscription's conditions; returns whether that changed anything."""
    wanted = {"type": type_, "status": status} | ({"reason": reason} if reason else {})
    wanted |= {"message": message} if message else {}
    conditions = sub.setdefault("status", {}).setdefault("conditions", [])
    current = condition(sub, type_)
    if current and {k: v for k, v in current.items() if k != "lastTransitionTime"} == wanted:
        return False
    if timed:
        wanted["lastTransitionTime"] = now()
    if current:
        current.clear()
        current.update(wanted)
    else:
        conditions.append(wanted)
    return True


def drop_condition(sub: Obj, *types: str) -> bool:
    before = (sub.get("status") or {}).get("conditions") or []
    after = [c for c in before if c["type"] not in types]
    if len(after) < len(before):
        sub["status"]["conditions"] = after
    return len(after) < len(before)


class NamespaceController:
    """Brings the Subscriptions of a namespace forward, one step a sync."""

    def __init__(
        self, kube: Kube, catalogs: CatalogController, unpacker: Unpacker, global_namespace: str
    ) -> None:
        self.kube, self.catalogs, self.unpacker, self.global_namespace = (
            kube,
            catalogs,
            unpacker,
            global_namespace,
        )
        self.queue = Queue(self.sync)
        self.hold: dict[str, float] = {}  # namespace: loop time before which it isn't resolved
        self.errors: dict[str, int] = {}

    async def save(self, sub: Obj) -> None:
        sub["status"]["lastUpdated"] = now()
        sub["metadata"] = (await self.kube.update(sub, "status"))["metadata"]

    async def sync(self, namespace: str) -> None:
        subs = await self.kube.list(SUBSCRIPTION, namespace)
        if not subs:
            self.errors.pop(namespace, None)
            return
        found = await self.kube.list(CSV, namespace)
        csvs = [c for c in found if not is_copied(c)]
        plans = {name_of(p): p for p in await self.kube.list(INSTALL_PLAN, namespace)}
        changed = False
        for sub in subs:
            changed |= await self.check_health(sub) or await self.check_plan(sub, plans)
            changed |= await self.check_csv(sub, {name_of(c) for c in found})  # a copy will do
        if changed:
            return  # the update brings us back
        if all(self.waits_for_plan(s) for s in subs):
            return
        wait = self.hold.get(namespace, 0) - asyncio.get_running_loop().time()
        if wait > 0:
            self.queue.add(namespace, wait)
            return
        groups = await self.kube.list(GROUP, namespace)
        if len(groups) == 1:  # none or several: nothing happens, and nothing is said
            await self.resolve(namespace, subs, csvs, plans, groups[0])

    @staticmethod
    def waits_for_plan(sub: Obj) -> bool:
        status = sub.get("status") or {}
        return bool(status.get("installPlanRef")) and status.get("state") == "UpgradePending"

    # -- the Subscription's view of the world --

    async def check_health(self, sub: Obj) -> bool:
        catalogs = self.catalogs.visible((self.global_namespace, namespace_of(sub)))
        status = sub.setdefault("status", {})
        before = status.get("catalogHealth") or []
        old = {(h["catalogSourceRef"]["namespace"], h["catalogSourceRef"]["name"]) for h in before}
        new = {key_of(c) for c in catalogs}
        source = (sub["spec"]["sourceNamespace"], sub["spec"]["source"])
        missing = f"targeted catalogsource {'/'.join(source)} missing" if source not in new else ""
        settled = "UnhealthyCatalogSourceFound" if missing else "AllCatalogSourcesHealthy"
        reason = "CatalogSourcesAdded" if new - old else "CatalogSourcesDeleted" if old - new else settled
        if not before and not catalogs:
            reason = settled
        message = missing or "all available catalogsources are healthy"
        if (
            not set_condition(sub, HEALTH, "True" if missing else "False", reason, message, timed=True)
            and old == new
        ):
            return False
        if old != new:
            status["catalogHealth"] = [self._health(c) for c in sorted(catalogs, key=key_of)]
        await self.save(sub)
        return True

    @staticmethod
    def _health(catalog: Obj) -> Obj:
        ref = {"apiVersion": CATALOG[0], "kind": CATALOG[1], "name": name_of(catalog)}
        meta = catalog["metadata"]
        ref |= {
            "namespace": meta["namespace"],
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
        }
        return {"catalogSourceRef": ref, "healthy": True, "lastUpdated": now()}

    async def check_plan(self, sub: Obj, plans: dict[str, Obj]) -> bool:
        """Mirror the state of the InstallPlan that the Subscription refers to."""
        ref = (sub.get("status") or {}).get("installPlanRef")
        if not ref:
            return False
        plan = plans.get(ref["name"])
        phase = (plan.get("status") or {}).get("phase") if plan else None
        if plan is None:
            changed = drop_condition(sub, PENDING)
            changed |= set_condition(
                sub, "InstallPlanMissing", "True", "ReferencedInstallPlanNotFound", timed=True
            )
        elif phase == "Failed":
            said = (condition(plan, "Installed") or {}).get("message", "")
            changed = drop_condition(sub, PENDING)
            changed |= set_condition(
                sub, "InstallPlanFailed", "True", "InstallComponentFailed", said, timed=True
            )
        elif phase == "Complete":
            changed = drop_condition(sub, PENDING, "InstallPlanFailed", "InstallPlanMissing")
        else:
            changed = set_condition(sub, PENDING, "True", phase or "Installing", timed=True)
        if changed:
            await self.save(sub)
        return changed

    async def check_csv(self, sub: Obj, csvs: set[str]) -> bool:
        """AtLatestKnown as soon as the current CSV exists, whatever its phase; UpgradePending without it."""
        status = sub["status"]
        current = status.get("currentCSV")
        if not current:
            return False
        state = "AtLatestKnown" if current in csvs else "UpgradePending"
        if status.get("state") == state:
            return False
        status["state"] = state
        if state == "AtLatestKnown":
            status["installedCSV"] = current
            self.hold[namespace_of(sub)] = asyncio.get_running_loop().time() + AFTER_CSV_S
        await self.save(sub)
        return True

    # -- resolution --

    async def resolve(
        self, namespace: str, subs: list[Obj], csvs: list[Obj], plans: dict[str, Obj], group: Obj
    ) -> None:
        try:
            choices = await self._choose(namespace, subs, csvs)
        except Unsatisfiable as error:
            await self._failed(namespace, subs, "ConstraintsNotSatisfiable", str(error))
            return
        except NotConnected:
            self.queue.add(namespace, 0.3)
            return
        except CatalogUnavailable as error:
            await self._failed(namespace, subs, "ErrorPreventedResolution", str(error))
            # client-go's backoff, at the pace several triggers drive the real one's failure count
            failures = self.errors[namespace] = self.errors.get(namespace, 0) + 1
            self.queue.add(namespace, min(0.005 * 4**failures, 1000))
            return
        self.errors.pop(namespace, None)
        wanted = [
            c for c in choices if c.bundle and (c.sub.get("status") or {}).get("currentCSV") != c.csv_name
        ]
        plan = await self._plan(namespace, subs, plans, wanted, group) if wanted else None
        if wanted and plan is None:
            return  # still unpacking, or that failed; the Subscriptions say so
        for sub in subs:
            if any(c.sub is sub for c in wanted):
                self._refer(sub, plan or {}, next(c.csv_name for c in wanted if c.sub is sub))
                drop_condition(sub, "ResolutionFailed")
                await self.save(sub)
            elif set_condition(sub, "BundleUnpacking", "False") | drop_condition(
                sub, "BundleUnpackFailed", "ResolutionFailed"
            ):
                await self.save(sub)

    async def _choose(self, namespace: str, subs: list[Obj], csvs: list[Obj]) -> list[Choice]:
        catalogs = {key_of(c): c for c in self.catalogs.visible((self.global_namespace, namespace))}
        bundles, packages = {}, {}
        for key, catalog in sorted(catalogs.items()):
            connection = self.catalogs.connections.get(key)
            if connection is None and catalog["spec"]["sourceType"] != "grpc":
                continue
            if connection is None:
                raise NotConnected
            bundles[key] = await connection.snapshot(name_of(catalog), namespace_of(catalog))
            packages[key] = connection.packages
        choices = []
        for sub in subs:
            key = (sub["spec"]["sourceNamespace"], sub["spec"]["source"])
            package = packages.get(key, {}).get(sub["spec"]["name"])
            choices.append(choose(sub, bundles.get(key, []), package, catalogs.get(key), csvs))
        refuse_strangers(choices, csvs)
        return choices

    async def _failed(self, namespace: str, subs: list[Obj], reason: str, message: str) -> None:
        if about := await self.kube.get(NAMESPACE, "", namespace):
            await self.kube.event(about, "ResolutionFailed", message, warning=True)
        for sub in subs:
            if set_condition(sub, "ResolutionFailed", "True", reason, message):
                await self.save(sub)

    async def _plan(
        self, namespace: str, subs: list[Obj], plans: dict[str, Obj], wanted: list[Choice], group: Obj
    ) -> Obj | None:
        """Unpack the chosen bundles; once all are, the InstallPlan for them."""
        lookups, steps, waiting = [], [], False
        for choice in wanted:
            assert choice.bundle is not None
            lookup = lookup_for(choice.bundle, choice.catalog)
            try:
                config_map = await self.unpacker.unpack(choice.catalog, lookup["path"], group)
            except UnpackFailed as error:
                text = f"bundle unpacking failed. {error}"
                for sub in subs:
                    if set_condition(sub, "BundleUnpackFailed", "True", "BundleUnpackFailed", text):
                        await self.save(sub)
                return None
            waiting |= config_map is None
            if config_map is not None:
                lookups.append(lookup)
                steps += steps_for(lookup, config_map, namespace)
        if waiting:
            for sub in subs:
                if set_condition(sub, "BundleUnpacking", "True", "UnpackingInProgress"):
                    await self.save(sub)
            return None
        known = [(s.get("status") or {}).get("installPlanGeneration", 0) for s in subs]
        generation = 1 + max([*known, *(p["spec"].get("generation", 0) for p in plans.values())])
        return await self._create_plan(namespace, subs, generation, lookups, steps)

    async def _create_plan(
        self, namespace: str, subs: list[Obj], generation: int, lookups: list[Obj], steps: list[Obj]
    ) -> Obj:
        manual = any(s["spec"].get("installPlanApproval") == "Manual" for s in subs)
        spec: dict[str, Any] = {"approval": "Manual" if manual else "Automatic", "approved": not manual}
        spec |= {"generation": generation}
        spec["clusterServiceVersionNames"] = [
            s["resource"]["name"] for s in steps if s["resource"]["kind"] == CSV[1]
        ]
        meta = {
            "generateName": "install-",
            "namespace": namespace,
            "ownerReferences": [owner_ref(s) for s in subs],
        }
        body = {"apiVersion": INSTALL_PLAN[0], "kind": INSTALL_PLAN[1], "metadata": meta, "spec": spec}
        plan = await self.kube.create(body)
        sources = sorted({lookup["catalogSourceRef"]["name"] for lookup in lookups})
        status = {"phase": "RequiresApproval" if manual else "Installing", "plan": copy.deepcopy(steps)}
        status |= {"catalogSources": sources, "bundleLookups": lookups}
        return await self.kube.update(plan | {"status": status}, "status")

    @staticmethod
    def _refer(sub: Obj, plan: Obj, csv_name: str) -> None:
        meta = plan["metadata"]
        ref = {"apiVersion": INSTALL_PLAN[0], "kind": INSTALL_PLAN[1], "name": meta["name"]}
        full = ref | {
            "namespace": meta["namespace"],
            "resourceVersion": meta["resourceVersion"],
            "uid": meta["uid"],
        }
        sub["status"] |= {
            "currentCSV": csv_name,
            "state": "UpgradePending",
            "installPlanGeneration": plan["spec"]["generation"],
            "installPlanRef": full,
            "installplan": ref | {"uuid": meta["uid"]},
        }
