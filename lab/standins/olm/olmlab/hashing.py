"""Names and hashes in OLM's shape.

The algorithms of the published names are kept where they depend on text only (bundle, CRD annotation); hashes
over Go structures can't be had from outside, so those are over canonical JSON instead and differ in value.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

SAFE = "bcdfghjklmnpqrstvwxz2456789"  # Kubernetes' alphabet for generated names
BASE62 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def fnv(data: bytes, bits: int) -> int:
    """FNV-1a with 32 or 64 bits."""
    offset, prime = {32: (0x811C9DC5, 0x01000193), 64: (0xCBF29CE484222325, 0x100000001B3)}[bits]
    value = offset
    for byte in data:
        value = ((value ^ byte) * prime) & ((1 << bits) - 1)
    return value


def short_hash(value: Any) -> str:
    """A hash as in pod template names: up to ten letters and digits that spell no words."""
    return "".join(SAFE[ord(c) % len(SAFE)] for c in str(fnv(canonical(value), 32)))


def long_hash(data: bytes) -> str:
    """A hash as in OperatorGroup ClusterRole names and olm.permissions.hash (38 characters of base 62)."""
    number, text = int.from_bytes(hashlib.sha224(data).digest(), "big"), ""
    while number:
        number, digit = divmod(number, 62)
        text = BASE62[digit] + text
    return text


def bundle_name(image: str) -> str:
    """The name of the unpack ConfigMap, Job and RBAC of a bundle image."""
    return hashlib.sha256(image.encode()).hexdigest()[:63]


def alongside_key(namespace: str, csv: str) -> str:
    """The CRD annotation saying with which CSV it was installed."""
    return f"operatorframework.io/installed-alongside-{fnv(f'{namespace}/{csv}'.encode(), 64):x}"
