"""What a kubeconfig's user must be allowed on an existing cluster, asked before anything is made."""

from __future__ import annotations

from harness.errors import UsageError
from harness.kube import ApiError, Kube
from harness.rights import Right

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_MAKE = ("create", "patch", "delete")

RIGHTS: tuple[Right, ...] = (
    Right("", ("namespaces",), _MAKE, "the run's namespaces"),
    Right("", ("pods",), ("get", "list", "watch", "create", "delete"), "what pods show"),
    Right("", ("pods/log",), ("get",), "what they say"),
    Right("", ("pods/exec", "pods/portforward"), ("create",), "commands in them"),
    Right("", ("secrets", "configmaps"), ("get", *_MAKE), "tokens and settings of the run's Runners"),
    Right("", ("serviceaccounts",), _MAKE, "an account that asks for metrics"),
    Right("", ("serviceaccounts/token",), ("create",), "its token"),
    Right("rbac.authorization.k8s.io", ("clusterrolebindings",), _MAKE, "its role"),
    Right("apiextensions.k8s.io", ("customresourcedefinitions",), ("get", "create"), "the kinds served"),
    Right("cert-manager.io", ("issuers", "certificates"), _MAKE, "a certificate to be issued"),
    Right("apps.gitlab.com", ("runners",), ("get", "list", *_MAKE), "the run's Runners"),
)
"""What the tests do on such a cluster; who may less can't see all outcomes, and would leave things behind."""


def check_rights(kube: Kube, whose: str) -> None:
    """Ask the API server for every right, by SelfSubjectAccessReview, which makes nothing.

    Raises UsageError that names each missing one. An API server that does not review is not judged.
    """
    try:
        if _allowed(kube, "*", "*", "*"):
            return
        missing = {
            name: verbs
            for right in RIGHTS
            for resource, name in zip(right.resources, right.names(), strict=True)
            if (verbs := [it for it in right.verbs if not _allowed(kube, it, right.group, resource)])
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


def _allowed(kube: Kube, verb: str, group: str, name: str) -> bool:
    resource, _, subresource = name.partition("/")
    asked = {"verb": verb, "group": group, "resource": resource, "subresource": subresource}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    answer = kube.request("POST", _REVIEWS, body=review)
    return bool(isinstance(answer, dict) and (answer.get("status") or {}).get("allowed"))
