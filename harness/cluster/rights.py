"""What a kubeconfig's user must be allowed on an existing cluster, asked before anything is made."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import UsageError
from harness.kube import ApiError, Kube

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_MAKE = ("create", "patch", "delete")


@dataclass(frozen=True)
class Right:
    """Verbs on a resource (``pods/exec``), everywhere: the run's namespaces aren't there yet."""

    resource: str
    verbs: tuple[str, ...]
    group: str = ""

    @property
    def name(self) -> str:
        """The resource as kubectl writes it: ``runners.apps.gitlab.com``."""
        return f"{self.resource}.{self.group}" if self.group else self.resource


RIGHTS: tuple[Right, ...] = (
    Right("namespaces", _MAKE),
    Right("pods", ("get", "list", "watch", "create", "delete")),
    Right("pods/log", ("get",)),
    Right("pods/exec", ("create",)),
    Right("pods/portforward", ("create",)),
    Right("secrets", ("get", *_MAKE)),
    Right("configmaps", ("get", *_MAKE)),
    Right("serviceaccounts", _MAKE),
    Right("serviceaccounts/token", ("create",)),
    Right("clusterrolebindings", _MAKE, "rbac.authorization.k8s.io"),
    Right("customresourcedefinitions", ("get", "create"), "apiextensions.k8s.io"),
    Right("issuers", _MAKE, "cert-manager.io"),
    Right("certificates", _MAKE, "cert-manager.io"),
    Right("runners", ("get", "list", *_MAKE), "apps.gitlab.com"),
)
"""What the tests do on such a cluster; who may less can't see all outcomes, and would leave things behind."""


def check_rights(kube: Kube, whose: str) -> None:
    """Ask the API server for every right, by SelfSubjectAccessReview, which makes nothing.

    Raises UsageError that names each missing one. An API server that does not review is not judged.
    """
    try:
        if _allowed(kube, "*", Right("*", (), "*")):
            return
        missing = {
            right.name: verbs
            for right in RIGHTS
            if (verbs := [verb for verb in right.verbs if not _allowed(kube, verb, right)])
        }
    except ApiError as error:
        if error.status in (403, 404):
            return
        raise
    if missing:
        named = "; ".join(f"{', '.join(verbs)} {name}" for name, verbs in missing.items())
        raise UsageError(
            f"{whose} may not do what a run does there (nothing was made): {named}",
            "use a user with these rights in all namespaces, as cluster-admin has them",
        )


def _allowed(kube: Kube, verb: str, right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    asked = {"verb": verb, "group": right.group, "resource": resource, "subresource": subresource}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    answer = kube.request("POST", _REVIEWS, body=review)
    return bool(isinstance(answer, dict) and (answer.get("status") or {}).get("allowed"))
