"""CatalogSources: their pod, Service and gRPC connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from olmlab.hashing import short_hash
from olmlab.informer import Informer, Queue
from olmlab.kube import (
    CATALOG,
    MANAGED,
    POD,
    SERVICE,
    SERVICE_ACCOUNT,
    Kube,
    Obj,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    now,
    owner_ref,
)
from olmlab.registry import PORT, Client, Message

Key = tuple[str, str]


class CatalogUnavailable(Exception):
    """A catalog didn't answer; the message is OLM's."""


def pod_for(catalog: Obj) -> Obj:
    """The registry pod of a catalog, as OLM v0.26.0 makes it."""
    config = catalog["spec"].get("grpcPodConfig") or {}
    restricted = config.get("securityContextConfig") == "restricted"
    image, name = catalog["spec"]["image"], name_of(catalog)
    probe = {
        "exec": {"command": ["grpc_health_probe", f"-addr=:{PORT}"]},
        "timeoutSeconds": 5,
        "periodSeconds": 10,
    }
    container: Obj = {
        "name": "registry-server",
        "image": image,
        "imagePullPolicy": "IfNotPresent" if "@sha256:" in image else "Always",
        "ports": [{"name": "grpc", "containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": {**probe, "initialDelaySeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**probe, "initialDelaySeconds": 10, "failureThreshold": 3},
        "startupProbe": {**probe, "failureThreshold": 10},
        "resources": {"requests": {"cpu": "10m", "memory": "50Mi"}},
        "securityContext": {"readOnlyRootFilesystem": False},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    spec: Obj = {
        "containers": [container],
        "nodeSelector": {"kubernetes.io/os": "linux"} | (config.get("nodeSelector") or {}),
        "serviceAccountName": name,
    }
    if restricted:
        container["securityContext"] |= {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        profile = {"type": "RuntimeDefault"}
        spec["securityContext"] = {"runAsNonRoot": True, "runAsUser": 1001, "seccompProfile": profile}
    for field in ("tolerations", "priorityClassName"):
        if config.get(field):
            spec[field] = config[field]
    labels = MANAGED | {"olm.catalogSource": name, "olm.pod-spec-hash": short_hash(spec)}
    meta = {"generateName": f"{name}-", "namespace": namespace_of(catalog), "labels": labels}
    meta["annotations"] = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}
    meta["ownerReferences"] = [owner_ref(catalog, controller=True)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


class Connection:
    """One catalog's client, its observed connection state and the bundles it last answered with."""

    def __init__(self, address: str, shown: str) -> None:
        self.client, self.shown = Client(address), shown
        self.state, self.since = "IDLE", now()
        self.bundles: list[Message] | None = None
        self.packages: dict[str, Message] = {}
        self.task: asyncio.Task[None] | None = None

    async def snapshot(self, name: str, namespace: str) -> list[Message]:
        """All bundles; asked for once a connection, as the catalog's data is baked into its image."""
        if self.bundles is None:
            try:
                found = await self.client.call("ListBundles", timeout_s=20)
                names = sorted({b["packageName"] for b in found})
                self.packages = {n: (await self.client.call("GetPackage", name=n))[0] for n in names}
                self.bundles = found
            except grpc.aio.AioRpcError as error:
                text = f"failed to populate resolver cache from source {name}/{namespace}: "
                code = "".join(part.capitalize() for part in error.code().name.split("_"))
                what = error.details() if code != "Unavailable" else await self._why()
                raise CatalogUnavailable(
                    f"{text}failed to list bundles: rpc error: code = {code} desc = {what}"
                ) from error
        return self.bundles

    async def _why(self) -> str:
        """Why a connection fails, in the words of Go's dialer."""
        host, port = self.client.address.rsplit(":", 1)
        why = "i/o timeout"
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 3)
            writer.close()
        except ConnectionRefusedError:
            why = "connect: connection refused"
        except TimeoutError:
            pass
        except OSError as error:
            why = f"connect: {(error.strerror or 'no route to host').lower()}"
        return (
            f'connection error: desc = "transport: Error while dialing dial tcp {self.client.address}: {why}"'
        )

    async def close(self) -> None:
        if self.task:
            self.task.cancel()
        await self.client.channel.close()


class CatalogController:
    """Reconciles CatalogSources; `on_ready(key)` is called when a connection becomes READY."""

    def __init__(
        self, kube: Kube, catalogs: Informer, pods: Informer, on_ready: Callable[[Key], None]
    ) -> None:
        self.kube, self.catalogs, self.pods, self.on_ready = kube, catalogs, pods, on_ready
        self.connections: dict[Key, Connection] = {}
        self.queue = Queue(self.sync)

    async def sync(self, key: Key) -> None:
        catalog = self.catalogs.get(*key)
        if catalog is None:
            if gone := self.connections.pop(key, None):
                await gone.close()
            return
        if catalog["spec"]["sourceType"] != "grpc":
            await self._status(
                catalog,
                {"reason": "SpecInvalidError", "message": "this stand-in serves sourceType grpc only"},
            )
            return
        address = shown = catalog["spec"].get("address", "")
        if catalog["spec"].get("image"):
            service = await self._registry(catalog)
            address = f"{service['spec']['clusterIP']}:{PORT}"
            shown = f"{name_of(catalog)}.{key[0]}.svc:{PORT}"
            if not (catalog.get("status") or {}).get("registryService"):
                registry = {"createdAt": now(), "port": str(PORT), "protocol": "grpc"}
                registry |= {"serviceName": name_of(catalog), "serviceNamespace": key[0]}
                await self._status(catalog, {"registryService": registry})
                return
        await self._connect(catalog, address, shown)

    async def _registry(self, catalog: Obj) -> Obj:
        """ServiceAccount, pod and Service of a catalog with an image."""
        name, namespace = name_of(catalog), namespace_of(catalog)
        meta = {"name": name, "namespace": namespace, "labels": MANAGED}
        account = meta | {"ownerReferences": [owner_ref(catalog, controller=True, block=True)]}
        await self.kube.ensure({"apiVersion": "v1", "kind": SERVICE_ACCOUNT[1], "metadata": account})
        wanted = pod_for(catalog)
        spec_hash = wanted["metadata"]["labels"]["olm.pod-spec-hash"]
        pods = await self.kube.list(POD, namespace, f"olm.catalogSource={name}")
        alive = []
        for pod in pods:
            failed = (
                pod["status"].get("phase") == "Failed" or labels_of(pod).get("olm.pod-spec-hash") != spec_hash
            )
            if failed and "deletionTimestamp" not in pod["metadata"]:
                await self.kube.delete(POD, namespace, name_of(pod))
            elif not failed and "deletionTimestamp" not in pod["metadata"]:
                alive.append(pod)
        if not alive:
            await self.kube.create(wanted)
        ports = [{"name": "grpc", "port": PORT, "targetPort": PORT, "protocol": "TCP"}]
        spec = {"ports": ports, "selector": MANAGED | {"olm.catalogSource": name}}
        service = meta | {"labels": MANAGED | {"olm.service-spec-hash": short_hash(spec)}}
        service |= {"ownerReferences": [owner_ref(catalog)]}
        found, _ = await self.kube.ensure(
            {"apiVersion": "v1", "kind": SERVICE[1], "metadata": service, "spec": spec}
        )
        return found

    async def _connect(self, catalog: Obj, address: str, shown: str) -> None:
        key = key_of(catalog)
        connection = self.connections.get(key)
        if connection and connection.client.address != address:
            await connection.close()
            connection = None
        if connection is None:
            connection = self.connections[key] = Connection(address, shown)
            await self._show(key, connection)
            connection.task = asyncio.ensure_future(self._watch(key, connection))

    async def _watch(self, key: Key, connection: Connection) -> None:
        """Keep connecting, and write every state the connection goes through into the CatalogSource."""
        channel = connection.client.channel
        state = channel.get_state(try_to_connect=True)
        while True:
            await channel.wait_for_state_change(state)
            state = channel.get_state(try_to_connect=True)
            if state.name != connection.state:
                connection.state, connection.since = state.name, now()
                if state is grpc.ChannelConnectivity.READY:
                    connection.bundles = None
                    self.on_ready(key)
                await self._show(key, connection)

    async def _show(self, key: Key, connection: Connection) -> None:
        state = {
            "address": connection.shown,
            "lastConnect": connection.since,
            "lastObservedState": connection.state,
        }
        if catalog := self.catalogs.get(*key):
            await self._status(catalog, {"connectionState": state})

    async def _status(self, catalog: Obj, status: Obj) -> None:
        try:
            await self.kube.patch(CATALOG, *key_of(catalog), {"status": status}, "status")
        except OSError:
            self.queue.add(key_of(catalog), 1)

    def visible(self, namespaces: tuple[str, ...]) -> list[Obj]:
        return [c for c in self.catalogs.list() if namespace_of(c) in namespaces]
