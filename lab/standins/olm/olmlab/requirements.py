"""Whether the cluster has what a CSV needs: version, CRDs, APIs, service accounts and their rights."""

from __future__ import annotations

import json
from collections.abc import Iterable

from olmlab.csvspec import owned, strategy_of
from olmlab.kube import (
    CLUSTER_ROLE,
    CLUSTER_ROLE_BINDING,
    CRD,
    OLM,
    RBAC,
    ROLE,
    ROLE_BINDING,
    SERVICE_ACCOUNT,
    ApiError,
    Kube,
    Obj,
    annotations_of,
    condition,
    name_of,
    namespace_of,
)

ALONGSIDE = "operatorframework.io/installed-alongside-"
RULE_FIELDS = ("verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs")


def _status(group: str, version: str, kind: str, name: str, status: str, message: str, uid: str = "") -> Obj:
    made = {
        "group": group,
        "version": version,
        "kind": kind,
        "name": name,
        "status": status,
        "message": message,
    }
    return made | ({"uuid": uid} if uid else {})


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.lstrip("v").split("-")[0].split("+")[0].split("."))


async def kube_version(kube: Kube, csv: Obj) -> tuple[bool, list[Obj]]:
    wanted = csv["spec"].get("minKubeVersion")
    if not wanted:
        return True, []
    server = (await kube.request("GET", "/version"))["gitVersion"]
    met = _version(wanted) <= _version(server)
    message = f"CSV minKubeVersion ({wanted}) less than server version ({server})"
    if not met:
        number = ".".join(map(str, _version(server)))
        message = f"CSV version requirement not met: minKubeVersion ({wanted}) > server version ({number})"
    status = "Present" if met else "PresentNotSatisfied"
    return met, [_status(*OLM.split("/"), "ClusterServiceVersion", name_of(csv), status, message)]


def installed_alongside(crd: Obj, csv: Obj, in_namespace: dict[str, Obj]) -> list[str]:
    """The CSVs that this one replaces and with which alone the CRD was installed."""
    others: dict[str, Obj] = {}
    for key, value in annotations_of(crd).items():
        if not key.startswith(ALONGSIDE) or value.count("/") != 1:
            continue
        namespace, name = value.split("/")
        if namespace != namespace_of(csv):
            continue
        if name == name_of(csv):
            return []
        if name in in_namespace:
            others[name] = in_namespace[name]
    ancestors, current = [], csv["spec"].get("replaces")
    while current and current not in ancestors:
        ancestors.append(current)
        current = others[current]["spec"].get("replaces") if current in others else None
    return [name for name in ancestors if name in others]


async def crds(kube: Kube, csv: Obj, in_namespace: dict[str, Obj]) -> tuple[bool, list[Obj]]:
    statuses = []
    mine = owned(csv, "customresourcedefinitions")
    needed = (csv["spec"].get("customresourcedefinitions") or {}).get("required") or []
    for wanted in [*mine, *needed]:
        found = await kube.get(CRD, "", wanted["name"])
        versions = found["spec"]["versions"] if found else []
        others = installed_alongside(found, csv, in_namespace) if found and wanted in mine else []
        status, message, uid = "NotPresent", "CRD is not present", ""
        if others:
            status, message = (
                "PresentNotSatisfied",
                f"CRD installed alongside other CSV(s): {', '.join(others)}",
            )
        elif found and not any(v["name"] == wanted["version"] and v["served"] for v in versions):
            message = "CRD version not served"
        elif found and all(
            (condition(found, c) or {}).get("status") == "True" for c in ("Established", "NamesAccepted")
        ):
            status, message = "Present", "CRD is present and Established condition is true"
            uid = found["metadata"]["uid"]
        elif found:
            status = "NotAvailable"
            message = "CRD is present but the Established condition is False (not available)"
        group, version = CRD[0].split("/")
        statuses.append(_status(group, version, CRD[1], wanted["name"], status, message, uid))
    return all(s["status"] == "Present" for s in statuses), statuses


async def registered(kube: Kube, group: str, version: str, kind: str) -> bool:
    """Whether API discovery serves this kind."""
    try:
        found = await kube.request("GET", f"/apis/{group}/{version}" if group else f"/api/{version}")
    except ApiError:
        return False
    return any(r["kind"] == kind for r in found["resources"])


async def apis(kube: Kube, csv: Obj) -> tuple[bool, list[Obj]]:
    statuses, met = [], True
    service = ("apiregistration.k8s.io", "v1", "APIService")
    for wanted in (csv["spec"].get("apiservicedefinitions") or {}).get("required") or ():
        ok = await registered(kube, wanted["group"], wanted["version"], wanted["kind"])
        met &= ok
        name = f"{wanted['version']}.{wanted['group']}"
        statuses.append(_status(*service, name, "Present" if ok else "NotPresent", ""))
    deployments = {d["name"] for d in strategy_of(csv).get("deployments") or ()}
    for wanted in owned(csv, "apiservicedefinitions"):
        ok = wanted.get("deploymentName") in deployments
        met &= ok
        name = f"{wanted['version']}.{wanted['group']}"
        statuses.append(_status(*service, name, "DeploymentFound" if ok else "DeploymentNotFound", ""))
    for wanted in csv["spec"].get("nativeAPIs") or ():
        ok = await registered(kube, wanted["group"], wanted["version"], wanted["kind"])
        met &= ok
        status, message = (
            ("Present", "Native API exists") if ok else ("NotPresent", "Native API does not exist")
        )
        name = f"{wanted['version']}.{wanted['group']}"
        statuses.append(_status(wanted["group"], wanted["version"], wanted["kind"], name, status, message))
    return met, statuses


def covers(rules: Iterable[Obj], wanted: Obj) -> bool:
    """Whether `rules` together grant everything that the PolicyRule `wanted` grants."""

    def allows(rule: Obj, field: str, value: str) -> bool:
        granted = rule.get(field) or ()
        return value in granted or "*" in granted

    rules = list(rules)
    if wanted.get("nonResourceURLs"):
        return all(
            any(allows(r, "nonResourceURLs", url) and allows(r, "verbs", verb) for r in rules)
            for url in wanted["nonResourceURLs"]
            for verb in wanted["verbs"]
        )
    names = wanted.get("resourceNames") or [None]
    return all(
        any(
            allows(r, "verbs", verb)
            and allows(r, "apiGroups", group)
            and allows(r, "resources", resource)
            and (not r.get("resourceNames") or name in r["resourceNames"])
            for r in rules
        )
        for verb in wanted["verbs"]
        for group in wanted.get("apiGroups") or ()
        for resource in wanted.get("resources") or ()
        for name in names
    )


class Rights:
    """The RBAC rules bound to the service accounts of a namespace, as they are now."""

    def __init__(
        self, namespace: str, roles: list[Obj], bindings: list[Obj], cluster: list[Obj], global_: list[Obj]
    ):
        self.namespace, self.bindings, self.global_bindings = namespace, bindings, global_
        self.rules = {("Role", name_of(r)): r.get("rules") or [] for r in roles}
        self.rules |= {("ClusterRole", name_of(r)): r.get("rules") or [] for r in cluster}

    @classmethod
    async def read(cls, kube: Kube, namespace: str) -> Rights:
        roles, bindings = await kube.list(ROLE, namespace), await kube.list(ROLE_BINDING, namespace)
        return cls(
            namespace, roles, bindings, await kube.list(CLUSTER_ROLE), await kube.list(CLUSTER_ROLE_BINDING)
        )

    def of(self, account: str, *, cluster: bool) -> list[Obj]:
        bindings = self.global_bindings if cluster else self.bindings + self.global_bindings
        subject = ("ServiceAccount", account, self.namespace)
        groups = {
            "system:serviceaccounts",
            f"system:serviceaccounts:{self.namespace}",
            "system:authenticated",
        }
        found = []
        for binding in bindings:
            for s in binding.get("subjects") or ():
                who = (s["kind"], s["name"], s.get("namespace") or binding["metadata"].get("namespace"))
                if who == subject or (s["kind"] == "Group" and s["name"] in groups):
                    ref = binding["roleRef"]
                    found += self.rules.get((ref["kind"], ref["name"]), [])
        return found


async def permissions(kube: Kube, csv: Obj, *, lifted: bool = False) -> tuple[bool, list[Obj]]:
    """The service accounts' rights; `lifted` asks for the namespaced ones at cluster scope, too."""
    namespace, strategy = namespace_of(csv), strategy_of(csv)
    rights = await Rights.read(kube, namespace)
    statuses: dict[str, Obj] = {}
    met = True
    for field, cluster in (("permissions", lifted), ("clusterPermissions", True)):
        for wanted in strategy.get(field) or ():
            account = wanted["serviceAccountName"]
            status = statuses.setdefault(account, _status("", "v1", "ServiceAccount", account, "Present", ""))
            if await kube.get(SERVICE_ACCOUNT, namespace, account) is None:
                status |= {"status": "NotPresent", "message": "Service account does not exist"}
                met = False
                continue
            have = rights.of(account, cluster=cluster)
            for rule in wanted.get("rules") or ():
                ok = covers(have, rule)
                if ok and field == "permissions":
                    continue  # the real one lists these only while they are missing
                text = json.dumps({k: rule[k] for k in RULE_FIELDS if rule.get(k)}, separators=(",", ":"))
                group, version = RBAC.split("/")
                dependent = {"group": group, "kind": "PolicyRule", "version": version}
                dependent |= {"message": f"{'cluster' if cluster else 'namespaced'} rule:{text}"}
                dependent |= {"status": "Satisfied" if ok else "NotSatisfied"}
                status.setdefault("dependents", []).append(dependent)
                if not ok:
                    met = False
                    status["status"] = "PresentNotSatisfied"
                    status["message"] = "Policy rule not satisfied for service account"
    return met, list(statuses.values())


async def check(kube: Kube, csv: Obj, in_namespace: dict[str, Obj]) -> tuple[bool, list[Obj]]:
    """All requirements of `csv`: whether they are met, and status.requirementStatus."""
    results = [
        await kube_version(kube, csv),
        await crds(kube, csv, in_namespace),
        await apis(kube, csv),
        await permissions(kube, csv),
    ]
    return all(met for met, _ in results), [status for _, statuses in results for status in statuses]
