"""The Kubernetes API as the executor uses it: a few REST calls; exec and attach over SPDY/3.1, as client-go.

Exec by WebSocket would be simpler, but is a GET: it needs other RBAC verbs than the real runner needs.
"""

import base64
import contextlib
import http.client
import json
import os
import socket
import ssl
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from .network import connection_error

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S = 30
_FIN = 0x01
_SYN_STREAM, _RST_STREAM, _PING, _GOAWAY = 1, 3, 6, 7
_PROTOCOL = "v4.channel.k8s.io"


class KubeError(Exception):
    """An API call failed; the message is the API server's own. `code` is 0 when there was no answer."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Kube:
    """Credentials of one cluster, and calls to it."""

    def __init__(self, server: str, context: ssl.SSLContext, token: Callable[[], str]) -> None:
        self._server, self._context, self._token = server, context, token

    @classmethod
    def from_environment(cls, config: Mapping[str, Any]) -> "Kube":
        """From config.toml's host, else the pod's service account, else KUBECONFIG."""
        if config.get("host"):
            context = ssl.create_default_context(cafile=config.get("ca_file") or None)
            if config.get("cert_file"):
                context.load_cert_chain(config["cert_file"], config.get("key_file"))
            return cls(config["host"], context, lambda: config.get("bearer_token", ""))
        host = os.environ.get("KUBERNETES_SERVICE_HOST")
        if host and (_SERVICE_ACCOUNT / "token").exists():
            context = ssl.create_default_context(cafile=str(_SERVICE_ACCOUNT / "ca.crt"))
            name = f"[{host}]" if ":" in host else host
            server = f"https://{name}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}"
            # Read each time: the kubelet renews the token.
            return cls(server, context, lambda: (_SERVICE_ACCOUNT / "token").read_text().strip())
        return cls._from_kubeconfig(Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube/config"))

    @classmethod
    def _from_kubeconfig(cls, path: Path) -> "Kube":
        import yaml  # only needed beside a cluster; the image does without

        if not path.exists():
            raise KubeError("invalid configuration: no configuration has been provided")
        config = yaml.safe_load(path.read_text())

        def named(kind: str, name: str) -> dict[str, Any]:
            return dict(next(entry[kind] for entry in config[kind + "s"] if entry["name"] == name))

        chosen = named("context", config["current-context"])
        cluster, user = named("cluster", chosen["cluster"]), named("user", chosen["user"])
        ca = base64.b64decode(cluster.get("certificate-authority-data", "")).decode() or None
        context = ssl.create_default_context(cafile=cluster.get("certificate-authority"), cadata=ca)
        if "client-certificate-data" in user:
            with tempfile.NamedTemporaryFile() as pair:
                pair.write(base64.b64decode(user["client-certificate-data"]) + b"\n")
                pair.write(base64.b64decode(user["client-key-data"]))
                pair.flush()
                context.load_cert_chain(pair.name)
        elif "client-certificate" in user:
            context.load_cert_chain(user["client-certificate"], user["client-key"])
        return cls(cluster["server"], context, lambda: str(user.get("token", "")))

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One REST call below /api/v1; raises KubeError."""
        url = f"{self._server}/api/v1/{path}"
        headers = self._headers() | {"Content-Type": "application/json"}
        connection = self._connect()
        try:
            with contextlib.closing(connection):
                connection.request(
                    method, urlsplit(url).path, json.dumps(body) if body is not None else None, headers
                )
                response = connection.getresponse()
                data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise KubeError(f'{method.capitalize()} "{url}": {connection_error(error, url)}') from error
        if response.status >= 400:
            raise KubeError(_message(data, data.decode(errors="replace")), response.status)
        return json.loads(data)

    def stream(
        self,
        verb: str,
        pod: Mapping[str, Any],
        query: Sequence[tuple[str, str]],
        *,
        stdin: str | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> "Stream":
        """Open exec or attach (`verb`) in a pod; raises KubeError with the reason when it is refused."""
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/{verb}?{urlencode(query)}"
        headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": _PROTOCOL}
        connection = self._connect()
        try:
            connection.request("POST", path, None, self._headers() | headers | {"Content-Length": "0"})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            url = f"{self._server}{path}"
            raise KubeError(f"error dialing backend: {connection_error(error, url)}") from error
        if response.status != 101:
            data = response.read()
            connection.close()
            text = data.decode(errors="replace").strip()
            raise KubeError(_message(data, f"unable to upgrade connection: {text}"), response.status)
        assert connection.sock is not None
        wanted = dict(query)
        kinds = [kind for kind in ("stdin", "stdout", "stderr") if wanted.get(kind) == "true"]
        return Stream(connection.sock, response, ["error", *kinds], stdin, on_output)

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self._server)
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_S)
        return http.client.HTTPSConnection(parts.netloc, timeout=_TIMEOUT_S, context=self._context)

    def _headers(self) -> dict[str, str]:
        token = self._token()
        return {"User-Agent": "gitlab-runner"} | ({"Authorization": f"Bearer {token}"} if token else {})


def _message(data: bytes, otherwise: str) -> str:
    try:
        status = json.loads(data)
        return str(status["message"]) if status.get("kind") == "Status" else otherwise
    except (ValueError, KeyError, AttributeError):
        return otherwise


class Stream:
    """One exec or attach session: SPDY, with a stream for each of error, stdin, stdout and stderr."""

    def __init__(
        self,
        sock: socket.socket,
        response: http.client.HTTPResponse,
        kinds: Sequence[str],
        stdin: str | None,
        on_output: Callable[[bytes], None] | None,
    ) -> None:
        self._socket, self._response, self._on_output = sock, response, on_output
        self._input = response.fp
        self._socket.settimeout(None)
        # Header blocks are compressed without SPDY's dictionary (zlib's own header says so), and the server's
        # header blocks are never read: so the dictionary is not needed.
        self._deflate = zlib.compressobj()
        self._ids = {kind: 2 * number + 1 for number, kind in enumerate(kinds)}
        self._open = set(self._ids.values()) - {self._ids.get("stdin", -1)}
        self._status = b""
        for kind, number in self._ids.items():
            self._send(_control(_SYN_STREAM, 0, struct.pack(">IIH", number, 0, 0) + self._headers(kind)))
        if stdin is not None:
            self._send(_data(self._ids["stdin"], 0, stdin.encode()))
            self._send(_data(self._ids["stdin"], _FIN, b""))

    def _headers(self, kind: str) -> bytes:
        pairs = [(b"streamtype", kind.encode())]
        block = struct.pack(">I", len(pairs))
        for name, value in pairs:
            block += struct.pack(">I", len(name)) + name + struct.pack(">I", len(value)) + value
        return self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def wait(self) -> None:
        """Read until the session ends; raises KubeError when the command failed or the connection broke."""
        try:
            while self._open and self._frame():
                pass
        except (OSError, ValueError) as error:  # ValueError: closed by another thread
            raise KubeError(f"error reading from error stream: {error}") from error
        finally:
            self.close()
        status = json.loads(self._status) if self._status else {}
        if status.get("status") == "Failure":
            raise KubeError(str(status.get("message")))

    def close(self) -> None:
        """Drop the connection; a waiting thread returns."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _frame(self) -> bool:
        head = self._input.read(8)
        if len(head) < 8:
            return False
        first, second = struct.unpack(">II", head)
        flags, length = second >> 24, second & 0xFFFFFF
        body = self._input.read(length)
        if first & 0x80000000:
            kind = first & 0xFFFF
            if kind == _PING:
                self._send(head + body)
            elif kind == _RST_STREAM:
                self._open.discard(struct.unpack(">I", body[:4])[0])
            return kind != _GOAWAY
        if first == self._ids["error"]:
            self._status += body
        elif body and self._on_output:
            self._on_output(body)
        if flags & _FIN:
            self._open.discard(first)
        return True

    def _send(self, frame: bytes) -> None:
        self._socket.sendall(frame)


def _control(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack(">II", 0x80030000 | kind, flags << 24 | len(body)) + body


def _data(stream: int, flags: int, body: bytes) -> bytes:
    return struct.pack(">II", stream, flags << 24 | len(body)) + body
