"""packageserver: the aggregated API packages.operators.coreos.com/v1, PackageManifests made from catalogs."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import ssl
from datetime import UTC, datetime
from pathlib import Path

import grpc
from aiohttp import web

from olmlab.informer import Informer, Queue
from olmlab.kube import (
    CATALOG,
    CONFIG_MAP,
    SERVICE,
    ApiError,
    Kube,
    Obj,
    key_of,
    labels_of,
    name_of,
    namespace_of,
)
from olmlab.olm_operator import run_program
from olmlab.registry import PORT, Client, Message
from olmlab.release import HERE as RELEASE
from olmlab.release import Release

GROUP, VERSION = "packages.operators.coreos.com", "v1"
ROOT = f"/apis/{GROUP}/{VERSION}"
CERTIFICATES = Path("/apiserver.local.config/certificates")
ALLOWED_S = 10.0  # how long an authorization answer is remembered
DESCRIBED = (
    "description",
    "displayName",
    "icon",
    "installModes",
    "keywords",
    "links",
    "maintainers",
    "maturity",
    "minKubeVersion",
    "nativeAPIs",
    "provider",
    "version",
)

log = logging.getLogger("olm")


def human_age(stamp: str) -> str:
    """kubectl's short form of the time since `stamp`."""
    s = int((datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds())
    m, h, d = s // 60, s // 3600, s // 86400
    if s < 120:
        return f"{max(s, 0)}s"
    if m < 10:
        return f"{m}m{s % 60}s" if s % 60 else f"{m}m"
    if h < 3:
        return f"{m}m"
    if h < 8:
        return f"{h}h{m % 60}m" if m % 60 else f"{h}h"
    if h < 48:
        return f"{h}h"
    return f"{d}d{h % 24}h" if d < 8 and h % 24 else f"{d}d"


def _described(csv: Obj) -> Obj:
    """currentCSVDesc: what a channel says about its head."""
    spec = csv["spec"]
    made: Obj = {"annotations": csv["metadata"].get("annotations") or {}}
    made |= {k: spec[k] for k in DESCRIBED if spec.get(k)}
    for field in ("apiservicedefinitions", "customresourcedefinitions"):
        made[field] = spec.get(field) or {}
    if images := [i["image"] for i in spec.get("relatedImages") or ()]:
        made["relatedImages"] = images
    return made


def manifest(catalog: Obj, package: Message, heads: dict[str, Obj], entries: dict[str, list[Message]]) -> Obj:
    """The PackageManifest of one package; `heads`: the channels' head CSVs, `entries` head first."""
    default = heads.get(package["defaultChannelName"]) or next(iter(heads.values()))
    provider = default["spec"].get("provider") or {}
    supported = {k: v for k, v in labels_of(default).items() if k.startswith("operatorframework.io/")}
    if not any(k.startswith("operatorframework.io/arch.") for k in supported):
        supported["operatorframework.io/arch.amd64"] = "supported"
    if not any(k.startswith("operatorframework.io/os.") for k in supported):
        supported["operatorframework.io/os.linux"] = "supported"
    labels = {"catalog": name_of(catalog), "catalog-namespace": namespace_of(catalog)} | supported
    labels |= {"provider": provider.get("name", ""), "provider-url": provider.get("url", "")}
    channels = [
        {
            "name": channel["name"],
            "currentCSV": channel["csvName"],
            "currentCSVDesc": _described(heads[channel["name"]]),
        }
        | _listed(entries[channel["name"]])
        for channel in package["channels"]
    ]
    meta = {"name": package["name"], "namespace": namespace_of(catalog), "labels": labels}
    meta["creationTimestamp"] = catalog["metadata"]["creationTimestamp"]
    status = {
        "catalogSource": name_of(catalog),
        "catalogSourceDisplayName": catalog["spec"].get("displayName", ""),
        "catalogSourceNamespace": namespace_of(catalog),
        "catalogSourcePublisher": catalog["spec"].get("publisher", ""),
        "channels": channels,
        "defaultChannel": package["defaultChannelName"],
        "packageName": package["name"],
        "provider": provider,
    }
    api = f"{GROUP}/{VERSION}"
    return {"apiVersion": api, "kind": "PackageManifest", "metadata": meta, "spec": {}, "status": status}


def _listed(entries: list[Message], release: Release = RELEASE) -> Obj:
    """A channel's entries, in the releases that list them."""
    if not release.lists_entries:
        return {}
    return {"entries": [{"name": e["csvName"], "version": e["version"]} for e in entries]}


def chain(bundles: list[Message], head: str) -> list[Message]:
    """A channel's bundles from its head down the `replaces` entries."""
    by_name, found = {b["csvName"]: b for b in bundles}, []
    while head in by_name:
        found.append(by_name.pop(head))
        head = found[-1]["replaces"]
    return found


class Packages:
    """All PackageManifests, read from each catalog when it becomes READY."""

    def __init__(self, kube: Kube, global_namespace: str) -> None:
        self.kube, self.global_namespace = kube, global_namespace
        self.found: dict[tuple[str, str], list[Obj]] = {}
        self.seen: dict[tuple[str, str], str] = {}
        self.queue = Queue(self.read, retry_s=1)
        self.catalogs = Informer(kube, CATALOG, self.changed)

    def changed(self, type_: str, old: Obj | None, catalog: Obj) -> None:
        key, state = key_of(catalog), (catalog.get("status") or {}).get("connectionState") or {}
        if type_ == "DELETED":
            self.found.pop(key, None)
            self.seen.pop(key, None)
        elif state.get("lastObservedState") == "READY" and self.seen.get(key) != state["lastConnect"]:
            self.seen[key] = state["lastConnect"]
            self.queue.add(key)

    async def read(self, key: tuple[str, str]) -> None:
        catalog = self.catalogs.get(*key)
        if catalog is None:
            return
        address = catalog["spec"].get("address", "")
        if catalog["spec"].get("image"):
            service = await self.kube.get(SERVICE, *key)
            if service is None:
                raise ApiError(404, "NotFound", f"service {key} of the catalog not found")
            address = f"{service['spec']['clusterIP']}:{PORT}"
        client = Client(address)
        try:
            self.found[key] = await self._manifests(catalog, client)
        except grpc.aio.AioRpcError as error:
            raise ApiError(503, "Unavailable", f"catalog {key}: {error.details()}") from error
        finally:
            await client.channel.close()
        log.info("read %d packages from catalog %s", len(self.found[key]), key)

    @staticmethod
    async def _manifests(catalog: Obj, client: Client) -> list[Obj]:
        bundles = await client.call("ListBundles")
        made = []
        for named in await client.call("ListPackages"):
            package = (await client.call("GetPackage", name=named["name"]))[0]
            heads, entries = {}, {}
            for channel in package["channels"]:
                wanted = {
                    "pkgName": named["name"],
                    "channelName": channel["name"],
                    "csvName": channel["csvName"],
                }
                heads[channel["name"]] = json.loads((await client.call("GetBundle", **wanted))[0]["csvJson"])
                mine = [
                    b
                    for b in bundles
                    if (b["packageName"], b["channelName"]) == (named["name"], channel["name"])
                ]
                entries[channel["name"]] = chain(mine, channel["csvName"])
            made.append(manifest(catalog, package, heads, entries))
        return made

    def list(self, namespace: str) -> list[Obj]:
        """The packages seen in a namespace: those of its own and of the global catalogs; "" for all."""
        spaces = {namespace, self.global_namespace}
        found = [m for key, ms in self.found.items() if not namespace or key[0] in spaces for m in ms]
        return sorted(found, key=lambda m: (namespace_of(m), name_of(m)))


def matches(labels: dict[str, str], selector: str) -> bool:
    """Equality and existence selectors."""
    for term in filter(None, selector.split(",")):
        key, sign, value = term.replace("==", "=").partition("=")
        if key.endswith("!"):
            if labels.get(key[:-1]) == value:
                return False
        elif labels.get(key) != value if sign else key not in labels:
            return False
    return True


def status(code: int, reason: str, message: str) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    return web.json_response(body | {"reason": reason, "code": code}, status=code)


def table(items: list[Obj]) -> Obj:
    """The rows that `kubectl get` prints."""
    columns = [
        {"name": n, "type": "string", "format": f, "description": "", "priority": 0} for n, f in COLUMNS
    ]
    rows = []
    for item in items:
        cells = [
            name_of(item),
            item["status"]["catalogSourceDisplayName"],
            human_age(item["metadata"]["creationTimestamp"]),
        ]
        partial = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": item["metadata"],
        }
        rows.append({"cells": cells, "object": partial})
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": columns,
        "rows": rows,
    }


COLUMNS = (("Name", "name"), ("Catalog", ""), ("Age", ""))


class Server:
    """The HTTPS side."""

    def __init__(self, kube: Kube, packages: Packages) -> None:
        self.kube, self.packages = kube, packages
        self.allowed: dict[tuple[str, ...], float] = {}

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.authorize])
        version = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
        group = {"name": GROUP, "versions": [version], "preferredVersion": version}
        resource = {"name": "packagemanifests", "singularName": "packagemanifest", "namespaced": True}
        resource |= {"kind": "PackageManifest", "verbs": ["get", "list"]}
        icon = {**resource, "name": "packagemanifests/icon", "singularName": "", "verbs": ["get"]}
        resources = {"groupVersion": version["groupVersion"], "resources": [resource, icon]}
        fixed = {
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]},
            f"/apis/{GROUP}": {"kind": "APIGroup", "apiVersion": "v1", **group},
            ROOT: {"kind": "APIResourceList", "apiVersion": "v1", **resources},
            "/openapi/v2": {
                "swagger": "2.0",
                "info": {"title": "packageserver", "version": VERSION},
                "paths": {},
            },
            "/openapi/v3": {"paths": {}},
        }
        for path, body in fixed.items():
            app.router.add_get(path, lambda _, body=body: web.json_response(body))
        for path in ("/healthz", "/livez", "/readyz"):
            app.router.add_get(path, lambda _: web.Response(text="ok"))
        app.router.add_get(f"{ROOT}/packagemanifests", self.list)
        app.router.add_get(f"{ROOT}/namespaces/{{namespace}}/packagemanifests", self.list)
        app.router.add_get(f"{ROOT}/namespaces/{{namespace}}/packagemanifests/{{name}}", self.get)
        app.router.add_get(f"{ROOT}/namespaces/{{namespace}}/packagemanifests/{{name}}/icon", self.icon)
        return app

    @web.middleware
    async def authorize(self, request: web.Request, handler: web.RequestHandler) -> web.StreamResponse:
        """Let through whom the API server vouches for (front proxy certificate) and RBAC allows."""
        if not request.path.startswith(ROOT + "/"):
            return await handler(request)
        transport = request.transport
        if transport is None or not transport.get_extra_info("peercert"):
            return status(401, "Unauthorized", "Unauthorized")
        user = request.headers.get("X-Remote-User", "system:anonymous")
        groups = request.headers.getall("X-Remote-Group", [])
        verb = "get" if "name" in request.match_info else "list"
        namespace = request.match_info.get("namespace", "")
        key = (user, *groups, verb, namespace)
        loop = asyncio.get_running_loop()
        if self.allowed.get(key, 0) < loop.time():
            about = {"group": GROUP, "resource": "packagemanifests", "verb": verb, "namespace": namespace}
            review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}}
            review |= {"spec": {"user": user, "groups": groups, "resourceAttributes": about}}
            answer = await self.kube.create(review)
            if not answer["status"].get("allowed"):
                what = f'User "{user}" cannot {verb} resource "packagemanifests" in API group "{GROUP}"'
                text = f"packagemanifests.{GROUP} is forbidden: {what}"
                return status(403, "Forbidden", text)
            self.allowed[key] = loop.time() + ALLOWED_S
        return await handler(request)

    @staticmethod
    def _answer(request: web.Request, items: list[Obj], body: Obj) -> web.Response:
        return web.json_response(table(items) if "as=Table" in request.headers.get("Accept", "") else body)

    async def list(self, request: web.Request) -> web.Response:
        items = self.packages.list(request.match_info.get("namespace", ""))
        items = [i for i in items if matches(labels_of(i), request.query.get("labelSelector", ""))]
        if field := request.query.get("fieldSelector"):
            items = [i for i in items if matches({"metadata.name": name_of(i)}, field)]
        body = {
            "kind": "PackageManifestList",
            "apiVersion": f"{GROUP}/{VERSION}",
            "metadata": {},
            "items": items,
        }
        return self._answer(request, items, body)

    def _find(self, request: web.Request) -> Obj | None:
        items = self.packages.list(request.match_info["namespace"])
        return next((i for i in items if name_of(i) == request.match_info["name"]), None)

    async def get(self, request: web.Request) -> web.Response:
        found = self._find(request)
        if found is None:
            return status(
                404, "NotFound", f'packagemanifests.{GROUP} "{request.match_info["name"]}" not found'
            )
        return self._answer(request, [found], found)

    async def icon(self, request: web.Request) -> web.Response:
        """The operator's icon, or an empty picture."""
        return web.Response(body=b'<svg xmlns="http://www.w3.org/2000/svg"/>', content_type="image/svg+xml")


async def main(options: argparse.Namespace) -> None:
    kube = Kube()
    packages = Packages(kube, options.global_namespace)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(options.cert_dir / "apiserver.crt", options.cert_dir / "apiserver.key")
    authentication = await kube.get(CONFIG_MAP, "kube-system", "extension-apiserver-authentication") or {
        "data": {}
    }
    if front_proxy := authentication["data"].get("requestheader-client-ca-file"):
        tls.load_verify_locations(cadata=front_proxy)
        tls.verify_mode = ssl.CERT_OPTIONAL
    runner = web.AppRunner(Server(kube, packages).app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", options.secure_port, ssl_context=tls).start()
    await packages.catalogs.run()


def start() -> None:
    parser = argparse.ArgumentParser(prog="package-server", allow_abbrev=False)
    parser.add_argument("-v", default="0")
    parser.add_argument("--secure-port", type=int, default=5443)
    parser.add_argument("--global-namespace", default="olm")
    parser.add_argument("--cert-dir", type=Path, default=CERTIFICATES)
    options, _ = parser.parse_known_args()
    run_program(lambda: main(options))
