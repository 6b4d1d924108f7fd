"""What a ClusterServiceVersion says: its parts, labels and install modes."""

from __future__ import annotations

from olmlab.kube import Obj, labels_of, name_of, namespace_of

COPIED = "olm.copiedFrom"
GROUP_REASONS = ("NoTargetNamespaces", "NoOperatorGroup", "TooManyOperatorGroups", "UnsupportedOperatorGroup")
UNCOPIED_REASONS = (*GROUP_REASONS, "Copied", "InvalidInstallModes", "InterOperatorGroupOwnerConflict")


def owner_labels(csv: Obj) -> dict[str, str]:
    return {
        "olm.owner": name_of(csv),
        "olm.owner.namespace": namespace_of(csv),
        "olm.owner.kind": "ClusterServiceVersion",
    }


def selector(labels: dict[str, str]) -> str:
    return ",".join(f"{k}={v}" for k, v in labels.items())


def strategy_of(csv: Obj) -> Obj:
    return csv["spec"]["install"].get("spec") or {}


def owned(csv: Obj, what: str) -> list[Obj]:
    """The owned entries of `customresourcedefinitions` or `apiservicedefinitions`."""
    return (csv["spec"].get(what) or {}).get("owned") or []


def cert_users(csv: Obj) -> list[Obj]:
    """The APIService and webhook descriptions, which need a serving certificate for their Deployment."""
    return owned(csv, "apiservicedefinitions") + (csv["spec"].get("webhookdefinitions") or [])


def is_copied(csv: Obj) -> bool:
    return COPIED in labels_of(csv)


def provided_apis(csv: Obj) -> set[str]:
    """The provided APIs as Kind.version.group."""
    crds = {
        f"{d['kind']}.{d['version']}.{d['name'].split('.', 1)[1]}"
        for d in owned(csv, "customresourcedefinitions")
    }
    return crds | {f"{d['kind']}.{d['version']}.{d['group']}" for d in owned(csv, "apiservicedefinitions")}


def unsupported_mode(csv: Obj, targets: list[str]) -> str | None:
    """Why the CSV's install modes don't allow these target namespaces."""
    modes = {m["type"]: m["supported"] for m in csv["spec"].get("installModes") or ()}
    if targets == [""]:
        needed = [("AllNamespaces", "all namespaces")]
    elif len(targets) > 1:
        needed = [("MultiNamespace", f"{len(targets)} namespaces")]
    else:
        needed = [("SingleNamespace", "one namespace")] if namespace_of(csv) not in targets else []
    if namespace_of(csv) in targets:
        needed.append(("OwnNamespace", "own namespace"))
    for mode, what in needed:
        if not modes.get(mode):
            return f"{mode} InstallModeType not supported, cannot configure to watch {what}"
    return None
