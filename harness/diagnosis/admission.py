"""Objects that the API server refuses, to us, a controller or a runner: quota, policy, rights, webhooks."""

from __future__ import annotations

import re

from harness.diagnosis.model import LOGS, SEEN_TWICE_S, Fact, Rule
from harness.errors import Blame

_TRIED_AGAIN = "controllers try again within seconds; whatever was refused twice is refused again"
_WEBHOOK = re.compile(r'(?:webhook|calling webhook) "?([\w.-]+)"?')
OWN_WEBHOOKS = re.compile(r"cert-manager\.io$|runner\.kb\.io|\.apps\.gitlab\.com$|^conversion$")
"""Those that the how-to's own parts bring."""


def _webhook(fact: Fact) -> str:
    found = _WEBHOOK.search(fact.said)
    if found:
        return found.group(1)
    return "conversion" if "conversion webhook" in fact.said else ""


def own_webhook(fact: Fact) -> bool:
    """The webhook is one of cert-manager's or of the operator's."""
    return bool(OWN_WEBHOOKS.search(_webhook(fact)))


def foreign_webhook(fact: Fact) -> bool:
    """It is somebody else's."""
    return not own_webhook(fact)


def _rule(id: str, sign: str, meaning: str, do: str, **changes: object) -> Rule:
    given: dict[str, object] = {
        "sources": ("create", "api", "ci", "condition", "job", *LOGS),
        "blame": Blame.ENVIRONMENT,
        "final_after_s": SEEN_TWICE_S,
        "why": _TRIED_AGAIN,
        "rank": 75,
    }
    return Rule(id=id, sign=sign, meaning=meaning, do=do, **{**given, **changes})  # type: ignore[arg-type]


RULES: tuple[Rule, ...] = (
    _rule(
        "admission/quota",
        r"exceeded quota|failed quota",
        "a ResourceQuota of the namespace is used up",
        "raise or remove the ResourceQuota",
    ),
    _rule(
        "admission/limit-range",
        r"(maximum|minimum) \S+ usage per (Container|Pod)|max limit to request ratio",
        "a LimitRange of the namespace refuses the pod's requests or limits",
        "change or remove the LimitRange",
    ),
    _rule(
        "admission/pod-security",
        r"violates PodSecurity \"[^\"]*\": .{0,160}",
        "the namespace's Pod Security level refuses the pod",
        "label the namespace pod-security.kubernetes.io/enforce=privileged, or use another namespace",
    ),
    _rule(
        "admission/service-account",
        r"error looking up service account|serviceaccounts? \"[^\"]*\" not found",
        "the pod's ServiceAccount is not there",
        "create it; the ServiceAccount default is made by Kubernetes itself within a second",
    ),
    _rule(
        "admission/namespace-ending",
        r"because it is being terminated|NamespaceTerminating",
        "the namespace is being deleted",
        "see what holds the namespace (its conditions name it), or use another",
        rank=77,
    ),
    _rule(
        "admission/namespace-missing",
        r"namespaces \"[^\"]*\" not found",
        "the namespace is not there",
        "create it",
    ),
    _rule(
        "admission/forbidden",
        r"is forbidden: User \"[^\"]*\" cannot|cannot \w+ resource \"|attempting to grant RBAC permissions",
        "the account may not do this",
        "give the account the right that the message names (RBAC)",
        final_after_s=SEEN_TWICE_S,
        why="rights that a controller grants a moment later are there at the second try",
        rank=74,
    ),
    _rule(
        "admission/webhook-untrusted",
        r"failed calling webhook.*(x509|certificate)|conversion webhook.*(x509|certificate)",
        "the API server does not trust the certificate of the webhook",
        "see the caBundle of the webhook configuration and the Secret that its server uses",
        blame=Blame.PRODUCT,
        final_after_s=None,
        why="the CA is injected a moment after the webhook is there; the wait's own limit ends it",
        rank=80,
        when=own_webhook,
    ),
    _rule(
        "admission/webhook-silent",
        r"failed calling webhook|conversion webhook",
        "the webhook of a part of the how-to does not answer",
        "see the pod behind the webhook's Service",
        blame=Blame.PRODUCT,
        final_after_s=None,
        why="it answers a moment after its pod is ready; the wait's own limit ends it",
        rank=78,
        when=own_webhook,
    ),
    _rule(
        "admission/foreign-webhook-silent",
        r"failed calling webhook|conversion webhook",
        "somebody else's admission webhook does not answer, and refuses everything by that",
        "mend or remove that webhook configuration",
        rank=78,
        when=foreign_webhook,
    ),
    _rule(
        "admission/webhook-refuses",
        r"admission webhook \"[^\"]*\" denied the request",
        "the webhook of a part of the how-to refuses the object",
        "see the webhook's words",
        blame=Blame.PRODUCT,
        final_after_s=0.0,
        why="it looked at the object and said no",
        rank=76,
        when=own_webhook,
    ),
    _rule(
        "admission/foreign-webhook-refuses",
        r"admission webhook \"[^\"]*\" denied the request|ValidatingAdmissionPolicy .* denied request",
        "somebody else's policy refuses the object",
        "exempt the namespace from that policy",
        rank=76,
        when=foreign_webhook,
    ),
    _rule(
        "admission/refused",
        r"FailedCreate|is forbidden|FailedCreate: ",
        "the API server refuses a pod, for a reason that is not known here",
        "see the API server's words",
        sources=("create", "job"),
        rank=25,
    ),
)
