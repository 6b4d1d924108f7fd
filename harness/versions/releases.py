"""Releases as they were known when this was written: what exists, and what is newest."""

from __future__ import annotations

from collections.abc import Mapping

from harness.versions.table import Releases

K3S = Releases(
    "k3s",
    {
        (1, 21): 14,
        (1, 22): 17,
        (1, 23): 17,
        (1, 24): 17,
        (1, 25): 16,
        (1, 26): 15,
        (1, 27): 16,
        (1, 28): 15,
        (1, 29): 15,
        (1, 30): 14,
        (1, 31): 14,
        (1, 32): 13,
        (1, 33): 13,
        (1, 34): 13,
        (1, 35): 10,
        (1, 36): 6,
        (1, 37): 2,
    },
    as_of="2026-11",
    source="patch releases of Kubernetes, each of which k3s follows",
    maintained=5,
)

CERT_MANAGER = Releases(
    "cert-manager",
    {
        (1, 7): 3,
        (1, 8): 2,
        (1, 9): 2,
        (1, 10): 2,
        (1, 11): 5,
        (1, 12): 17,
        (1, 13): 6,
        (1, 14): 7,
        (1, 15): 5,
        (1, 16): 5,
        (1, 17): 4,
        (1, 18): 6,
        (1, 19): 6,
        (1, 20): 3,
        (1, 21): 2,
    },
    as_of="2026-11",
    source="tags of cert-manager/cert-manager",
    maintained=3,
)

OLM = Releases(
    "olm",
    {
        **{(0, minor): 0 for minor in range(17, 47)},
        (0, 18): 3,
        (0, 19): 1,
        (0, 21): 2,
        (0, 23): 1,
    },
    as_of="2026-08",
    source="tags of operator-framework/operator-lifecycle-manager; v1 is another API",
    maintained=1,
)

OPERATOR = Releases(
    "operator",
    {
        **{(1, minor): 0 for minor in range(10, 54)},
        (1, 15): 2,
        (1, 18): 2,
        (1, 19): 1,
        (1, 23): 2,
        (1, 26): 2,
        (1, 27): 1,
        (1, 28): 1,
        (1, 29): 1,
        (1, 30): 2,
        (1, 37): 1,
        (1, 40): 1,
        (1, 41): 1,
        (1, 43): 3,
        (1, 44): 1,
        (1, 47): 1,
        (1, 48): 4,
        (1, 49): 1,
        (1, 50): 1,
        (1, 51): 2,
        (1, 52): 2,
    },
    as_of="2026-09",
    source="k8s-operatorhub/community-operators and redhat-openshift-ecosystem/community-operators-prod",
    maintained=44,  # what is on offer the catalog says, whose old bundles come and go
)

KNOWN: Mapping[str, Releases] = {it.component: it for it in (K3S, CERT_MANAGER, OLM, OPERATOR)}

NEWEST: Mapping[str, str] = {
    "k3s": "v1.36.4+k3s1",
    "cert-manager": "v1.21.2",
    "olm": "v0.46.0",
    "operator": "1.53.0",
    "runner": "19.4.0",
    "docker": "29.7.2",
}
"""The newest stable release of each that was seen to exist, as its releases write it."""

NEWEST_AS_OF = "2026-11"
