"""What OLM uses of `opm`: `serve` (a catalog) and `alpha bundle extract` (a bundle into a ConfigMap)."""

from __future__ import annotations

import base64
import gzip
import json
import os
import ssl
import sys
import urllib.request
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def _option(arguments: list[str], *names: str) -> str:
    for name in names:
        if name in arguments:
            return arguments[arguments.index(name) + 1]
        if found := [a for a in arguments if a.startswith(f"{name}=")]:
            return found[0].split("=", 1)[1]
    return ""


def extract(arguments: list[str]) -> None:
    """Put a bundle directory's manifests into binaryData of an existing ConfigMap, gzipped with -z.

    The annotations of metadata/annotations.yaml and the image's name ($CONTAINER_IMAGE) go there, too.
    """
    root = Path(_option(arguments, "-m", "--manifestsdir"))
    namespace, name = _option(arguments, "-n", "--namespace"), _option(arguments, "-c", "--configmapname")
    notes = yaml.safe_load((root / "metadata/annotations.yaml").read_text())["annotations"]
    notes |= {"olm.sourceImage": os.environ["CONTAINER_IMAGE"]}
    data: dict[str, str] = {}
    for path in sorted((root / notes["operators.operatorframework.io.bundle.manifests.v1"]).iterdir()):
        text = path.read_bytes()
        if not isinstance(yaml.safe_load(text), dict):
            continue
        key = path.name.lower()
        if {"-z", "--gzip"} & set(arguments):
            packed = base64.b64encode(gzip.compress(text, mtime=0))
            notes["olm.contentEncoding"] = "gzip+base64"
            data[key] = base64.b64encode(packed).decode()
        else:
            data[key] = base64.b64encode(text).decode()
    _patch(
        f"/api/v1/namespaces/{namespace}/configmaps/{name}",
        {"metadata": {"annotations": notes}, "binaryData": data},
    )
    print(f"info: wrote {len(data)} manifests to configmap {namespace}/{name}")


def _patch(path: str, body: dict[str, Any]) -> None:
    """GET, merge and PUT: the role that OLM gives to the pod allows get and update, not patch."""
    token = (SERVICE_ACCOUNT_DIR / "token").read_text()
    tls = ssl.create_default_context(cafile=str(SERVICE_ACCOUNT_DIR / "ca.crt"))
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    url = f"https://{host}:{port}{path}"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), context=tls, timeout=30
    ) as answer:
        current = json.load(answer)
    current["metadata"].setdefault("annotations", {}).update(body["metadata"]["annotations"])
    current["binaryData"] = (current.get("binaryData") or {}) | body["binaryData"]
    put = urllib.request.Request(url, json.dumps(current).encode(), headers, method="PUT")
    urllib.request.urlopen(put, context=tls, timeout=30).close()


def serve(arguments: list[str]) -> None:
    """Serve the file-based catalog in a directory until stopped."""
    from olmlab import registry

    directory = next((a for a in arguments if not a.startswith("-")), "/configs")
    port = int(_option(arguments, "-p", "--port") or registry.PORT)
    print(f'time="now" level=info msg="serving registry" configs={directory} port={port}', flush=True)
    registry.serve(registry.Catalog(Path(directory)), port).wait_for_termination()


def main() -> None:
    match sys.argv[1:]:
        case ["serve", *rest]:
            serve(rest)
        case ["alpha", "bundle", "extract", *rest]:
            extract(rest)
        case ["version", *_]:
            print('Version: version.Version{OpmVersion:"v1.30.1+lab1"}')
        case other:
            sys.exit(f"Error: unknown command {' '.join(other)!r} for opm (has serve, alpha bundle extract)")
