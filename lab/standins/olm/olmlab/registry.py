"""operator-registry's gRPC API (service api.Registry), both ends, without generated code.

Every field of its messages is a string, a list of strings, a message or a list of messages, so a table of
field numbers (from the published registry.proto) and thirty lines of wire format are enough.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import yaml

Message = dict[str, Any]
PORT = 50051

# message: {field number: (name, type, repeated)}
MESSAGES: dict[str, dict[int, tuple[str, str, bool]]] = {
    "Empty": {},
    "Name": {1: ("name", "string", False)},
    "Channel": {1: ("name", "string", False), 2: ("csvName", "string", False)},
    "Package": {
        1: ("name", "string", False),
        2: ("channels", "Channel", True),
        3: ("defaultChannelName", "string", False),
    },
    "GVK": {i: (n, "string", False) for i, n in enumerate(("group", "version", "kind", "plural"), 1)},
    "Typed": {1: ("type", "string", False), 2: ("value", "string", False)},
    "Bundle": {
        1: ("csvName", "string", False),
        2: ("packageName", "string", False),
        3: ("channelName", "string", False),
        4: ("csvJson", "string", False),
        5: ("object", "string", True),
        6: ("bundlePath", "string", False),
        7: ("providedApis", "GVK", True),
        8: ("requiredApis", "GVK", True),
        9: ("version", "string", False),
        10: ("skipRange", "string", False),
        11: ("dependencies", "Typed", True),
        12: ("properties", "Typed", True),
        13: ("replaces", "string", False),
        14: ("skips", "string", True),
    },
    "BundleRequest": {
        i: (n, "string", False) for i, n in enumerate(("pkgName", "channelName", "csvName"), 1)
    },
    "Replacement": {i: (n, "string", False) for i, n in enumerate(("csvName", "pkgName", "channelName"), 1)},
    "Entry": {
        i: (n, "string", False)
        for i, n in enumerate(("packageName", "channelName", "bundleName", "replaces"), 1)
    },
}
# method: (request, answer, whether the answer is a stream)
METHODS = {
    "ListPackages": ("Empty", "Name", True),
    "GetPackage": ("Name", "Package", False),
    "GetBundle": ("BundleRequest", "Bundle", False),
    "GetBundleForChannel": ("BundleRequest", "Bundle", False),
    "GetChannelEntriesThatReplace": ("Replacement", "Entry", True),
    "GetBundleThatReplaces": ("Replacement", "Bundle", False),
    "GetChannelEntriesThatProvide": ("GVK", "Entry", True),
    "GetLatestChannelEntriesThatProvide": ("GVK", "Entry", True),
    "GetDefaultBundleThatProvides": ("GVK", "Bundle", False),
    "ListBundles": ("Empty", "Bundle", True),
}


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def encode(kind: str, message: Message) -> bytes:
    out = bytearray()
    for number, (name, type_, repeated) in MESSAGES[kind].items():
        values = message.get(name) or ()
        for value in values if repeated else [values] if values else ():
            data = value.encode() if type_ == "string" else encode(type_, value)
            out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return bytes(out)


def decode(kind: str, data: bytes) -> Message:
    """Read a message; fields that aren't in the table are skipped."""
    fields, at = MESSAGES[kind], 0
    message: Message = {name: [] if repeated else "" for name, type_, repeated in fields.values()}

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            number |= (data[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 0x80:
                return number

    while at < len(data):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            varint()
            continue
        length = varint() if wire == 2 else {1: 8, 5: 4}[wire]
        part, at = data[at : at + length], at + length
        if number in fields and wire == 2:
            name, type_, repeated = fields[number]
            value = part.decode() if type_ == "string" else decode(type_, part)
            message[name] = [*message[name], value] if repeated else value
    return message


class Client:
    """Asks one catalog; `address` is host:port."""

    def __init__(self, address: str) -> None:
        # No proxy, no retry of its own and at most a minute between connection attempts, as grpc-go has it.
        options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
        options += [("grpc.initial_reconnect_backoff_ms", 1000), ("grpc.max_reconnect_backoff_ms", 60000)]
        self.address = address
        self.channel = grpc.aio.insecure_channel(f"ipv4:{address}", options=options)

    async def call(self, method: str, timeout_s: float = 30, **fields: Any) -> list[Message]:
        """The answers of one method, one or many; raises grpc.aio.AioRpcError."""
        request, answer, stream = METHODS[method]
        make = self.channel.unary_stream if stream else self.channel.unary_unary
        codec = {
            "request_serializer": lambda m: encode(request, m),
            "response_deserializer": lambda d: decode(answer, d),
        }
        call = make(f"/api.Registry/{method}", **codec)(fields, timeout=timeout_s)
        return [m async for m in call] if stream else [await call]


class Catalog:
    """A file-based catalog: its packages, channels and bundles, and the answers to the API's questions."""

    def __init__(self, directory: Path) -> None:
        self.packages: dict[str, Message] = {}
        self.channels: dict[tuple[str, str], dict[str, Message]] = {}
        self.bundles: dict[tuple[str, str], Message] = {}
        for path in sorted(p for p in directory.rglob("*") if p.suffix in (".yaml", ".yml", ".json")):
            for document in yaml.load_all(
                path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            ):
                self._add(document or {})

    def _add(self, document: Message) -> None:
        match document.get("schema"):
            case "olm.package":
                self.packages[document["name"]] = document
            case "olm.channel":
                entries = {e["name"]: e for e in document["entries"]}
                self.channels[document["package"], document["name"]] = entries
            case "olm.bundle":
                self.bundles[document["package"], document["name"]] = document

    def head(self, package: str, channel: str) -> str:
        """The channel's entry that no other one replaces or skips."""
        entries = self.channels[package, channel]
        passed = {n for e in entries.values() for n in [e.get("replaces"), *(e.get("skips") or ())]}
        return next(n for n in entries if n not in passed)

    def bundle(self, package: str, channel: str, name: str, *, full: bool = True) -> Message:
        document, entry = self.bundles[package, name], self.channels[package, channel][name]
        properties = document.get("properties") or []
        made: Message = {"csvName": name, "packageName": package, "channelName": channel}
        made |= {"bundlePath": document.get("image", ""), "replaces": entry.get("replaces", "")}
        made |= {"skips": entry.get("skips") or [], "skipRange": entry.get("skipRange", "")}
        objects: list[Message] = []
        for p in properties:
            if p["type"] == "olm.package":
                made["version"] = str(p["value"]["version"])
            if p["type"] == "olm.bundle.object":
                objects.append(yaml.safe_load(base64.b64decode(p["value"]["data"])))
            for kind, field in (("olm.gvk", "providedApis"), ("olm.gvk.required", "requiredApis")):
                if p["type"] == kind:
                    made.setdefault(field, []).append({"plural": "", **p["value"]})
        shown = [p for p in properties if p["type"] not in ("olm.bundle.object", "olm.csv.metadata")]
        made["properties"] = [{"type": p["type"], "value": _compact(p["value"])} for p in shown]
        needed = [p for p in shown if p["type"].endswith(".required")]
        made["dependencies"] = [
            {"type": p["type"].removesuffix(".required"), "value": _compact(p["value"])} for p in needed
        ]
        if full:
            csv = next((o for o in objects if o["kind"] == "ClusterServiceVersion"), None)
            made["csvJson"] = _compact(csv or _csv_of(document, made))
            made["object"] = [made["csvJson"], *(_compact(o) for o in objects if o is not csv)]
        return made

    # -- the methods of the API --

    def ListPackages(self, _: Message) -> Iterator[Message]:
        yield from ({"name": name} for name in sorted(self.packages))

    def GetPackage(self, request: Message) -> Message:
        package = self.packages[request["name"]]
        channels = [c for p, c in sorted(self.channels) if p == request["name"]]
        heads = [{"name": c, "csvName": self.head(request["name"], c)} for c in channels]
        return {
            "name": request["name"],
            "channels": heads,
            "defaultChannelName": package.get("defaultChannel", ""),
        }

    def GetBundle(self, request: Message) -> Message:
        return self.bundle(request["pkgName"], request["channelName"], request["csvName"])

    def GetBundleForChannel(self, request: Message) -> Message:
        package, channel = request["pkgName"], request["channelName"]
        return self.bundle(package, channel, self.head(package, channel))

    def _entries(self) -> Iterator[Message]:
        for (package, channel), entries in sorted(self.channels.items()):
            for entry in entries.values():
                found = {"packageName": package, "channelName": channel, "bundleName": entry["name"]}
                yield found | {"replaces": entry.get("replaces", "")}

    def GetChannelEntriesThatReplace(self, request: Message) -> Iterator[Message]:
        yield from (e for e in self._entries() if e["replaces"] == request["csvName"])

    def GetBundleThatReplaces(self, request: Message) -> Message:
        wanted = (request["csvName"], request["pkgName"], request["channelName"])
        for e in self._entries():
            if (e["replaces"], e["packageName"], e["channelName"]) == wanted:
                return self.bundle(e["packageName"], e["channelName"], e["bundleName"])
        raise KeyError(f"no entry found for {wanted[0]}")

    def _providing(self, request: Message) -> Iterator[Message]:
        for e in self._entries():
            apis = self.bundle(e["packageName"], e["channelName"], e["bundleName"], full=False).get(
                "providedApis", ()
            )
            if any(all(a[f] == request[f] for f in ("group", "version", "kind")) for a in apis):
                yield e

    def GetChannelEntriesThatProvide(self, request: Message) -> Iterator[Message]:
        yield from self._providing(request)

    def GetLatestChannelEntriesThatProvide(self, request: Message) -> Iterator[Message]:
        heads = (e for e in self._providing(request))
        yield from (e for e in heads if e["bundleName"] == self.head(e["packageName"], e["channelName"]))

    def GetDefaultBundleThatProvides(self, request: Message) -> Message:
        for e in self.GetLatestChannelEntriesThatProvide(request):
            if self.packages[e["packageName"]].get("defaultChannel") == e["channelName"]:
                return self.bundle(e["packageName"], e["channelName"], e["bundleName"])
        raise KeyError("no entry found that provides the API")

    def ListBundles(self, _: Message) -> Iterator[Message]:
        for e in self._entries():
            yield self.bundle(e["packageName"], e["channelName"], e["bundleName"], full=False)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _csv_of(document: Message, bundle: Message) -> Message:
    """A CSV as far as olm.csv.metadata has it: what a package listing shows, without the install strategy."""
    found = next(
        (p["value"] for p in document.get("properties") or () if p["type"] == "olm.csv.metadata"), {}
    )
    renamed = {
        "crdDescriptions": "customresourcedefinitions",
        "apiServiceDefinitions": "apiservicedefinitions",
    }
    spec = {renamed.get(k, k): v for k, v in found.items() if k not in ("annotations", "labels")}
    spec |= {"version": bundle.get("version", ""), "install": {"strategy": "deployment"}}
    spec["relatedImages"] = document.get("relatedImages") or []
    meta = {
        "name": bundle["csvName"],
        "annotations": found.get("annotations") or {},
        "labels": found.get("labels") or {},
    }
    api = "operators.coreos.com/v1alpha1"
    return {"apiVersion": api, "kind": "ClusterServiceVersion", "metadata": meta, "spec": spec}


def serve(catalog: Catalog, port: int = PORT) -> grpc.Server:
    """Start answering for `catalog` on all addresses; also grpc.health.v1.Health/Check."""
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(max_workers=4))

    def handler(name: str) -> grpc.RpcMethodHandler:
        request, answer, stream = METHODS[name]
        method = getattr(catalog, name)

        def call(message: Message, context: grpc.ServicerContext) -> Any:
            try:
                return method(message)
            except KeyError as error:
                context.abort(grpc.StatusCode.UNKNOWN, f"no entry found: {error}")

        codec = {
            "request_deserializer": lambda d: decode(request, d),
            "response_serializer": lambda m: encode(answer, m),
        }
        make = grpc.unary_stream_rpc_method_handler if stream else grpc.unary_unary_rpc_method_handler
        return make(call, **codec)

    handlers = {name: handler(name) for name in METHODS}
    health = {"Check": grpc.unary_unary_rpc_method_handler(lambda *_: b"\x08\x01")}  # status = SERVING
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("api.Registry", handlers),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
        )
    )
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    return server
