"""The one way secrets leave: every secret is registered where it is born and cut from whatever is written.

Two nets. A registered value is cut in every form in which programs print it; what looks like a credential
(GitLab's token prefixes, a URL's userinfo, ``token = "…"`` in a config.toml) is cut although nobody knows it.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import shlex
import threading
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from harness.environment import snapshot

REDACTED = "[redacted]"

_MIN_REGISTERED_CHARS = 6
"""Shorter values would blank out ordinary words, and are no secrets worth the name."""
_MIN_LINE_CHARS = 16
"""A line of a key in PEM is cut alone too: YAML and TOML indent each of them. Shorter ones are its rest."""
_MIN_FROM_ENVIRONMENT_CHARS = 8

_SHAPES = re.compile(
    r"""
      \b gl(?:pat|rt|cbt|dt|ptt|ft|soat|agent|rtr)-[0-9A-Za-z_.\-]{8,}   # GitLab's token prefixes
    | \b GR1348941[0-9A-Za-z_\-]{8,}                                     # registration tokens
    | \b eyJ[0-9A-Za-z_\-]{8,}\.[0-9A-Za-z_\-]{8,}\.[0-9A-Za-z_\-]{8,}    # JSON Web Tokens
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----[\s\S]*?-----END\ [A-Z ]*PRIVATE\ KEY-----
    """,
    re.VERBOSE,
)
_AFTER_NAME = re.compile(
    r"""(?ix)
      \b ( authorization["']?\s*[:=]\s*["']?(?:basic|bearer)\s+
         | (?:private|job|runner)-token["']?\s*:\s*["']? )
      [^\s"']+
    """
)
_TOML_CREDENTIAL = re.compile(
    r'(?im)^(\s*(?:token|registration[-_]token|password|secret[-_]?key|access[-_]?key)\s*=\s*)"[^"\n]+"'
)
"""gitlab-runner's config.toml; its documentation, "Advanced configuration", names these fields."""
_JSON_CREDENTIAL = re.compile(
    r"""(?ix)
    ((?<!\\)" (?: (?:private|access|id|refresh|registration|runners|authentication)_token | password | auth
                | client-key-data | runner-(?:registration-)?token ) "\s*:\s*)
    "[^"\\]+"
    """
)
_URL_USERINFO = re.compile(r"(?<=://)(?:([^/\s:@\"'<>]*):)?([^/\s\"'<>]+)@(?=[\w.\-\[])")
_SECRET_NAME = re.compile(r"(?i)(token|password|passwd|secret|api_?key|private_?key|credentials?)\Z")

_lock = threading.Lock()
_registered: dict[str, None] = {}
_longest_first: tuple[str, ...] = ()


class Secret:
    """A value that prints as "[redacted]"; only ``reveal()`` gives it out.

    >>> str(Secret("glrt-0123456789"))
    '[redacted]'
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        _remember(value)

    def reveal(self) -> str:
        """The value itself, for the one call that needs it."""
        return self._value

    def __str__(self) -> str:
        return REDACTED

    def __repr__(self) -> str:
        return REDACTED

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        raise TypeError("a Secret is not pickled: pass it through a 0600 file")


def register(value: str) -> Secret:
    """Register a secret at its birth and wrap it."""
    return Secret(value)


def register_url(url: str) -> bool:
    """Register the credentials in a URL's userinfo; whether there were any."""
    rest = url.partition("://")[2] or url
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" not in authority:  # a password with a raw slash ends the authority early, where a port would be
        if re.fullmatch(r"[^:]*(:\d*)?", authority):
            return False
        authority = rest
    userinfo, at, _ = authority.rpartition("@")
    if not at:
        return False
    user, _, password = userinfo.partition(":")
    for value in filter(None, (userinfo, password or user)):
        register(value)
        register(unquote(value))
    return True


def register_environment(environment: Mapping[str, str] | None = None) -> None:
    """Register what the environment calls a token, a password or a key, and credentials of its proxies."""
    for name, value in (snapshot() if environment is None else environment).items():
        if "://" in value and "@" in value:
            register_url(value)
        elif (
            _SECRET_NAME.search(name)
            and len(value) >= _MIN_FROM_ENVIRONMENT_CHARS
            and not value.startswith(("/", "~", "."))  # a file that holds one
        ):
            register(value)


def redact(text: str) -> str:
    """``text`` without registered secrets, in all their forms, and without what looks like a credential."""
    for form in _longest_first:  # 650 forms over 1 MB: 0.1 s; as one regular expression: 6 s
        if form in text:
            text = text.replace(form, REDACTED)
    text = _SHAPES.sub(REDACTED, text)
    text = _AFTER_NAME.sub(rf"\1{REDACTED}", text)
    text = _TOML_CREDENTIAL.sub(rf'\1"{REDACTED}"', text)
    text = _JSON_CREDENTIAL.sub(rf'\1"{REDACTED}"', text)
    return _URL_USERINFO.sub(_userinfo_cut, text)


def redact_manifest(manifest: Any) -> Any:
    """A copy of a Kubernetes object (or list) without what is secret by its place, whoever made it.

    Values of Secrets, of environment variables whose name says so, and of the annotation in which
    ``kubectl apply`` keeps a copy of all this.
    """
    if isinstance(manifest, list):
        return [redact_manifest(it) for it in manifest]
    if not isinstance(manifest, dict):
        return manifest
    found = {key: redact_manifest(value) for key, value in manifest.items()}
    if manifest.get("kind") == "Secret":
        for part in ("data", "stringData"):
            if isinstance(manifest.get(part), dict):
                found[part] = dict.fromkeys(manifest[part], REDACTED)
    name, value = manifest.get("name"), manifest.get("value")
    if isinstance(name, str) and isinstance(value, str) and _SECRET_NAME.search(name):
        found["value"] = REDACTED
    found.pop(_LAST_APPLIED, None)
    return found


_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def redact_log_records() -> None:
    """Cut secrets from every log record of this process when it is made, before any handler has it."""
    factory = logging.getLogRecordFactory()
    if getattr(factory, "redacts", False):
        return

    def make(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = factory(*arguments, **named)
        try:
            record.msg = redact(record.getMessage())
        except Exception as error:  # wrong arguments: whoever formats the record would have said so
            record.msg = f"a log record that can't be formatted: {type(error).__name__}"
        record.args = None
        if record.exc_info and record.exc_info[0]:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return record

    make.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make)


def _userinfo_cut(found: re.Match[str]) -> str:
    user = found[1]
    return f"{REDACTED}@" if user is None else f"{user}:{REDACTED}@"


def _remember(value: str) -> None:
    global _longest_first
    lines = (line.strip() for line in value.splitlines())
    parts = [value, *(it for it in lines if len(it) >= _MIN_LINE_CHARS and not it.startswith("-----"))]
    new = [it for it in dict.fromkeys(parts) if len(it) >= _MIN_REGISTERED_CHARS]
    with _lock:
        if all(one in _registered for one in new):
            return
        for one in new:
            _registered.update(dict.fromkeys(_forms(one)))
        _longest_first = tuple(sorted(_registered, key=len, reverse=True))


def _forms(value: str) -> set[str]:
    """How a secret may show up: as it is, escaped by what prints it, and encoded, also twice."""
    # as a list or a dict shows it, also where only ASCII may be; what prints that escapes it once more
    shown = {value, repr(value)[1:-1], ascii(value)[1:-1]}
    forms = shown.union(*map(_escaped, shown))
    once = set(_base64_of(value.encode()))
    return forms | once | {again for form in once for again in _base64_of(form.encode())}


def _escaped(value: str) -> Iterable[str]:
    """As URLs, JSON (also within JSON), HTML, XML, Python and a shell write it."""
    for safe in ("", "/", "/:@!$&'()*+,;=~"):
        encoded = quote(value, safe=safe)
        yield from (encoded, re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), encoded))
    yield quote_plus(value)
    for ascii_only in (True, False):
        within = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield from (within, json.dumps(within, ensure_ascii=ascii_only)[1:-1], within.replace("/", r"\/"))
    escaped = html.escape(value, quote=False)
    yield from (escaped, html.escape(value), html.escape(value).replace("&#x27;", "&#39;"))
    yield escaped.replace('"', "&quot;")
    yield escaped.replace('"', "&#34;").replace("'", "&#39;")
    yield json.dumps(value).translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&"})[1:-1]  # as Go does
    yield shlex.quote(value)


def _base64_of(raw: bytes) -> Iterable[str]:
    """Inside base64 at each of the three offsets: the part that depends on the value alone."""
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).decode().rstrip("=")
        skip = (0, 2, 3)[offset]
        inner = encoded[skip : len(encoded) - (1 if (len(raw) + offset) % 3 else 0)]
        if len(inner) >= _MIN_REGISTERED_CHARS:
            yield from (inner, inner.translate(_URL_SAFE))


_URL_SAFE = str.maketrans("+/", "-_")
