"""Answers of the Kubernetes API server that have no nearer reason (admission.py has those)."""

from __future__ import annotations

from harness.diagnosis.model import TRANSIENT_S, Fact, Rule
from harness.errors import Blame


def _status(*wanted: int) -> object:
    return lambda fact: fact.status in wanted


def _server_error(fact: Fact) -> bool:
    return fact.status >= 500


def aggregated(fact: Fact) -> bool:
    """The path is served by another program behind the API server (an APIService)."""
    return bool(fact.seen.get("apiservice"))


def _rule(id: str, sign: str, meaning: str, do: str, **changes: object) -> Rule:
    given: dict[str, object] = {
        "sources": ("api",),
        "blame": Blame.ENVIRONMENT,
        "final_after_s": 0.0,
        "why": "it was asked for and has answered",
        "rank": 40,
    }
    return Rule(id=id, sign=sign, meaning=meaning, do=do, **{**given, **changes})  # type: ignore[arg-type]


RULES: tuple[Rule, ...] = (
    _rule(
        "api/certificate",
        r"certificate.verify.failed|x509|certificate (has expired|is not valid)|hostname mismatch",
        "the API server's certificate is not trusted or has expired",
        "see certificate-authority-data of the kubeconfig, and the clocks",
        rank=52,
    ),
    _rule(
        "api/unreachable",
        r"",
        "nobody answers at the API server's address",
        "is the cluster still running? `runner-conformance status` says",
        final_after_s=20.0,
        why="an API server that restarts is back sooner",
        rank=45,
        when=_status(0),
    ),
    _rule(
        "api/unauthorized",
        r"",
        "the API server does not know the kubeconfig's user",
        "renew the kubeconfig's token or client certificate",
        rank=46,
        when=_status(401),
    ),
    _rule(
        "api/forbidden",
        r"",
        "the kubeconfig's user may not do this",
        "use a user with the rights that docs/acceptance.md names",
        rank=46,
        when=_status(403),
    ),
    _rule(
        "api/overloaded",
        r"",
        "the API server limits the rate of requests",
        "run it when the cluster is less busy",
        final_after_s=TRANSIENT_S,
        why="it takes requests again when it is less busy",
        rank=46,
        when=_status(429),
    ),
    _rule(
        "api/aggregated",
        r"",
        "an API that another program serves behind the API server does not answer",
        "see `kubectl get apiservice`, and the pods of its Service",
        blame=Blame.PRODUCT,
        final_after_s=None,
        why="its program may be starting; the wait's own limit ends it",
        rank=50,
        when=lambda fact: aggregated(fact) and _server_error(fact),
    ),
    _rule(
        "api/server-error",
        r"",
        "the API server has trouble of its own",
        "see the API server's log (of k3s, on an ephemeral cluster)",
        final_after_s=20.0,
        why="an API server that restarts is back sooner",
        rank=44,
        when=_server_error,
    ),
    _rule(
        "api/invalid",
        r"",
        "the API server refuses the object",
        "see which field it names",
        blame=Blame.PRODUCT,
        rank=42,
        when=_status(400, 415, 422),
    ),
    _rule(
        "api/conflict",
        r"",
        "the object is there already, or somebody else changed it meanwhile",
        "see who else works on this cluster",
        rank=42,
        when=_status(409),
    ),
    _rule(
        "api/absent",
        r"",
        "the object is not there",
        "see who removed it",
        blame=Blame.PRODUCT,
        rank=42,
        when=_status(404),
    ),
    _rule(
        "api/kind",
        r"serves no",
        "the cluster does not serve this kind",
        "is its CRD installed?",
        blame=Blame.PRODUCT,
        final_after_s=None,
        why="its CRD may come later",
        rank=43,
    ),
    _rule(
        "api/answer",
        r"",
        "the API server gave an answer that is not known here",
        "see its words",
        rank=10,
    ),
)
