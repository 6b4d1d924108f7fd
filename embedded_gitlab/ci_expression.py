"""The expressions of ``rules:if`` and the patterns of ``only``, read as GitLab 17.11 reads them.

``$VAR``, strings, null, patterns, ``==`` ``!=`` ``=~`` ``!~`` ``&&`` ``||`` and parentheses, after GitLab's
page "CI/CD job rules", "CI/CD variable expressions". Patterns are RE2's, GitLab's own engine: it never
backtracks, so no pattern of a pipeline file can take long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import re2

_TOKEN = re.compile(
    r"""\s*(?: (?P<op>==|!=|=~|!~|&&|\|\||\(|\)) | \$(?P<var>\w+) | "(?P<dq>.*?)" | '(?P<sq>.*?)'
      | (?P<re>/(?:[^/]|\\/)+[^\\]/[ismU]*) | (?P<null>null)\b )""",
    re.VERBOSE | re.ASCII,
)
_PATTERN = re.compile(r"/(.*)/([ismU]*)", re.DOTALL)
_MAX_CHARS, _MAX_TOKENS, _MAX_DEPTH = 4096, 100, 25
"""Tokens are limited to 100 by GitLab too."""


class ExpressionError(ValueError):
    """Not a valid expression."""


def compiled(pattern: str) -> Any:
    """A pattern of RE2, which has the methods of Python's. Raises ExpressionError."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        raise ExpressionError("invalid regular expression") from None


class Pattern:
    """A compiled ``/pattern/flags``. Raises ExpressionError when it is none."""

    def __init__(self, text: str) -> None:
        found = _PATTERN.fullmatch(text.replace("\\/", "/"))
        if found is None:
            raise ExpressionError("invalid regular expression")
        self._compiled = compiled(f"(?{found[2]}){found[1]}" if found[2] else found[1])

    def matches(self, text: str) -> bool:
        """Whether it matches anywhere in ``text``."""
        return self._compiled.search(text) is not None


Value = str | bool | None | Pattern


def check(expression: str) -> None:
    """Raise ExpressionError where GitLab refuses the file for this expression."""
    evaluate(expression, {})


def evaluate(expression: str, variables: Mapping[str, str]) -> bool:
    """Whether ``expression`` holds for ``variables``. Raises ExpressionError."""
    parser = _Parser(_tokens(expression), variables)
    value = parser.either(0)
    if parser.rest:
        raise ExpressionError("invalid expression syntax")
    return value.strip() != "" if isinstance(value, str) else _true(value)


def _tokens(expression: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at, text = 0, expression.strip()
    if len(text) > _MAX_CHARS:
        raise ExpressionError("expression is too long")
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(tokens) == _MAX_TOKENS:
            raise ExpressionError("invalid expression syntax")
        kind = match.lastgroup or ""
        tokens.append((kind, match[kind]))
        at = match.end()
    return tokens


class _Parser:
    """Both sides are always evaluated: that is how a wrong pattern anywhere is found."""

    def __init__(self, tokens: list[tuple[str, str]], variables: Mapping[str, str]) -> None:
        self.rest = tokens
        self._variables = variables

    def either(self, depth: int) -> Value:
        value = self.both(depth)
        while self._take("||"):
            other = self.both(depth)
            value = value if _true(value) else other
        return value

    def both(self, depth: int) -> Value:
        value = self.comparison(depth)
        while self._take("&&"):
            other = self.comparison(depth)
            value = other if _true(value) else value
        return value

    def comparison(self, depth: int) -> Value:
        value = self.atom(depth)
        while self.rest and self.rest[0] in (("op", "=="), ("op", "!="), ("op", "=~"), ("op", "!~")):
            operator = self.rest.pop(0)[1]
            other = self.atom(depth)
            if operator in ("==", "!="):
                value = (value == other) is (operator == "==")
            else:
                value = _matches(value, other) is (operator == "=~")
        return value

    def atom(self, depth: int) -> Value:
        if self._take("("):
            value = self.either(depth + 1) if depth < _MAX_DEPTH else None
            if not self._take(")"):
                raise ExpressionError("invalid expression syntax")
            return value
        if not self.rest or self.rest[0][0] == "op":
            raise ExpressionError("invalid expression syntax")
        kind, text = self.rest.pop(0)
        if kind == "var":
            return self._variables.get(text)
        if kind == "null":
            return None
        return Pattern(text) if kind == "re" else text

    def _take(self, operator: str) -> bool:
        if self.rest and self.rest[0] == ("op", operator):
            self.rest.pop(0)
            return True
        return False


def _matches(left: Value, right: Value) -> bool:
    if right is None or isinstance(right, bool):
        return False
    text = left if isinstance(left, str) else ""
    if isinstance(right, Pattern):
        return right.matches(text)
    try:
        return Pattern(right).matches(text)  # a variable may hold a pattern: $REF =~ $PATTERN
    except ExpressionError:
        return text in right  # GitLab then looks for the left side in the right one


def _true(value: Value) -> bool:
    """As in Ruby an empty string is true between ``&&`` and ``||``; only as the whole result it is false."""
    return value is not None and value is not False
