"""The one way secrets leave: every secret is registered where it is born and cut from whatever is written."""

from __future__ import annotations

import base64
import re
import threading
from urllib.parse import quote

REDACTED = "[redacted]"

_MIN_REGISTERED_CHARS = 6
"""Shorter values would blank out ordinary words, and are no secrets worth the name."""

_SHAPES = re.compile(
    r"""
      \b gl(?:pat|rt|cbt|dt|ptt|ft|soat|agent|rtr)-[0-9A-Za-z_.\-]{8,}   # GitLab's token prefixes
    | \b GR1348941[0-9A-Za-z_\-]{8,}                                     # registration tokens
    | \b eyJ[0-9A-Za-z_\-]{8,}\.[0-9A-Za-z_\-]{8,}\.[0-9A-Za-z_\-]{8,}    # JSON Web Tokens
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----[\s\S]*?-----END\ [A-Z ]*PRIVATE\ KEY-----
    """,
    re.VERBOSE,
)
_AFTER_NAME = re.compile(r"(?i)\b(authorization:\s*(?:basic|bearer)\s+|private-token:\s*)\S+")
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+(?=@)")

_lock = threading.Lock()
_registered: dict[str, None] = {}
_pattern: re.Pattern[str] | None = None


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


def redact(text: str) -> str:
    """``text`` without registered secrets (also base64, URL-quoted) and without what looks like a token."""
    with _lock:
        pattern = _pattern
    if pattern is not None:
        text = pattern.sub(REDACTED, text)
    text = _SHAPES.sub(REDACTED, text)
    text = _AFTER_NAME.sub(rf"\1{REDACTED}", text)
    return _URL_PASSWORD.sub(rf"\1:{REDACTED}", text)


def _remember(value: str) -> None:
    global _pattern
    if len(value) < _MIN_REGISTERED_CHARS:
        return
    with _lock:
        if value in _registered:
            return
        for form in _forms(value):
            _registered[form] = None
        longest_first = sorted(_registered, key=len, reverse=True)
        _pattern = re.compile("|".join(re.escape(form) for form in longest_first))


def _forms(value: str) -> list[str]:
    """How a secret may show up: as it is, quoted for a URL, and inside base64 at each of three offsets."""
    forms = {value, quote(value, safe="")}
    raw = value.encode()
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).decode().rstrip("=")
        skip = (0, 2, 3)[offset]
        inner = encoded[skip : len(encoded) - (1 if (len(raw) + offset) % 3 else 0)]
        if len(inner) >= 2 * _MIN_REGISTERED_CHARS:
            forms.add(inner)
    return [form for form in forms if form]
