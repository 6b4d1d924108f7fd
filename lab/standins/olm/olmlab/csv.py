"""The life of a ClusterServiceVersion: OLM v0.26.0's phases, reasons and messages.

Each sync looks at the CSV's phase and at the cluster, and takes at most one step; the step's status update
brings the next sync. Facts: recordings of the real program (see selftests/compare), its published behaviour.
"""

from __future__ import annotations

import copy
import os
import re
from datetime import UTC, datetime

from olmlab import requirements
from olmlab.companions import Companions
from olmlab.csvspec import (
    COPIED,
    GROUP_REASONS,
    UNCOPIED_REASONS,
    is_copied,
    owned,
    provided_apis,
    unsupported_mode,
)
from olmlab.informer import Informer, Queue
from olmlab.install import BadDeployment, Installer, NotInstalled
from olmlab.kube import (
    API_SERVICE,
    CONDITION,
    GROUP,
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
)

# What an observer of the real one sees between two steps; lets the Deployment controller have its say first.
STEP_S = 0.2
MAX_CONDITIONS = 20


def install_timeout_s() -> float:
    """How long a CSV may stay Installing: 5 minutes; $OLM_INSTALL_TIMEOUT ("20s") shortens a rehearsal."""
    found = re.fullmatch(r"(\d+)(s|m)", os.environ.get("OLM_INSTALL_TIMEOUT", "5m"))
    return int(found[1]) * (60 if found[2] == "m" else 1) if found else 300


def seconds_since(stamp: str | None) -> float:
    if not stamp:
        return 0
    return (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()


class CsvController:
    """Moves every CSV that isn't a copy along its phases."""

    def __init__(
        self, kube: Kube, csvs: Informer, groups: Informer, subscriptions: Informer, companions: Companions
    ) -> None:
        self.kube, self.csvs, self.groups, self.subscriptions = kube, csvs, groups, subscriptions
        self.companions = companions
        self.queue = Queue(self.sync, retry_s=STEP_S)
        self.waits: dict[
            tuple[str, str], int
        ] = {}  # how often requirements weren't met, for the retry's delay
        self.deleted: dict[tuple[str, str], Obj] = {}  # CSVs whose conversion webhooks are still to be undone
        self.timeout_s = install_timeout_s()

    def changed(self, type_: str, old: Obj | None, csv: Obj) -> None:
        """A CSV event: sync it, and those it replaces or that replace it."""
        if is_copied(csv):
            self.companions.copies.add((labels_of(csv)[COPIED], name_of(csv)), 0.5)
            return
        if type_ == "DELETED" and not self.replaced_by(csv):
            self.deleted[key_of(csv)] = csv
        self.queue.add(key_of(csv), STEP_S if old else 0.05)
        for other in self.csvs.list(namespace_of(csv)):
            related = other["spec"].get("replaces") == name_of(csv) or csv["spec"].get("replaces") == name_of(
                other
            )
            if related and not is_copied(other):
                self.queue.add(key_of(other), STEP_S)

    def requeue_owner(self, obj: Obj) -> None:
        """A Deployment or APIService changed: sync the CSV that its labels name."""
        labels = labels_of(obj)
        if labels.get("olm.owner.kind") == "ClusterServiceVersion":
            self.queue.add((labels.get("olm.owner.namespace", ""), labels["olm.owner"]), STEP_S)

    def requeue_namespace(self, namespace: str, after_s: float = 0) -> None:
        for csv in self.csvs.list(namespace):
            if not is_copied(csv):
                self.queue.add(key_of(csv), after_s)

    async def sync(self, key: tuple[str, str]) -> None:
        cached = self.csvs.get(*key)
        if cached is None:
            self.waits.pop(key, None)
            await self.companions.clean_up(*key)
            if gone := self.deleted.pop(key, None):
                await self.companions.undo_conversion(gone)
            return
        if is_copied(cached):
            return
        if not cached.get("status", {}).get("phase"):
            await self.companions.ensure_condition_object(cached)
        csv = copy.deepcopy(cached)
        await self.step(csv)
        shown = ("phase", "reason", "message", "lastUpdateTime")  # the rest alone is never written
        if any((csv.get("status") or {}).get(k) != (cached.get("status") or {}).get(k) for k in shown):
            await self.kube.update(csv, "status")
        group = self.companions.group_of(csv)
        if group and (group.get("status") or {}).get("namespaces") == [""]:
            await self.companions.lift_rights(csv)
        if csv.get("status", {}).get("reason") not in UNCOPIED_REASONS:
            self.companions.copies.add(key, 0.5)

    async def set_phase(
        self, csv: Obj, phase: str, reason: str, message: str, *, always: bool = True
    ) -> None:
        """Write phase, reason and message into csv's status, with an Event; the history grows by reason."""
        status = csv.setdefault("status", {})
        if not always and (status.get("phase"), status.get("reason"), status.get("message")) == (
            phase,
            reason,
            message,
        ):
            return
        stamp = now()
        if status.get("phase") != phase:
            status["lastTransitionTime"] = stamp
        status |= {"phase": phase, "reason": reason, "message": message, "lastUpdateTime": stamp}
        status.setdefault("cleanup", {})
        history = status.setdefault("conditions", [])
        if not history or (history[-1]["phase"], history[-1]["reason"]) != (phase, reason):
            fields = ("phase", "reason", "message", "lastTransitionTime", "lastUpdateTime")
            history.append({k: status[k] for k in fields})
            del history[:-MAX_CONDITIONS]
        await self.kube.event(csv, reason, message, warning=phase == "Failed")

    # -- OperatorGroup --

    async def join_group(self, csv: Obj) -> Obj | None:
        """The CSV's OperatorGroup, once the CSV carries its annotations; None when this sync ends here."""
        groups = self.groups.list(namespace_of(csv))
        if not groups:
            await self.set_phase(
                csv, "Failed", "NoOperatorGroup", "csv in namespace with no operatorgroups", always=False
            )
            return None
        if len(groups) > 1:
            text = "csv created in namespace with multiple operatorgroups, can't pick one automatically"
            await self.set_phase(csv, "Failed", "TooManyOperatorGroups", text, always=False)
            return None
        group = groups[0]
        targets = (group.get("status") or {}).get("namespaces")
        if targets is None:
            return None  # the group isn't synced; its update brings us back
        wanted = {
            "olm.operatorGroup": name_of(group),
            "olm.operatorNamespace": namespace_of(group),
            "olm.targetNamespaces": ",".join(sorted(targets)),
        }
        if any(annotations_of(csv).get(k) != v for k, v in wanted.items()):
            body = {"metadata": {"annotations": wanted}}
            await self.kube.patch((csv["apiVersion"], csv["kind"]), *key_of(csv), body)
            return None
        return group

    async def offer_apis(self, csv: Obj, group: Obj) -> bool:
        """Put the CSV's APIs on its group; False when another group that overlaps provides them."""
        apis, mine = provided_apis(csv), set((group.get("status") or {}).get("namespaces") or ())
        for other in self.groups.list():
            theirs = set((other.get("status") or {}).get("namespaces") or ())
            overlap = mine & theirs or (theirs and "" in mine) or (mine and "" in theirs)
            offered = set(annotations_of(other).get("olm.providedAPIs", "").split(","))
            if key_of(other) != key_of(group) and overlap and apis & offered:
                text = "intersecting operatorgroups provide the same apis"
                await self.set_phase(csv, "Failed", "InterOperatorGroupOwnerConflict", text, always=False)
                return False
        have = set(filter(None, annotations_of(group).get("olm.providedAPIs", "").split(",")))
        if not apis <= have:
            text = ",".join(sorted(have | apis))
            await self.kube.patch(
                GROUP, *key_of(group), {"metadata": {"annotations": {"olm.providedAPIs": text}}}
            )
        return True

    # -- the phases --

    async def step(self, csv: Obj) -> None:
        group = await self.join_group(csv)
        if group is None:
            return
        if why := unsupported_mode(csv, annotations_of(csv)["olm.targetNamespaces"].split(",")):
            await self.set_phase(csv, "Failed", "UnsupportedOperatorGroup", why, always=False)
            return
        if not await self.offer_apis(csv, group):
            return
        phase = csv.get("status", {}).get("phase") or "none"
        await getattr(self, f"_{phase.lower()}")(csv)

    def others(self, csv: Obj) -> dict[str, Obj]:
        return {name_of(c): c for c in self.csvs.list(namespace_of(csv)) if not is_copied(c)}

    def replaced_by(self, csv: Obj) -> Obj | None:
        return next((c for c in self.others(csv).values() if c["spec"].get("replaces") == name_of(csv)), None)

    def replaces(self, csv: Obj) -> Obj | None:
        return self.others(csv).get(csv["spec"].get("replaces") or "")

    async def _none(self, csv: Obj) -> None:
        await self.set_phase(csv, "Pending", "RequirementsUnknown", "requirements not yet checked")

    async def _pending(self, csv: Obj) -> None:
        previous = self.replaces(csv)
        if previous and (why := await self.not_upgradeable(previous)):
            text = f"operator is not upgradeable: {why}"
            await self.set_phase(csv, "Pending", "OperatorConditionNotUpgradeable", text, always=False)
            return
        met, statuses = await requirements.check(self.kube, csv, self.others(csv))
        csv["status"]["requirementStatus"] = statuses
        if not met:
            waited = self.waits[key_of(csv)] = self.waits.get(key_of(csv), 0) + 1
            text = "one or more requirements couldn't be found"
            await self.set_phase(csv, "Pending", "RequirementsNotMet", text, always=False)
            self.queue.add(key_of(csv), min(0.25 * 1.3**waited, 10))
            return
        if previous and previous.get("status", {}).get("phase") != "Replacing":
            self.queue.add(key_of(previous))
            return
        self.waits.pop(key_of(csv), None)
        await self.set_phase(
            csv, "InstallReady", "AllRequirementsMet", "all requirements found, attempting install"
        )

    async def not_upgradeable(self, previous: Obj) -> str | None:
        found = await self.kube.get(CONDITION, *key_of(previous)) or {}
        spec = found.get("spec") or {}
        for said in [*(spec.get("overrides") or ()), *(spec.get("conditions") or ())]:
            if said["type"] == "Upgradeable":
                return (
                    None
                    if said["status"] == "True"
                    else f"The operator is not upgradeable: {said['message']}"
                )
        return None

    async def _installready(self, csv: Obj) -> None:
        if csv["spec"]["install"].get("strategy") != "deployment":
            await self.set_phase(
                csv, "Failed", "InvalidStrategy", "install strategy invalid: unrecognized install strategy"
            )
            return
        installer = self.installer(csv)
        try:
            await installer.install()
        except ApiError as error:
            if error.code == 409:
                raise  # somebody else wrote first: again
            await self.set_phase(csv, "Failed", "InstallComponentFailed", f"install strategy failed: {error}")
            return
        if installer.certs_rotate_at:
            csv["status"] |= {"certsLastUpdated": now(), "certsRotateAt": installer.certs_rotate_at}
        text = "waiting for install components to report healthy"
        await self.set_phase(csv, "Installing", "InstallSucceeded", text)

    def installer(self, csv: Obj) -> Installer:
        config: Obj = {}
        for sub in self.subscriptions.list(namespace_of(csv)):
            if (sub.get("status") or {}).get("installedCSV") == name_of(csv):
                config = sub["spec"].get("config") or {}
        return Installer(self.kube, csv, config)

    async def _installing(self, csv: Obj) -> None:
        if await self.check_install(csv, "Installing", "InstallWaiting"):
            return
        if csv["status"]["phase"] != "Installing":
            return
        left = self.timeout_s - seconds_since(csv["status"].get("lastTransitionTime"))
        if left <= 0:
            await self.set_phase(csv, "Failed", "InstallCheckFailed", "install timeout")
        else:
            self.queue.add(key_of(csv), left)

    async def _succeeded(self, csv: Obj) -> None:
        if replacement := self.replaced_by(csv):
            text = f"being replaced by csv: {name_of(replacement)}"
            await self.set_phase(csv, "Replacing", "BeingReplaced", text)
            return
        met, statuses = await requirements.check(self.kube, csv, self.others(csv))
        if not met:
            csv["status"]["requirementStatus"] = statuses
            await self.set_phase(csv, "Failed", "RequirementsNotMet", "requirements no longer met")
        elif await self.check_install(csv, "Failed", "ComponentUnhealthy"):
            await self.companions.roles_for_apis(csv)

    async def _failed(self, csv: Obj) -> None:
        reason = csv["status"].get("reason")
        if reason in GROUP_REASONS:
            text = "InstallModes now support target namespaces"
            await self.set_phase(csv, "Pending", "RequirementsUnknown", text)
            return
        if reason == "InterOperatorGroupOwnerConflict":
            text = "OperatorGroup no longer intersecting with conflicting owner"
            await self.set_phase(csv, "Pending", "RequirementsUnknown", text)
            return
        met, statuses = await requirements.check(self.kube, csv, self.others(csv))
        if not met:
            csv["status"]["requirementStatus"] = statuses
            await self.set_phase(csv, "Pending", "RequirementsNotMet", "requirements not met")
            return
        await self.check_install(csv, "Pending", "NeedsReinstall")

    async def _replacing(self, csv: Obj) -> None:
        replacement = self.replaced_by(csv)
        if (
            self.replaces(csv) is None
            and replacement
            and replacement.get("status", {}).get("phase") == "Succeeded"
        ):
            text = "has been replaced by a newer ClusterServiceVersion that has successfully installed."
            await self.set_phase(csv, "Deleting", "Replaced", text)

    async def _deleting(self, csv: Obj) -> None:
        await self.kube.delete((csv["apiVersion"], csv["kind"]), *key_of(csv))

    async def check_install(self, csv: Obj, phase: str, reason: str) -> bool:
        """Whether all is installed (then Succeeded); otherwise go to `phase` for `reason`."""
        installer = self.installer(csv)
        not_installed: NotInstalled | None = None
        try:
            await installer.check()
        except BadDeployment:
            await self.set_phase(csv, "Pending", "NeedsReinstall", "calculated deployment install is bad")
            return False
        except NotInstalled as error:
            not_installed = error
        if not_installed and not_installed.hopeless:
            text = f"install failed: {not_installed}"
            await self.set_phase(csv, "Failed", "InstallCheckFailed", text, always=False)
        elif not await self.api_services_available(csv):
            await self.set_phase(csv, phase, reason, "apiServices not installed", always=False)
        elif not_installed:
            to = "InstallReady" if not_installed.changed else phase
            await self.set_phase(csv, to, reason, f"installing: {not_installed}", always=False)
        else:
            text = "install strategy completed with no errors"
            await self.set_phase(csv, "Succeeded", "InstallSucceeded", text, always=False)
            return True
        return False

    async def api_services_available(self, csv: Obj) -> bool:
        for api in owned(csv, "apiservicedefinitions"):
            found = await self.kube.get(API_SERVICE, "", f"{api['version']}.{api['group']}")
            if not found or (condition(found, "Available") or {}).get("status") != "True":
                return False
            if not await requirements.registered(self.kube, api["group"], api["version"], api["kind"]):
                self.queue.add(key_of(csv), 1)
                return False
        return True
