"""What an acceptance asks of a cluster: every resource and verb, why, and the ClusterRole that grants it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from harness.rights import Right

READ = ("get", "list", "watch")

READS = (
    Right("", ("nodes", "namespaces"), READ, "version and state of the nodes"),
    Right(
        "",
        ("pods", "pods/log", "services", "endpoints", "serviceaccounts", "events", "configmaps"),
        READ,
        "the pods of the stack, what they say, what the operator made for a Runner",
    ),
    Right("", ("resourcequotas", "limitranges"), READ, "why a pod is not made"),
    Right("", ("secrets",), ("get",), "names of the keys in a Runner's Secret; values are never asked for"),
    Right("apps", ("deployments", "replicasets"), READ, "the controllers"),
    Right("batch", ("jobs",), READ, "how OLM unpacks a bundle"),
    Right("apiextensions.k8s.io", ("customresourcedefinitions",), READ, "the kinds that are served"),
    Right("apiregistration.k8s.io", ("apiservices",), READ, "APIs behind the API server"),
    Right(
        "admissionregistration.k8s.io",
        ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"),
        READ,
        "the webhooks",
    ),
    Right("coordination.k8s.io", ("leases",), READ, "the nodes' clocks"),
    Right("cert-manager.io", ("certificates", "issuers"), READ, "cert-manager's objects"),
    Right(
        "operators.coreos.com",
        (
            "catalogsources",
            "clusterserviceversions",
            "installplans",
            "operatorgroups",
            "subscriptions",
        ),
        READ,
        "how the operator was installed",
    ),
    Right("packages.operators.coreos.com", ("packagemanifests",), READ, "what the catalog offers"),
    Right("apps.gitlab.com", ("runners",), READ, "the Runners"),
)
STREAMS = (
    Right("", ("pods/exec",), ("get", "create"), "config.toml and version in the Runner's pod"),
    Right("", ("pods/portforward",), ("get", "create"), "whether the operator's metrics are guarded"),
)
DRY_RUNS = (
    Right("cert-manager.io", ("certificates",), ("create", "patch"), "dry runs: does the webhook answer"),
    Right(
        "apps.gitlab.com", ("runners",), ("create", "patch"), "dry runs: do the operator's webhooks answer"
    ),
)
"""Kubernetes knows no right to a dry run alone: who may ask with one may also do without."""


@dataclass(frozen=True)
class Depth:
    """What may be asked beyond reading: commands and ports in pods, and dry runs."""

    streams: bool = True
    dry_runs: bool = True

    def rights(self) -> tuple[Right, ...]:
        """All that is asked of the cluster."""
        return (*READS, *(STREAMS if self.streams else ()), *(DRY_RUNS if self.dry_runs else ()))

    def lines(self) -> Iterator[str]:
        """What will be asked, for the reader, before it is."""
        yield "reads only; all that is asked of the cluster:"
        yield from (f"  {right}" for right in READS)
        if self.streams:
            yield "  in pods (--no-exec leaves it out):"
            yield from (f"    {right}" for right in STREAMS)
        if self.dry_runs:
            yield "  dry runs, of which nothing is stored (--no-dry-run leaves them out):"
            yield from (f"    {right}" for right in DRY_RUNS)


def cluster_role(depth: Depth) -> str:
    """The smallest ClusterRole with which nothing is missing, as YAML."""
    rules = [
        {"apiGroups": [it.group], "resources": list(it.resources), "verbs": list(it.verbs)}
        for it in depth.rights()
    ]
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "runner-conformance-acceptance"},
        "rules": rules,
    }
    return yaml.safe_dump(role, sort_keys=False, width=110)
