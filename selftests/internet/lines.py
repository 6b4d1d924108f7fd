"""The name server and the proxy of the pretend internet."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from selftests.internet import names
from selftests.internet.behaviour import Behaviour

Note = Callable[..., None]
_A, _IN = 1, 1
_NO_ERROR, _NO_SUCH_NAME = 0, 3
_HEAD_BYTES = 16384


def serve_names(behaviour: Behaviour) -> None:
    """Answer for every name of the pretend internet; behind a proxy for none. Returns at once."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((names.OUTSIDE, 53))

    def work() -> None:
        while True:
            query, sender = server.recvfrom(4096)
            with suppress(IndexError, struct.error, UnicodeDecodeError):
                server.sendto(_answer(query, behaviour), sender)

    threading.Thread(target=work, daemon=True).start()


def _answer(query: bytes, behaviour: Behaviour) -> bytes:
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += 1 + length
    question = query[12 : at + 5]
    kind = struct.unpack("!H", query[at + 1 : at + 3])[0]
    name = ".".join(labels).lower()
    known = name in names.ALL and not behaviour.proxy
    records = b""
    if known and kind == _A:
        address = names.SILENT if name in behaviour.blocked else names.SITES
        records = b"\xc0\x0c" + struct.pack("!HHIH", _A, _IN, 60, 4) + socket.inet_aton(address)
    flags = 0x8180 | (_NO_ERROR if known else _NO_SUCH_NAME)
    return query[:2] + struct.pack("!HHHHH", flags, 1, 1 if records else 0, 0, 0) + question + records


def serve_proxy(behaviour: Behaviour, note: Note) -> None:
    """A proxy that knows CONNECT, as a company's that passes TLS through. Returns at once."""
    server = socket.create_server((names.OUTSIDE, names.PROXY_PORT), backlog=128)

    def work() -> None:
        while True:
            visitor, _ = server.accept()
            threading.Thread(target=_visit, args=(visitor, behaviour, note), daemon=True).start()

    threading.Thread(target=work, daemon=True).start()


def _visit(visitor: socket.socket, behaviour: Behaviour, note: Note) -> None:
    with visitor:
        head = b""
        while b"\r\n\r\n" not in head:
            if len(head) > _HEAD_BYTES or not (piece := visitor.recv(4096)):
                return
            head += piece
        method, target, *_ = head.decode("latin-1").split(" ")
        host = target.rpartition(":")[0]
        status = _status(method, host, behaviour)
        note(host=host, method=method, path="proxy", status=status, agent="")
        if status != 200:
            visitor.sendall(f"HTTP/1.1 {status} Refused\r\nContent-Length: 0\r\n\r\n".encode())
            return
        with socket.create_connection((names.SITES, 443)) as site:
            visitor.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pour, args=(site, visitor), daemon=True)
            back.start()
            _pour(visitor, site)
            back.join()


def _status(method: str, host: str, behaviour: Behaviour) -> int:
    if behaviour.proxy_refuses:
        return behaviour.proxy_refuses
    return 200 if method == "CONNECT" and host in names.ALL else 403


def _pour(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
