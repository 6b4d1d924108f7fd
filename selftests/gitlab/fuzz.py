"""Mutated requests and pipeline files, from a seed that is printed: the same seed gives the same ones."""

from __future__ import annotations

import json
import random
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ANSWER_S = 20.0
STRINGS = (
    "",
    "\0",
    "\ud800",
    "a" * 5000,
    "../../etc/passwd",
    "%00",
    "'; DROP TABLE users; --",
    "null",
    "-1",
    "9" * 5000,
    "ünïcødé",
    "\r\nX-Injected: 1",
    "{{7*7}}",
    "$CI_JOB_TOKEN",
    "[]",
    "a\nb",
    "\u202e",
    "@",
    "HEAD",
    "/^(a+)+$/",
    "1e400",
    "refs/heads/main",
    "<script>",
    "\\",
    "~",
    "%",
    "%ff%fe",
    "..",
    ".git",
)
VALUES: tuple[Any, ...] = (
    *STRINGS,
    None,
    True,
    False,
    0,
    -1,
    2**31,
    2**63,
    10**30,
    1.5,
    -0.0,
    [],
    {},
    [[]],
    [None],
    {"a": {"b": []}},
    ["x"] * 300,
    {"": ""},
)
SCALARS = ("5", "1.5", "true", "[]", "{}", "&a x", "*a")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "get", "X")
KINDS = (
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "text/plain",
    "multipart/form-data",
    "application/json; charset=utf-16",
    "",
    "application/x-git-upload-pack-request",
)


@dataclass(frozen=True)
class Sent:
    """A request as it goes over the wire."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def wire(self) -> bytes:
        head = [f"{self.method} {self.path} HTTP/1.1", "Host: x", "Connection: close"]
        head += [f"{key}: {value}" for key, value in self.headers]
        head.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(head).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + self.body


def mutated(choose: random.Random, method: str, path: str, body: Any, headers: dict[str, str]) -> Sent:
    """One request with up to three changes in method, path, query, headers and body."""
    kind = "application/json"
    raw: bytes | None = None
    for _ in range(choose.choice((0, 1, 1, 2, 3))):
        what = choose.choice(
            ("method", "path", "query", "header", "kind", "value", "value", "value", "bytes")
        )
        if what == "method":
            method = choose.choice(METHODS)
        elif what == "path":
            parts = path.split("/")
            parts[choose.randrange(len(parts))] = quoted(choose.choice(STRINGS), choose)
            path = "/".join(parts) if path.startswith("/") else path
        elif what == "query":
            key = choose.choice(
                ("page", "per_page", "ref", "scope", "status", "sort", "private_token", "service")
            )
            path += f"{'&' if '?' in path else '?'}{key}={quoted(choose.choice(STRINGS), choose)}"
        elif what == "header":
            key = choose.choice(
                (
                    "Content-Range",
                    "Accept",
                    "JOB-TOKEN",
                    "Authorization",
                    "Content-Encoding",
                    "Git-Protocol",
                    "Transfer-Encoding",
                    "Expect",
                    "Range",
                )
            )
            if key != "Transfer-Encoding":
                value = choose.choice(
                    ("x", "0-", "Basic !", "Bearer x", "gzip", "-1-5", "9" * 30, "ÿ", "version=2")
                )
                headers = {**headers, key: value}
        elif what == "kind":
            kind = choose.choice(KINDS)
        elif what == "value":
            body = replaced(choose, body)
        else:
            raw = flipped(choose, json.dumps(body).encode())
    encoded = json.dumps(body, ensure_ascii=choose.random() < 0.8).encode("utf-8", "surrogatepass")
    if not path.startswith("/"):
        path = "/" + path
    return Sent(method, path, (*headers.items(), ("Content-Type", kind)), raw if raw is not None else encoded)


def quoted(text: str, choose: random.Random) -> str:
    """Percent-encoded, one way or another; what can't stand in a request line always is."""
    data = text.encode("utf-8", "surrogatepass")
    safe = b"abcdefghijklmnopqrstuvwxyz0123456789-_.~/" if choose.random() < 0.5 else b""
    return "".join(chr(byte) if byte in safe else f"%{byte:02x}" for byte in data)


def replaced(choose: random.Random, value: Any, depth: int = 0) -> Any:
    """``value`` with something in it exchanged, added or left out."""
    if depth > 3 or choose.random() < 0.25:
        return choose.choice(VALUES)
    if isinstance(value, dict) and value:
        key = choose.choice(list(value))
        changed = dict(value)
        if choose.random() < 0.2:
            del changed[key]
        elif choose.random() < 0.1:
            changed[choose.choice(STRINGS)] = choose.choice(VALUES)
        else:
            changed[key] = replaced(choose, value[key], depth + 1)
        return changed
    if isinstance(value, list) and value:
        changed = list(value)
        changed[choose.randrange(len(value))] = replaced(choose, choose.choice(value), depth + 1)
        return changed
    return choose.choice(VALUES)


def flipped(choose: random.Random, data: bytes) -> bytes:
    """Some bytes changed, cut out or doubled."""
    changed = bytearray(data)
    for _ in range(choose.randint(1, 5)):
        at = choose.randrange(len(changed) + 1)
        change = choose.choice(("set", "cut", "double", "insert"))
        if change == "set" and at < len(changed):
            changed[at] = choose.randrange(256)
        elif change == "cut":
            del changed[at : at + choose.randint(1, 20)]
        elif change == "double":
            changed[at:at] = changed[at : at + 50] * choose.randint(1, 20)
        else:
            changed[at:at] = choose.choice(
                (b"[" * 2000, b"\xff\xfe", b"\\ud800", b'"', b"\0", b"{}", b"," * 50)
            )
    return bytes(changed)


LINES = (
    "  script: [echo]",
    "  <<: *x",
    "x: &x [*x]",
    "a: &a [*b, *b]",
    "  when: delayed",
    "  rules:",
    "    - if: $A =~ /^(a+)+$/",
    "    - if: '((((((((((' ",
    "  variables: {A: $A$B, B: $A}",
    "  timeout: 9e99 weeks",
    "stages: [a, a, .pre, 5, [x]]",
    "  services: [{name: x, alias: [y]}]",
    "? {a: b}",
    "!!python/name:os.system x",
    "\tx: y",
    "---",
    "...",
    "  tags: [$TAG, 5, null]",
    "  allow_failure: {exit_codes: [a, 99999999999999999999]}",
    "  image: {name: [], entrypoint: {}}",
    "  only: [/(/, 5]",
    "2026-01-01: {script: [x]}",
    "~: {script: [x]}",
    "  script: " + "[" * 60 + "x" + "]" * 60,
    "  before_script: !reference [.a, script]",
    "on: {script: [yes]}",
    "variables: {A: " + "$B" * 500 + ", B: " + "x" * 2000 + "}",
    "x" * 300 + ": {script: [x]}",
    "\x01",
    "\ufeff",
    "default: {cache: {}, image: 5}",
    "  extends: [.x, .y]",
    "  parallel: 1000000",
    "  retry: {max: -1}",
)


def mutated_file(choose: random.Random, text: str, others: list[str]) -> bytes:
    """A pipeline file with lines dropped, doubled, moved, put in from elsewhere, or bytes changed."""
    lines = text.splitlines()
    for _ in range(choose.choice((1, 1, 2, 3, 6))):
        at = choose.randrange(len(lines) + 1)
        change = choose.choice(("drop", "double", "move", "insert", "other", "indent", "value"))
        if change == "insert" or not lines:
            lines.insert(at, choose.choice(LINES))
        elif change == "other":
            lines[at:at] = choose.choice(others).splitlines()
        else:
            at %= len(lines)
            if change == "drop":
                del lines[at]
            elif change == "double":
                lines[at:at] = [lines[at]] * choose.choice((1, 2, 50))
            elif change == "move":
                lines.insert(choose.randrange(len(lines)), lines.pop(at))
            elif change == "indent":
                lines[at] = " " * choose.randint(0, 5) + lines[at].lstrip()
            else:
                key, colon, _ = lines[at].partition(":")
                lines[at] = f"{key}{colon} {choose.choice((*STRINGS, *SCALARS))}"
    data = "\n".join(lines).encode("utf-8", "surrogatepass")[:200_000]
    return flipped(choose, data) if choose.random() < 0.2 else data


class Watched:
    """Sends requests one after the other, and measures what each costs the server."""

    def __init__(self, url: str, pid: int) -> None:
        host, _, port = url.rpartition("//")[2].partition(":")
        self._address, self._pid = (host, int(port)), pid
        self.slowest = ("", 0.0)
        self.statuses: dict[int, int] = {}

    def send(self, wire: bytes) -> tuple[int, bytes]:
        """Status (0 where the connection was closed without an answer) and the whole answer."""
        before, begin = self.cpu_s(), time.monotonic()
        received = bytearray()
        with socket.create_connection(self._address, timeout=_ANSWER_S) as connection:
            try:
                connection.sendall(wire)
                while piece := connection.recv(65536):
                    received += piece
            except (ConnectionError, BrokenPipeError):
                pass
        spent = self.cpu_s() - before
        assert spent <= 1.0, f"{spent:.1f} s of processor time for {wire[:300]!r}"
        assert time.monotonic() - begin < _ANSWER_S
        if spent > self.slowest[1]:
            self.slowest = (repr(wire[:120]), spent)
        status = int(received.split(b" ", 2)[1]) if received.startswith(b"HTTP/1.1 ") else 0
        self.statuses[status] = self.statuses.get(status, 0) + 1
        assert status < 500, f"{status} for {wire[:2000]!r}"
        return status, bytes(received)

    def cpu_s(self) -> float:
        """Processor time of the server so far, in steps of 10 ms."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100
