"""The web servers of the pretend internet: release sites, registries, token services, content networks.

Of the real ones: GitHub answers a release's asset with 302 to a signed URL that is good for GET alone;
Docker Hub, GitLab and quay.io redirect blobs to a content network that refuses the registry's token
(distribution's documentation, "HTTP API V2" and "Token authentication"; Docker's "Docker Hub pull usage");
operatorhub.io answers an unknown page with 200 and a web page.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from harness.artifacts.bundle import Bundle
from harness.artifacts.storage import Storage
from selftests.internet import names, releases
from selftests.internet.behaviour import Behaviour
from selftests.internet.images import Images

_REQUEST = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)\Z")
_SCOPE = re.compile(r"repository:(?P<name>[^:]+):(?P<actions>.*)")
_CHUNK_BYTES = 1 << 20
_ASSET = "/github-production-release-asset/"
_PAGE = b"<!DOCTYPE html>\n<html><body>Nothing to see here.</body></html>\n"
LIMIT = "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"


class Sites:
    """All of them, behind one address: the request's host says which."""

    def __init__(self, behaviour: Behaviour) -> None:
        bundle, directory = Bundle.read(Path(behaviour.bundle)), Path(behaviour.directory)
        self.behaviour = behaviour
        self.images = Images(Storage(bundle.storage))
        self.github = releases.github(bundle, directory)
        self.rancher = releases.china(bundle, directory)
        self.subscription = bundle.file("gitlab-runner-operator.yaml")
        self.registries = {it.host: it for it in names.REGISTRIES}
        self.networks = {it.cdn for it in names.REGISTRIES if it.cdn}
        self.key = secrets.token_bytes(32)
        self.tokens: dict[str, tuple[str, bool]] = {}
        self.slips = dict(behaviour.slips)
        self._passing = set(behaviour.passing)
        self._lock = threading.Lock()

    def serve(self, chain: Path) -> None:
        """Listen with TLS; returns at once."""
        sites = self

        class Handler(Visit):
            pass

        Handler.sites = sites
        server = ThreadingHTTPServer((names.SITES, 443), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        # the handshake in the visitor's thread, not in the one that accepts
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def first_time(self, host: str) -> bool:
        """Whether this is the answer that is to be a passing 503."""
        with self._lock:
            there = host in self._passing
            self._passing.discard(host)
        return there

    def asset(self, path: str) -> Path | None:
        """The file behind a signed URL of GitHub's."""
        return next((it for it in self.github.values() if path == _ASSET + it.name), None)

    def note(self, **what: Any) -> None:
        """Write into the log."""
        with self._lock, self.behaviour.log.open("a") as log:
            log.write(json.dumps(what) + "\n")

    def signed(self, path: str) -> str:
        """A path with its signature: for GET, as presigned URLs are."""
        return f"{path}?X-Amz-Expires=300&X-Amz-Signature={self._signature(path)}"

    def is_signed(self, path: str, query: Mapping[str, list[str]]) -> bool:
        """Whether the signature is of that path."""
        return hmac.compare_digest(query.get("X-Amz-Signature", [""])[0], self._signature(path))

    def _signature(self, path: str) -> str:
        return hmac.new(self.key, f"GET {path}".encode(), hashlib.sha256).hexdigest()


class Visit(BaseHTTPRequestHandler):
    """One connection."""

    sites: Sites
    protocol_version = "HTTP/1.1"
    timeout = 120

    def do_GET(self) -> None:
        self.close_connection = False
        host = self.headers.get("Host", "").partition(":")[0]
        parts = urlsplit(self.path)
        slip = next((slip for what, slip in self.sites.slips.items() if what in f"{host}{parts.path}"), "")
        if slip and SLIPS[slip](self, parts.path):
            return
        if host != names.GITHUB_FILES and self.sites.first_time(host):
            self.answer(503, b"upstream connect error", {"Retry-After": "1"})
        elif (
            host in self.sites.registries
            and parts.path.startswith("/v2/")
            and not self._is_realm(host, parts.path)
        ):
            self._registry(self.sites.registries[host], parts.path)
        else:
            self._site(host, parts.path, parse_qs(parts.query))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """containerd asks for a token with POST first when it has a login; where it is not known: 404."""
        length = int(self.headers.get("Content-Length", "0"))
        form = parse_qs(self.rfile.read(length).decode())
        host = self.headers.get("Host", "")
        if host != "auth.docker.io":
            self.answer(404, b"{}")
            return
        login = f"{form.get('username', [''])[0]}:{form.get('password', [''])[0]}"
        self._token(form.get("scope", []), login)

    def log_message(self, *args: object) -> None:
        pass

    # -- sites ----------------------------------------------------------------------------------------

    def _site(self, host: str, path: str, query: Mapping[str, list[str]]) -> None:
        sites = self.sites
        if host == "github.com" and path == "/k3s-io/k3s/releases":
            self.answer(200, _PAGE)
        elif host == "github.com" and (file := releases.found(sites.github, path)):
            self.redirect(302, f"https://{names.GITHUB_FILES}{sites.signed(_ASSET + file.name)}")
        elif host == names.GITHUB_FILES:
            self._signed_file(sites.asset(path), path, query)
        elif (host == names.CHINA_GITHUB and (file := releases.found(sites.github, path))) or (
            host == "rancher-mirror.rancher.cn" and (file := releases.found(sites.rancher, path))
        ):
            self.send_file(file)
        elif host in ("operatorhub.io", names.CHINA_OPERATORHUB):
            if path == releases.SUBSCRIPTION:
                self.send_file(sites.subscription)
            else:
                self.answer(200, _PAGE, {"Content-Type": "text/html"})
        elif host in sites.networks:
            self._network(host, path, query)
        elif self._is_realm(host, path):
            basic = self.headers.get("Authorization", "").removeprefix("Basic ")
            self._token(query.get("scope", []), base64.b64decode(basic).decode() if basic else "")
        else:
            self.answer(404, b"Not Found")

    def _signed_file(self, file: Path | None, path: str, query: Mapping[str, list[str]]) -> None:
        if file is None or self.command != "GET" or not self.sites.is_signed(path, query):
            self.answer(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        else:
            self.send_file(file)

    def _network(self, host: str, path: str, query: Mapping[str, list[str]]) -> None:
        """A registry's content network: signed URLs, and mostly no second kind of authorization beside it.

        Go's client sends the registry's token along to a subdomain, as quay.io's is, which does not mind.
        """
        if self.headers.get("Authorization") and not host.endswith("quay.io"):
            self.answer(400, b"<Error><Code>InvalidArgument</Code></Error>")
        else:
            self._signed_file(self.sites.images.blob(path.rpartition("/")[2]), path, query)

    # -- registries -----------------------------------------------------------------------------------

    def _registry(self, registry: names.Registry, path: str) -> None:
        if registry.elsewhere:
            self.redirect(307, f"https://{registry.elsewhere}{path}")
            return
        request = _REQUEST.match(path)
        name = request["name"] if request else ""
        user = self._user(registry, name)
        if user is None:
            scope = f',scope="repository:{name}:pull"' if name else ""
            challenge = f'Bearer realm="{registry.realm}",service="{registry.service}"{scope}'
            self.refuse(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})
        elif request is None:
            self.answer(200, b"{}")
        elif name.startswith(registry.lacks):
            self.refuse(403, "DENIED", f"{name} is not in the allowlist")
        elif self._gone(registry, name):
            self.refuse(404, "MANIFEST_UNKNOWN", f"manifest for {name} is unknown")
        elif request["kind"] == "manifests":
            self._manifest(registry, name, request["reference"], user)
        else:
            self._blob(registry, path, request["reference"])

    def _gone(self, registry: names.Registry, name: str) -> bool:
        gone = registry.images == "gcr.io" and name in names.GONE
        return gone or f"{registry.images}/{name}" in self.sites.behaviour.lacks

    def _manifest(self, registry: names.Registry, name: str, reference: str, user: bool) -> None:
        hub = registry.host == names.DOCKER_HUB
        if hub and self.command == "GET" and self.sites.behaviour.hub_limit and not user:
            self.refuse(429, "TOOMANYREQUESTS", LIMIT)
            return
        found = self.sites.images.manifest(f"{registry.images}/{name}", reference)
        if found is None:
            self.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")
            return
        content, media_type = found
        limit = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"} if hub else {}
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.answer(200, content, {"Content-Type": media_type, "Docker-Content-Digest": digest, **limit})

    def _blob(self, registry: names.Registry, path: str, digest: str) -> None:
        file = self.sites.images.blob(digest)
        if file is None:
            self.refuse(404, "BLOB_UNKNOWN", "blob unknown to registry")
        elif registry.cdn and self.command == "GET":
            self.redirect(307, f"https://{registry.cdn}{self.sites.signed('/blobs/' + digest)}")
        else:
            self.send_file(file)

    # -- tokens ---------------------------------------------------------------------------------------

    def _is_realm(self, host: str, path: str) -> bool:
        return any(it.realm == f"https://{host}{path}" for it in names.REGISTRIES)

    def _token(self, scopes: list[str], login: str) -> None:
        if login and login != self.sites.behaviour.hub_login:
            self.refuse(401, "UNAUTHORIZED", "incorrect username or password")
            return
        found = [match["name"] for scope in scopes if (match := _SCOPE.match(scope))]
        token = secrets.token_urlsafe(24)
        self.sites.tokens[token] = (found[0] if found else "", bool(login))
        body = {"token": token, "access_token": token, "expires_in": 300}
        self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _user(self, registry: names.Registry, name: str) -> bool | None:
        """None without a token for that repository; else whether somebody has logged in."""
        if not registry.realm:
            return False
        found = self.sites.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        return found[1] if found and name and found[0] == name else None

    # -- answers --------------------------------------------------------------------------------------

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
        """A whole answer; of HEAD its head."""
        self._noted(status)
        self.send_response(status)
        for name, value in {
            "Content-Type": "text/plain",
            **headers,
            "Content-Length": str(len(body)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def redirect(self, status: int, target: str) -> None:
        """Somewhere else."""
        self.answer(status, b"", {"Location": target})

    def refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] = {}) -> None:
        """As a registry refuses."""
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.answer(status, body, {"Content-Type": "application/json", **headers})

    def send_file(self, path: Path, *, cut: int | None = None) -> None:
        """A file, from where the client asks for; ``cut`` breaks off after so many bytes."""
        size, etag = path.stat().st_size, f'"{path.stat().st_ino:x}"'
        start = 0
        match = re.match(r"bytes=(\d+)-\Z", self.headers.get("Range", ""))
        if match and self.headers.get("If-Range", etag) == etag:
            start = min(int(match[1]), size)
        status = 206 if start else 200
        self._noted(status)
        self.send_response(status)
        headers = {"Content-Type": "application/octet-stream", "ETag": etag, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        for name, value in {**headers, "Content-Length": str(size - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        left = size - start if cut is None else cut
        with path.open("rb") as file:
            file.seek(start)
            while left > 0 and (piece := file.read(min(_CHUNK_BYTES, left))):
                self.wfile.write(piece)
                left -= len(piece)
        if cut is not None:
            self.close_connection = True

    def _noted(self, status: int) -> None:
        self.sites.note(
            host=self.headers.get("Host", ""),
            method=self.command,
            path=urlsplit(self.path).path,
            status=status,
            agent=self.headers.get("User-Agent", "").partition("/")[0],
        )


def _missing(visit: Visit, path: str) -> bool:
    visit.answer(404, b"Not Found")
    return True


def _circle(visit: Visit, path: str) -> bool:
    visit.redirect(302, visit.path)
    return True


def _web_page(visit: Visit, path: str) -> bool:
    visit.answer(200, _PAGE, {"Content-Type": "text/html"})
    return True


def _half(visit: Visit, path: str) -> bool:
    """A transfer of a file breaks off half-way, and none can be resumed."""
    file = visit.sites.asset(path) or visit.sites.images.blob(path.rpartition("/")[2])
    if file is None or visit.command != "GET":
        return False
    visit.send_file(file, cut=0 if visit.headers.get("Range") else file.stat().st_size // 2)
    return True


SLIPS: Mapping[str, Callable[[Visit, str], bool]] = {
    "missing": _missing,
    "circle": _circle,
    "web page": _web_page,
    "half": _half,
}
"""What a site can do wrong."""
