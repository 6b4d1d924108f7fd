"""An operator by a manifest in place of OLM, with Deployment and rights of its CSV, without its webhooks."""

from __future__ import annotations

import json
import shlex
from typing import Any

from selftests.acceptance.lab import Lab
from selftests.e2e.by_hand import SUBSTITUTE

RBAC = "rbac.authorization.k8s.io"
REFUSED = "gcr.io/"


def csv_spec(lab: Lab) -> dict[str, Any]:
    """What the CSV of the lab's operator says of its installation."""
    printed = lab.shell.types(f"kubectl -n operators get csv {lab.csv} -o json")
    spec: dict[str, Any] = json.loads(printed)["spec"]["install"]["spec"]
    return spec


def apply(lab: Lab, install: dict[str, Any], namespace: str) -> str:
    """Apply it in a new namespace; the Deployment's name."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests(install, namespace)})
    lab.shell.types(f"printf %s {shlex.quote(text)} | kubectl apply -f -")
    return str(install["deployments"][0]["name"])


def manifests(install: dict[str, Any], namespace: str) -> list[dict[str, Any]]:
    """All its objects; what is wide in the cluster is called as the namespace is."""
    name, spec = install["deployments"][0]["name"], install["deployments"][0]["spec"]
    pod = spec["template"]["spec"]
    pod.pop("volumes", None)
    for container in pod["containers"]:
        container.pop("volumeMounts", None)
        container["env"] = [it for it in container.get("env", ()) if "value" in it]  # the rest are OLM's
        if container["image"].startswith(REFUSED):
            container["image"] = SUBSTITUTE
    rules = [it for part in ("clusterPermissions", "permissions") for it in install[part][0]["rules"]]
    account = {"kind": "ServiceAccount", "name": pod.get("serviceAccountName", "default")}
    wide = {"name": namespace}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": wide},
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": account["name"], "namespace": namespace},
        },
        {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": wide, "rules": rules},
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": wide,
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": namespace},
            "subjects": [{**account, "namespace": namespace}],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        },
    ]
