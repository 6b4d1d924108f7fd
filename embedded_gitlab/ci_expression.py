"""The expressions of ``rules:if``.

``$VAR``, strings, null, ``==`` ``!=`` ``=~`` ``!~`` ``&&`` ``||`` and parentheses, after GitLab's page
"CI/CD variable expressions".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_TOKEN = re.compile(
    r"""\s*(?: (?P<op>==|!=|=~|!~|&&|\|\||\(|\)) | \$(?P<var>\w+) | \$\{(?P<var2>\w+)\}
      | "(?P<dq>[^"]*)" | '(?P<sq>[^']*)' | /(?P<re>(?:\\.|[^/\\])*)/(?P<flags>[ims]*)
      | (?P<null>null)\b )""",
    re.VERBOSE,
)
_MAX_CHARS = 1000


class ExpressionError(ValueError):
    """Not a valid expression."""


class _Pattern(str):
    """A ``/regular expression/`` in an expression."""


Value = str | bool | None


def evaluate(expression: str, variables: Mapping[str, str]) -> bool:
    """Whether ``expression`` holds for ``variables``. Raises ExpressionError."""
    if len(expression) > _MAX_CHARS:
        raise ExpressionError("expression is too long")
    parser = _Parser(_tokens(expression), variables)
    value = parser.either()
    if parser.rest:
        raise ExpressionError("invalid expression syntax")
    return _true(value)


def pattern(text: str, flags: str = "") -> re.Pattern[str]:
    """A GitLab (RE2) pattern as Python's; close enough for branch names."""
    try:
        return re.compile(text.replace("\\/", "/"), sum(getattr(re, flag.upper()) for flag in set(flags)))
    except re.error as error:
        raise ExpressionError(f"invalid regular expression: {error}") from None


def _tokens(expression: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at, text = 0, expression.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExpressionError("invalid expression syntax")
        kind = match.lastgroup or ""
        if kind == "flags":
            tokens.append(("re", f"{match['flags']}/{match['re']}"))
        else:
            tokens.append((kind, match[kind]))
        at = match.end()
    return tokens


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]], variables: Mapping[str, str]) -> None:
        self.rest = tokens
        self._variables = variables

    def either(self) -> Value:
        value = self.both()
        while self._take("||"):
            other = self.both()
            value = _true(value) or _true(other)
        return value

    def both(self) -> Value:
        value = self.comparison()
        while self._take("&&"):
            other = self.comparison()
            value = _true(value) and _true(other)
        return value

    def comparison(self) -> Value:
        left = self.atom()
        if self._take("=="):
            return left == self.atom()
        if self._take("!="):
            return left != self.atom()
        if self._take("=~"):
            return _matches(left, self.atom())
        if self._take("!~"):
            return not _matches(left, self.atom())
        return left

    def atom(self) -> Value:
        if self._take("("):
            value = self.either()
            if not self._take(")"):
                raise ExpressionError("invalid expression syntax")
            return value
        if not self.rest or self.rest[0][0] == "op":
            raise ExpressionError("invalid expression syntax")
        kind, text = self.rest.pop(0)
        if kind in ("var", "var2"):
            return self._variables.get(text)
        if kind == "null":
            return None
        return _Pattern(text) if kind == "re" else text

    def _take(self, operator: str) -> bool:
        if self.rest and self.rest[0] == ("op", operator):
            self.rest.pop(0)
            return True
        return False


def _matches(left: Value, right: Value) -> bool:
    if not isinstance(right, str):
        return False
    if isinstance(right, _Pattern):
        flags, _, text = right.partition("/")
    else:
        # A variable may hold a pattern: $REF =~ $PATTERN
        flags, text = "", right[1:-1] if len(right) > 1 and right[0] == right[-1] == "/" else right
    return isinstance(left, str) and pattern(text, flags).search(left) is not None


def _true(value: Value) -> bool:
    return value not in (None, False, "")
