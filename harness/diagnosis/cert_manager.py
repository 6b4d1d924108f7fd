"""What cert-manager's objects say."""

from __future__ import annotations

from harness.diagnosis.model import LOGS, Rule
from harness.errors import Blame

RULES: tuple[Rule, ...] = (
    Rule(
        "cert-manager/issuer",
        ("condition",),
        r"(Cluster)?Issuer .*(Ready=False|not ready|not found)|Referenced \"\S+\" not found",
        Blame.PRODUCT,
        "the Issuer is not ready",
        "see the Issuer's conditions",
        None,
        "an Issuer that was just made is not ready for a moment",
        rank=52,
    ),
    Rule(
        "cert-manager/denied",
        ("condition",),
        r"CertificateRequest.*(Denied|Failed)|Certificate.*Failed",
        Blame.PRODUCT,
        "cert-manager did not issue the certificate",
        "see the CertificateRequest's conditions",
        None,
        "it tries again after an hour at most; the wait's own limit ends it",
        rank=50,
    ),
    Rule(
        "cert-manager/election",
        LOGS,
        r"attempting to acquire leader lease",
        Blame.ENVIRONMENT,
        "the new controller waits until the lease of the one before has run out",
        "nothing: it takes 75 s at most",
        None,
        "a lease is held for 60 s after its holder died, and asked for every 15 s",
        rank=54,
    ),
)
