"""HTTP to sites and registries: whom to trust, which proxy, and what a failure means in a sentence."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import certifi
import httpx

from harness.diagnosis import Fact, classify
from harness.environment import steady
from harness.errors import EnvironmentProblem
from harness.proxy import is_own
from harness.redact import redact

TRANSIENT = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Answers that may be another one in a moment; every other refusal is final."""
LONGEST_PAUSE_S = 60.0
"""A site may ask for more (Retry-After); nobody waits that long for a first answer."""
LOG_IN = "log in with --registry-auth FILE, take another --artifacts, or wait for the limit's next window"


class WebProblem(EnvironmentProblem):
    """A site or registry can't be had: ``url``, and the ``status`` that it answered (0: it did not).

    ``passing``: the same may go well in a moment; it was tried again before this was raised.
    """

    pause_s = 0.0
    """Seconds that the answer asks to wait before the next try."""

    def __init__(
        self, url: str, what: str, hint: str, *, status: int = 0, passing: bool = False, evidence: str = ""
    ) -> None:
        why = classify([Fact("registry", url, f"{what} {evidence}", status=status)])
        rule = why.id if why is not None else ""
        super().__init__(redact(f"{url}: {what}"), hint, evidence=redact(evidence), reason_id=rule)
        self.url = url
        self.status = status
        self.passing = passing


def trust(ca_file: Path | None = None) -> ssl.SSLContext:
    """The authorities that this system trusts (SSL_CERT_FILE and SSL_CERT_DIR count), and ``ca_file``'s."""
    context = ssl.create_default_context()
    system = ssl.get_default_verify_paths()
    if system.cafile is None and system.capath is None:
        context.load_verify_locations(cafile=certifi.where())
    if ca_file is not None:
        context.load_verify_locations(cafile=str(ca_file))
    return context


def system_authorities() -> str | None:
    """File or directory of the authorities that this system trusts; None where it has none."""
    system = ssl.get_default_verify_paths()
    return system.cafile or system.capath


def client(
    url: str = "",
    *,
    ca_file: Path | None = None,
    timeout: httpx.Timeout | float,
    follow_redirects: bool = True,
    transport: httpx.BaseTransport | None = None,
) -> httpx.Client:
    """A client; the environment's proxies are for what is not this host's own (``url``)."""
    verify = trust(ca_file)
    return steady(
        lambda: httpx.Client(
            verify=verify,
            timeout=timeout,
            follow_redirects=follow_redirects,
            transport=transport,
            trust_env=not is_own(url),
        )
    )


def problem(url: str, error: Exception) -> WebProblem:
    """What a request's exception means."""
    text = _root_text(error)
    if isinstance(error, httpx.TooManyRedirects):
        return WebProblem(url, "redirects in a circle", "try another --artifacts, or look at the mirror")
    if isinstance(error, httpx.ProxyError):
        return _proxy_problem(url, text)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = re.sub(r"^.*certificate verify failed: (.*?)\s*\(_ssl.*$", r"\1", text)
        return WebProblem(
            url,
            f"its certificate is not trusted: {reason}",
            "add its authority to this system's (a proxy that opens TLS has one of its own), "
            "or name it in SSL_CERT_FILE; where it has expired, its owner must renew it",
        )
    if "Name or service not known" in text or "name resolution" in text or "No address" in text:
        return WebProblem(
            url,
            f"its name can't be looked up ({text})",
            "check this host's DNS; where a proxy is the way out, set HTTPS_PROXY",
            passing=True,
        )
    if isinstance(error, httpx.TimeoutException):
        text = text or "no answer in time"
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return WebProblem(url, text, "check the address")
    return WebProblem(
        url,
        f"can't be fetched: {text or type(error).__name__}",
        "check the network, its firewall and the proxy variables (HTTPS_PROXY, NO_PROXY)",
        passing=True,
    )


def refusal(url: str, status: int, body: str = "") -> WebProblem:
    """What a refusing answer means."""
    evidence = "" if body.lstrip()[:1] == "<" else body[:500]
    if status == 429:
        return WebProblem(
            url, "answers 429: too many requests", LOG_IN, status=status, passing=True, evidence=evidence
        )
    if status == 407:
        return _proxy_problem(url, "407 Proxy Authentication Required")
    if status in TRANSIENT:
        hint = "the site has trouble of its own: try again later, or take another --artifacts"
        return WebProblem(url, f"answers {status}", hint, status=status, passing=True, evidence=evidence)
    if status == 404:
        hint = "is the version spelt as the release or tag is? Releases and images are also taken away"
        return WebProblem(url, "answers 404: there is no such thing", hint, status=status, evidence=evidence)
    if status in (401, 403):
        hint = "does it want a login (--registry-auth FILE), or does the network forbid it?"
        return WebProblem(url, f"answers {status}: access is denied", hint, status=status, evidence=evidence)
    return WebProblem(url, f"answers {status}", "see its answer", status=status, evidence=evidence)


def refused(url: str, answer: httpx.Response) -> WebProblem:
    """The same of an answer that has been read."""
    found = refusal(url, answer.status_code, answer.text)
    found.pause_s = asked_pause_s(answer)
    return found


def web_page(url: str) -> WebProblem:
    """HTML where something else was asked for."""
    return WebProblem(
        url,
        "answers with a web page in place of the file",
        "a proxy or the network's login page may be answering for it",
    )


def is_web_page(start: bytes) -> bool:
    """Whether content begins as HTML does."""
    return start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))


def asked_pause_s(answer: httpx.Response) -> float:
    """Seconds that the answer asks to wait (Retry-After); 0 where it does not say."""
    text = answer.headers.get("Retry-After", "")
    return min(float(text), LONGEST_PAUSE_S) if text.isdigit() else 0.0


def _proxy_problem(url: str, text: str) -> WebProblem:
    match = re.match(r"(\d{3})\b", text)
    status = int(match[1]) if match else 0
    hint = {
        407: "the proxy wants a login: HTTPS_PROXY takes user and password before the proxy's name",
        403: "the proxy forbids that address: have it allowed, or make a bundle where it is not needed",
    }.get(status, "check the proxy that HTTPS_PROXY names")
    return WebProblem(
        url, f"the proxy refuses: {text}", hint, status=status, passing=status in TRANSIENT or not status
    )


def _root_text(error: BaseException) -> str:
    return str(error) or (type(error).__name__ if error.__cause__ is None else _root_text(error.__cause__))
