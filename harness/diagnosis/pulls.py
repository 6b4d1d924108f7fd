"""Images that can't be pulled, whoever says so: the kubelet, a CI job's log, or a pod's sandbox."""

from __future__ import annotations

import re

from harness.diagnosis.model import SEEN_TWICE_S, TRANSIENT_S, Fact, Rule
from harness.errors import Blame

_THREE_TRIES = "the kubelet tries again after 10 and 20 s, and a registry may answer the next time"
_SECOND_TRY = "a second try is refused as the first was"
_SLOW_LINE_S = 900.0
"""For 150 MB, as OLM's image has, at 200 kB/s."""
_DEFINITE = "the registry was asked and answered; it will say the same again"


_PULLING = re.compile(r"pulling image|image pull failed|Failed to pull image")


def _of_a_pull(fact: Fact) -> bool:
    """A line of a job's log counts where it is about an image."""
    return fact.source in ("pull", "sandbox") or bool(_PULLING.search(fact.said))


def _rule(id: str, sign: str, meaning: str, do: str, **changes: object) -> Rule:
    given: dict[str, object] = {
        "sources": ("pull", "sandbox", "ci"),
        "blame": Blame.ENVIRONMENT,
        "final_after_s": TRANSIENT_S,
        "why": _THREE_TRIES,
        "rank": 70,
        "when": _of_a_pull,
    }
    return Rule(id=id, sign=sign, meaning=meaning, do=do, **{**given, **changes})  # type: ignore[arg-type]


RULES: tuple[Rule, ...] = (
    _rule(
        "pull/rate-limited",
        r"\b429\b|toomanyrequests|too many requests|rate limit",
        "the registry limits the rate of pulls",
        "wait, log in to the registry, or use a mirror (--artifacts china, a bundle)",
        rank=78,
    ),
    _rule(
        "pull/kubelet-busy",
        r"pull QPS exceeded",
        "the kubelet limits its own rate of pulls",
        "wait, or raise registryPullQPS of the kubelet",
        rank=79,
    ),
    _rule(
        "pull/proxy-login",
        r"\b407\b|proxy authentication required",
        "the proxy on the way to the registry wants a login",
        "give the node a proxy address with user and password, or a way around the proxy",
        final_after_s=SEEN_TWICE_S,
        why=_SECOND_TRY,
        rank=77,
    ),
    _rule(
        "pull/denied",
        r"\b40[13] (unauthorized|forbidden)\b|status[^:]*: 40[13]\b|unauthorized|authentication required"
        r"|authorization failed|pull access denied|insufficient_scope|no basic auth credentials"
        r"|denied: |access forbidden",
        "the registry refuses the pull",
        "see whether the image is public, or give the node a login for its registry",
        final_after_s=SEEN_TWICE_S,
        why=_SECOND_TRY,
        rank=72,
    ),
    _rule(
        "pull/registry-error",
        r"\b50[0-9] (internal server error|bad gateway|service unavailable|gateway time-?out)"
        r"|unexpected status[^:]*: 5\d\d|status code 5\d\d|received unexpected HTTP status: 5\d\d"
        r"|RegistryUnavailable",
        "the registry answers with an error of its own",
        "see the state of that registry, or use another mirror",
        rank=76,
    ),
    _rule(
        "pull/plain-http",
        r"server gave HTTP response to HTTPS client",
        "the registry speaks plain HTTP where TLS is due",
        "give the node a registries.yaml that names the registry with http://, or put TLS in front of it",
        final_after_s=0.0,
        why="a registry does not begin to speak TLS by itself",
        rank=80,
    ),
    _rule(
        "pull/certificate-expired",
        r"certificate has expired or is not yet valid",
        "the registry's certificate has expired, or a clock is wrong",
        "renew the certificate, and compare the clocks of node and registry",
        final_after_s=0.0,
        why="time does not mend it",
        rank=82,
    ),
    _rule(
        "pull/untrusted",
        r"x509: |certificate signed by unknown authority|certificate is not valid|certificate verify failed",
        "the node does not trust the registry's certificate",
        "give the node the CA of the registry",
        final_after_s=0.0,
        why="the node's trust does not change by itself",
        rank=75,
    ),
    _rule(
        "pull/dns",
        r"no such host|server misbehaving|temporary failure in name resolution|: try again"
        r"|lookup \S+( on \S+)?: .*(timeout|refused)",
        "the registry's name can't be resolved on the node",
        "see the node's /etc/resolv.conf and its name server",
        rank=74,
    ),
    _rule(
        "pull/disk-full",
        r"no space left on device|disk quota exceeded",
        "the node's disk is full",
        "make room on the node's disk",
        rank=84,
    ),
    _rule(
        "pull/damaged",
        r"unexpected commit digest|failed size validation|failed (to verify|verification)|digest mismatch"
        r"|invalid checksum|short read|unexpected EOF",
        "what the registry sends is not what its manifest says",
        "have the mirror fetch the image anew, or use another",
        rank=74,
    ),
    _rule(
        "pull/unreachable",
        r"i/o timeout|connection refused|network is unreachable|no route to host|deadline ?exceeded"
        r"|TLS handshake|connection reset|: EOF\b|context canceled|timed? ?out awaiting|broken pipe"
        r"|proxyconnect",
        "the registry can't be reached from the node",
        "see the node's way to the registry: firewall, proxy, mirror",
        rank=73,
    ),
    _rule(
        "pull/no-platform",
        r"no match for platform|no matching manifest|exec format error",
        "the image does not exist for this machine's architecture",
        "use an image that is built for it",
        blame=Blame.PRODUCT,
        final_after_s=0.0,
        why=_DEFINITE,
        rank=81,
    ),
    _rule(
        "pull/bad-name",
        r"InvalidImageName|couldn't parse image (name|reference)|invalid reference format",
        "this is no name of an image",
        "correct the image's name where it comes from",
        blame=Blame.PRODUCT,
        final_after_s=0.0,
        why="a name does not change by itself",
        rank=83,
    ),
    _rule(
        "pull/never",
        r"ErrImageNeverPull",
        "the image is not on the node, and its pull policy forbids a pull",
        "load the image into the node, or change imagePullPolicy",
        blame=Blame.PRODUCT,
        final_after_s=0.0,
        why="nobody will pull it",
        rank=83,
    ),
    _rule(
        "pull/format",
        r"schema ?1|media type .*(no longer|not) supported|ImageInspectError",
        "the image has a format that the node does not read",
        "use an image in today's format",
        blame=Blame.PRODUCT,
        final_after_s=0.0,
        why=_DEFINITE,
        rank=80,
    ),
    _rule(
        "pull/not-found",
        r"not found|manifest unknown|name unknown|does not exist\b",
        "the registry has no such image",
        "see whether image and tag still exist; if they were moved, name a substitute in the profile",
        blame=Blame.PRODUCT,
        final_after_s=0.0,
        why=_DEFINITE,
        rank=71,
    ),
    _rule(
        "pull/unknown",
        r"ErrImagePull|ImagePullBackOff|RegistryUnavailable|image pull failed|failed to pull image",
        "the image can't be pulled, for a reason that is not known here",
        "see the kubelet's words",
        rank=30,
    ),
    _rule(
        "pull/slow",
        r"^Pulling",
        "the image is still being pulled",
        "give the node a faster way to the registry, or a bundle; nothing has failed so far",
        sources=("pull",),
        final_after_s=None,
        stretches_s=_SLOW_LINE_S,
        why="a slow line is no failure: containerd itself ends a pull that makes no progress for minutes",
        rank=20,
    ),
)
