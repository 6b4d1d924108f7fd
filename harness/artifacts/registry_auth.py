"""Credentials for registries, from a file in the format of docker's config.json.

Source of the format: docker's documentation of `docker login`. ``{"auths": {HOST: {"auth": BASE64}}}``, where
BASE64 is of "user:password", and Docker Hub is called ``https://index.docker.io/v1/``.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.redact import Secret, register

DOCKER_HUB = "registry-1.docker.io"
"""Where docker.io's images are pulled from."""
_HUB_NAMES = frozenset(("docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"))

Credentials = Mapping[str, tuple[str, Secret]]
"""Host that a client connects to → user and password."""


def endpoint_host(registry: str) -> str:
    """The host that a registry's images are pulled from: docker.io's has a name of its own."""
    return DOCKER_HUB if registry in _HUB_NAMES else registry


def read(path: Path | None) -> Credentials:
    """The credentials in a file; none without a file. Raises UsageError for a file that can't be used."""
    if path is None:
        return {}
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"--registry-auth {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"--registry-auth {path} is no JSON: {error}", _FORM) from None
    auths = document.get("auths") if isinstance(document, dict) else None
    if not isinstance(auths, dict) or not auths:
        raise UsageError(f"--registry-auth {path} names no registry below `auths`", _FORM)
    found = {}
    for name, entry in auths.items():
        host = endpoint_host(name.removeprefix("https://").removeprefix("http://").partition("/")[0])
        found[host] = _credentials(path, name, entry)
    return found


_FORM = (
    'it has docker\'s form: {"auths": {"https://index.docker.io/v1/": {"auth": base64 of USER:PASSWORD}}}; '
    "a credential helper (credsStore) is not asked"
)


def _credentials(path: Path, name: str, entry: Any) -> tuple[str, Secret]:
    if isinstance(entry, dict):
        user, password = entry.get("username"), entry.get("password")
        if isinstance(user, str) and isinstance(password, str):
            return user, register(password)
        try:
            user, colon, password = (
                base64.b64decode(str(entry.get("auth", "")), validate=True).decode().partition(":")
            )
        except (binascii.Error, UnicodeDecodeError):
            colon = ""
        if colon and user and password:
            return user, register(password)
    raise UsageError(f"--registry-auth {path}: the entry {name!r} holds no user and password", _FORM)
