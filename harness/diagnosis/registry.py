"""Answers of a container registry, or of a source of files, to the suite itself."""

from __future__ import annotations

from harness.diagnosis.model import Fact, Rule
from harness.errors import Blame

_PATIENT = "the client has tried several times already"


def _status(*wanted: int) -> object:
    return lambda fact: fact.status in wanted


def _server_error(fact: Fact) -> bool:
    return fact.status >= 500


def _rule(id: str, sign: str, meaning: str, do: str, **changes: object) -> Rule:
    given: dict[str, object] = {
        "sources": ("registry",),
        "blame": Blame.ENVIRONMENT,
        "final_after_s": 0.0,
        "why": _PATIENT,
        "rank": 50,
    }
    return Rule(id=id, sign=sign, meaning=meaning, do=do, **{**given, **changes})  # type: ignore[arg-type]


RULES: tuple[Rule, ...] = (
    _rule(
        "registry/certificate-expired",
        r"certificate has expired|not yet valid",
        "the registry's certificate has expired, or a clock is wrong",
        "renew the certificate, and compare the clocks",
        rank=62,
    ),
    _rule(
        "registry/untrusted",
        r"certificate is not trusted|certificate.verify.failed|self[- ]signed certificate|x509",
        "the registry's certificate is not trusted",
        "give its CA",
        rank=60,
    ),
    _rule(
        "registry/name-unknown",
        r"name can't be looked up|Name or service not known|name resolution",
        "the registry's name can't be resolved on this machine",
        "see this machine's name server",
        rank=59,
    ),
    _rule(
        "registry/clock",
        r"not valid yet|issued in the future|token.*expired|clock",
        "the registry takes the token for expired or not yet valid: clocks differ",
        "compare the clocks of GitLab and registry",
        rank=58,
    ),
    _rule(
        "registry/rate-limited",
        r"",
        "the registry limits the rate",
        "wait, or log in to it",
        when=_status(429),
    ),
    _rule(
        "registry/proxy-login",
        r"",
        "the proxy on the way to the registry wants a login",
        "give the proxy's user and password",
        when=_status(407),
    ),
    _rule(
        "registry/denied",
        r"",
        "the registry refuses the suite",
        "see the user's rights in the project, and the clocks of GitLab and registry",
        when=_status(401, 403),
    ),
    _rule(
        "registry/absent",
        r"",
        "the registry has no such image or layer",
        "see whether somebody removed it",
        when=_status(404),
    ),
    _rule(
        "registry/server-error",
        r"",
        "the registry answers with an error of its own",
        "see the registry's log",
        when=_server_error,
    ),
    _rule(
        "registry/no-json",
        r"JSON|<html|Expecting value|web page",
        "what answers at the registry's address is no registry",
        "is something in front of it?",
        rank=45,
    ),
    _rule(
        "registry/unreachable",
        r"",
        "the registry can't be reached",
        "is it up, and is its CA given?",
        rank=30,
        when=_status(0),
    ),
    _rule(
        "registry/answer",
        r"",
        "the registry gave an answer that is not known here",
        "see the registry's words",
        rank=10,
    ),
)
