"""Answers of GitLab's API to the suite."""

from __future__ import annotations

from harness.diagnosis.model import Fact, Rule
from harness.errors import Blame

_PATIENT = "the client has tried for up to 40 s already"
_NOBODY = "the client has tried for 10 s already; a server that restarts listens again sooner"
_DEFINITE = "GitLab was asked and has answered"
_TRUST = "neither trust nor time mends itself"


def _status(*wanted: int) -> object:
    return lambda fact: fact.status in wanted


def _rule(id: str, sign: str, meaning: str, do: str, **changes: object) -> Rule:
    given: dict[str, object] = {
        "sources": ("gitlab",),
        "blame": Blame.ENVIRONMENT,
        "final_after_s": 0.0,
        "why": _PATIENT,
        "rank": 50,
    }
    return Rule(id=id, sign=sign, meaning=meaning, do=do, **{**given, **changes})  # type: ignore[arg-type]


def _server_error(fact: Fact) -> bool:
    return fact.status >= 500


RULES: tuple[Rule, ...] = (
    _rule(
        "gitlab/certificate-expired",
        r"certificate has expired|not yet valid",
        "GitLab's certificate has expired, or a clock is wrong",
        "renew the certificate, and compare the clocks of this machine and GitLab",
        rank=62,
        why=_TRUST,
    ),
    _rule(
        "gitlab/untrusted",
        r"certificate verify failed|CERTIFICATE_VERIFY_FAILED|SSLError|x509",
        "GitLab's certificate is not trusted",
        "give the CA of this GitLab (--gitlab-ca-file), as a PEM file",
        rank=60,
        why=_TRUST,
    ),
    _rule(
        "gitlab/proxy",
        r"ProxyError|407 Proxy|Tunnel connection failed",
        "the proxy on the way to GitLab does not let the suite through",
        "see the proxy settings (no_proxy for a GitLab inside)",
        rank=61,
        why=_NOBODY,
    ),
    _rule(
        "gitlab/name-unknown",
        r"Name or service not known|Temporary failure in name resolution|getaddrinfo|NameResolutionError",
        "GitLab's name can't be resolved",
        "check the address and the name server",
        rank=59,
        why=_NOBODY,
    ),
    _rule(
        "gitlab/slow",
        r"timed? ?out",
        "GitLab does not answer in time",
        "is GitLab overloaded?",
        rank=56,
        when=_status(0),
    ),
    _rule(
        "gitlab/unreachable",
        r"Connection|refused|unreachable|RemoteDisconnected|reset|Max retries",
        "GitLab can't be reached",
        "check the address, the proxy settings and the network",
        rank=54,
        when=_status(0),
        why=_NOBODY,
    ),
    _rule(
        "gitlab/embedded",
        r"embedded GitLab does not answer|embedded one has not been started",
        "the GitLab that the suite itself starts is not there (any more)",
        "see gitlab.log in the stack's state directory; then provision a new stack",
        sources=("object",),
        why="it is a process of this machine, and nobody starts it again",
        rank=60,
    ),
    _rule(
        "gitlab/none",
        r"not answer as a GitLab|<html|JSON",
        "what answers at the address does not answer as a GitLab does",
        "is it the address of a GitLab?",
        rank=40,
        why=_DEFINITE,
    ),
    _rule(
        "gitlab/token-refused",
        r"",
        "GitLab refuses the token",
        "the token is wrong, expired or revoked: make a new personal access token with scope api",
        when=_status(401),
        why=_DEFINITE,
    ),
    _rule(
        "gitlab/forbidden",
        r"",
        "the token may not do this",
        "use a token of a user who is Maintainer or Owner of the project, with scope api",
        when=_status(403),
        why=_DEFINITE,
    ),
    _rule(
        "gitlab/absent",
        r"",
        "it is not in GitLab (any more)",
        "see in GitLab who removed it, and whether the user can see it",
        when=_status(404),
        why=_DEFINITE,
    ),
    _rule(
        "gitlab/rate-limited",
        r"",
        "GitLab keeps limiting the rate",
        "wait a few minutes, or use a GitLab with a higher limit",
        when=_status(429),
        why="the client has waited as long as GitLab asked for, up to two minutes",
    ),
    _rule(
        "gitlab/server-error",
        r"",
        "GitLab answers with an error of its own",
        "see the state of that GitLab",
        when=_server_error,
    ),
    _rule(
        "gitlab/answer",
        r"",
        "GitLab gave an answer that is not known here",
        "see GitLab's message",
        rank=10,
        why=_DEFINITE,
    ),
)
