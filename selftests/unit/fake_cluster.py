"""A small API server: serves the objects that a test gives it, and writes down every request."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]

KINDS = {
    "v1": "Node Namespace Pod Service Endpoints Secret ConfigMap Event ServiceAccount "
    "ResourceQuota LimitRange",
    "apps/v1": "Deployment ReplicaSet",
    "batch/v1": "Job",
    "apiextensions.k8s.io/v1": "CustomResourceDefinition",
    "apiregistration.k8s.io/v1": "APIService",
    "admissionregistration.k8s.io/v1": "MutatingWebhookConfiguration ValidatingWebhookConfiguration",
    "coordination.k8s.io/v1": "Lease",
    "cert-manager.io/v1": "Certificate Issuer",
    "operators.coreos.com/v1": "OperatorGroup",
    "operators.coreos.com/v1alpha1": "CatalogSource ClusterServiceVersion InstallPlan Subscription",
    "packages.operators.coreos.com/v1": "PackageManifest",
    "apps.gitlab.com/v1beta2": "Runner",
}
CLUSTER_WIDE = ("Node", "Namespace", "CustomResourceDefinition", "APIService")


def plural(kind: str) -> str:
    return kind.lower() if kind == "Endpoints" else f"{kind.lower()}s"


class FakeCluster:
    """``forbidden``: what (verb, plural) nobody may do; ``absent``: groups that are not served."""

    def __init__(self, *objects: Object, version: str = "v1.28.15") -> None:
        self.objects = list(objects)
        self.version = version
        self.forbidden: set[tuple[str, str]] = set()
        self.absent: set[str] = set()
        self.refuse_dry_run: Callable[[Object], str] = lambda manifest: ""
        self.asked: list[str] = []
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                cluster.asked.append(f"{self.command} {self.path}")
                code, content = cluster.answer(self.command, self.path, self.headers.get("Accept", ""), body)
                data = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, directory: Path) -> Path:
        path = directory / "kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "theirs",
            "contexts": [{"name": "theirs", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": "somebody-s-own-token"}}],
        }
        path.write_text(json.dumps(document))
        return path

    # -- answers ----------------------------------------------------------------------------------

    def answer(self, method: str, url: str, accept: str, body: bytes) -> tuple[int, Any]:
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        if path == "/version":
            return 200, {"gitVersion": self.version}
        if (found := self._discovery(path)) is not None:
            return found
        match = re.fullmatch(
            r"/(?:api|apis)/(?P<gv>v1|[^/]+/[^/]+)(?:/namespaces/(?P<ns>[^/]+))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?"
            r"(?:/(?P<sub>[a-z]+))?",
            path,
        )
        if match is None:
            return _status(404, "NotFound", "the server could not find the requested resource")
        verb = {"GET": "get" if match["name"] else "list", "PATCH": "patch", "POST": "create"}.get(
            method, "delete"
        )
        if (verb, match["plural"]) in self.forbidden:
            named = f'"{match["name"]}" ' if match["name"] else ""
            return _status(
                403, "Forbidden", f'{match["plural"]} {named}is forbidden: User "u" cannot {verb} it'
            )
        if method == "PATCH" and query.get("dryRun") == ["All"]:
            manifest = json.loads(body)
            if why := self.refuse_dry_run(manifest):
                return _status(500, "InternalError", why)
            return 200, manifest
        if method != "GET":
            raise AssertionError(f"somebody changes something: {method} {url}")
        return self._read(match, accept, query)

    def _discovery(self, path: str) -> tuple[int, Any] | None:
        parts = path.strip("/").split("/")
        version = "/".join(parts[1:])
        if parts[0] in ("api", "apis") and version in KINDS and version.partition("/")[0] not in self.absent:
            kinds = KINDS[version].split()
            return 200, {
                "resources": [{"name": plural(it), "kind": it, "namespaced": _namespaced(it)} for it in kinds]
            }
        if parts[0] == "apis" and len(parts) == 2:
            served = [it for it in KINDS if it.startswith(f"{parts[1]}/") and parts[1] not in self.absent]
            if served:
                return 200, {"preferredVersion": {"groupVersion": served[-1]}}
        if parts[0] == "apis" and len(parts) <= 3:
            return _status(404, "NotFound", "the server could not find the requested resource")
        return None

    def _read(self, match: re.Match[str], accept: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        gv, space, name = match["gv"], match["ns"], match["name"]
        if match["plural"] == "namespaces" and space and not name:
            space, name = None, space
        found = [
            it
            for it in self.objects
            if it["apiVersion"] == gv
            and plural(it["kind"]) == match["plural"]
            and (space is None or it["metadata"].get("namespace") == space)
            and (name is None or it["metadata"]["name"] == name)
            and _selected(it, query.get("labelSelector", [""])[0])
        ]
        if match["sub"] == "log":
            return 200, "".join(it.get("log", "") for it in found)
        if name is None:
            return 200, {"items": found, "metadata": {"resourceVersion": "1"}}
        if not found:
            return _status(404, "NotFound", f'{match["plural"]} "{name}" not found')
        return 200, _as(found[0], accept)


def _namespaced(kind: str) -> bool:
    return kind not in CLUSTER_WIDE and not kind.endswith("Configuration")


def _selected(it: Object, selector: str) -> bool:
    labels = it["metadata"].get("labels") or {}
    wanted = [part.partition("=")[::2] for part in selector.split(",") if part]
    return all(labels.get(key) == value for key, value in wanted)


def _as(it: Object, accept: str) -> Object:
    if "as=PartialObjectMetadata" in accept:
        return {"kind": "PartialObjectMetadata", "metadata": it["metadata"]}
    if "as=Table" in accept:
        names = ("Name", "Type", "Data", "Age")
        cells = [it["metadata"]["name"], it.get("type", "Opaque"), len(it.get("data", ())), "1d"]
        return {
            "kind": "Table",
            "columnDefinitions": [{"name": n} for n in names],
            "rows": [{"cells": cells}],
        }
    return it


def _status(code: int, reason: str, message: str) -> tuple[int, Object]:
    return code, {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
