"""What must be blocked where an outcome is red: it says nothing then, and may be neither green nor red.

Written by the how-to's order of things, not derived from what the tests declare to need.
"""

from __future__ import annotations

from collections.abc import Mapping

BLOCKED: Mapping[str, tuple[str, ...]] = {
    "cluster/node-ready": (
        "cluster/node-roles",
        "cluster/node-version",
        "cluster/pod-runs",
        "cluster/dns",
        "cert-manager/deployments",
        "olm/rolled-out",
        "operator/controller",
        "runner/accepted",
    ),
    "cluster/pod-runs": ("cluster/dns", "cert-manager/deployments", "olm/rolled-out", "operator/controller"),
    "cert-manager/crds": ("cert-manager/deployments", "cert-manager/webhook-answers"),
    "cert-manager/deployments": ("cert-manager/webhook-answers", "cert-manager/certificate-issued"),
    "cert-manager/webhook-configurations": ("cert-manager/webhook-answers",),
    "cert-manager/webhook-answers": ("cert-manager/certificate-issued",),
    "olm/crds": ("olm/rolled-out", "olm/package", "operator/subscription"),
    "olm/rolled-out": ("olm/packageserver", "olm/catalog", "olm/package"),
    "olm/packageserver": ("olm/package", "operator/subscription"),
    "olm/catalog": ("olm/package",),
    "olm/package": ("operator/subscription", "operator/install-plan"),
    "operator/subscription": ("operator/install-plan", "operator/csv"),
    "operator/install-plan": ("operator/csv", "operator/crd"),
    "operator/csv": ("operator/controller", "operator/metrics"),
    "operator/crd": ("runner/accepted", "runner/pod"),
    "operator/controller": ("operator/csv-succeeded", "operator/metrics"),
    "operator/csv-succeeded": ("runner/token",),
    "runner/token": ("runner/secret", "runner/accepted"),
    "runner/secret": ("runner/accepted",),
    "runner/accepted": ("runner/pod", "runner/config-map", "pipeline/dind/succeeds", "docker-sock/runner"),
    "runner/pod": ("runner/config-toml", "runner/version", "runner/online"),
    "docker-sock/config-map": ("docker-sock/runner", "docker-sock/host-path"),
    "docker-sock/runner": ("docker-sock/host-path",),
    "docker-sock/host-path": ("docker-sock/build-pod",),
    "docker-sock/build/succeeds": ("docker-sock/build/pod", "docker-sock/build/pushed"),
    "docker-sock/build/pushed": ("docker-sock/build/content",),
    "daemonless/build/succeeds": ("daemonless/build/pod", "daemonless/build/pushed"),
    "daemonless/build/pushed": ("daemonless/build/content",),
    "pipeline/dind/succeeds": ("pipeline/dind/our-runner", "pipeline/dind/pod", "pipeline/dind/pushed"),
    "pipeline/dind/pushed": ("pipeline/dind/content",),
    "pipeline/dind-tls/succeeds": ("pipeline/dind-tls/pod", "pipeline/dind-tls/pushed"),
    "pipeline/dind-tls/pushed": ("pipeline/dind-tls/content",),
    "offline/olm": ("kube-rbac-proxy/pull-fails",),
    "kube-rbac-proxy/pull-fails": ("kube-rbac-proxy/csv-waits", "kube-rbac-proxy/replaced"),
    "kube-rbac-proxy/replaced": ("kube-rbac-proxy/lasts",),
}
"""Red outcome → outcomes of the same part of the stack, or further on, that must be blocked by it."""


def blocked_by(red: str, sections: frozenset[str]) -> tuple[str, ...]:
    """What must be blocked by ``red``, as far as it is of the ``sections`` that a stack was made for."""
    return tuple(it for it in BLOCKED.get(red, ()) if it.partition("/")[0] in sections)
