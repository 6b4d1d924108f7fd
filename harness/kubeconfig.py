"""A kubeconfig as we use it: one named context, checked, its keys never written to a disk.

The official client writes inline keys into files below TMPDIR, which a killed process leaves there. Here they
are files in memory (memfd_create(2)), which go with the process, and which nobody else can open by name.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes.client import Configuration
from kubernetes.config.kube_config import KubeConfigLoader

from harness.environment import snapshot
from harness.errors import EnvironmentProblem, UsageError
from harness.files import parse_yaml, read_text
from harness.redact import register, register_url

HINT = "give --kubeconfig and --context of a cluster that `kubectl` reaches"
_SECRET_FIELDS = ("token", "password")
_PLUGIN_TIMEOUT_S = 60
_FILES = ("certificate-authority", "client-certificate", "client-key")


@dataclass
class Loaded:
    """A kubeconfig of one context as the official client takes it; ``descriptors``: its files in memory."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)
    descriptors: list[int] = field(default_factory=list)

    def configure(self, settings: Configuration) -> None:
        """Fill the official client's configuration. Raises HarnessError where a credential plugin fails."""
        _Loader(self).load_and_set(settings)

    def close(self) -> None:
        """Let the files in memory go."""
        while self.descriptors:
            os.close(self.descriptors.pop())


class _Loader(KubeConfigLoader):  # type: ignore[misc]  # the official client has no types
    """As the official one, but for credential plugins.

    What they say on standard error is evidence and no output, their keys stay in memory, and their failure is
    an error, not a log line and anonymous requests.
    """

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded.content, config_base_path=str(loaded.path.parent.absolute()))
        self._loaded = loaded

    def _load_from_exec_plugin(self) -> bool | None:
        user = self._loaded.content["users"][0]["user"]
        if "exec" not in user:
            return None
        status = _run_plugin(user["exec"], self._loaded.path)
        if status.get("token"):
            self.token = f"Bearer {register(str(status['token'])).reveal()}"
        else:
            for field_, attribute in (("clientCertificateData", "cert_file"), ("clientKeyData", "key_file")):
                if not status.get(field_):
                    raise _no(self._loaded.path, f"its credential plugin gave neither a token nor {field_}")
                register(str(status[field_]))
                content = str(status[field_]).encode()
                setattr(self, attribute, _in_memory(field_, content, self._loaded.descriptors))
        if status.get("expirationTimestamp"):
            self.expiry = datetime.fromisoformat(str(status["expirationTimestamp"]))
        return True


def _run_plugin(wanted: object, path: Path) -> dict[str, Any]:
    """Run a credential plugin (client.authentication.k8s.io, "Client authentication": ExecCredential)."""
    if not isinstance(wanted, dict) or not isinstance(wanted.get("command"), str):
        raise _no(path, "its credential plugin has no command")
    version = str(wanted.get("apiVersion", "client.authentication.k8s.io/v1"))
    asked = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    given = {str(it["name"]): str(it["value"]) for it in wanted.get("env") or ()}
    command = [wanted["command"], *map(str, wanted.get("args") or ())]
    if "/" in command[0]:
        command[0] = str(path.parent.absolute() / command[0])
    doing = f"the credential plugin {wanted['command']} of {path}"
    try:
        done = subprocess.run(
            command,
            env={**snapshot(), **given, "KUBERNETES_EXEC_INFO": json.dumps(asked)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PLUGIN_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentProblem(f"{doing} can't be run: {error}", "run it by hand") from None
    if done.returncode:
        raise EnvironmentProblem(
            f"{doing} ended with {done.returncode}", "run it by hand: log in again?", evidence=done.stderr
        )
    try:
        status = json.loads(done.stdout)["status"]
    except (ValueError, LookupError, TypeError):
        status = None
    if not isinstance(status, dict):
        raise EnvironmentProblem(f"{doing} gave no ExecCredential with a status", "run it by hand")
    return status


def contexts(path: Path) -> list[str]:
    """Names of the contexts of a kubeconfig. Raises UsageError."""
    return [entry["name"] for entry in _entries(_read(path), "contexts", path)]


def load(path: Path, context: str | None) -> Loaded:
    """The named context (None: the current one) with its cluster and user. Raises UsageError."""
    document = _read(path)
    named = context if context is not None else document.get("current-context")
    if not isinstance(named, str) or not named:
        raise _no(path, "names no current context")
    chosen = _pick(document, "contexts", "context", named, path)
    cluster = dict(_pick(document, "clusters", "cluster", chosen.get("cluster"), path))
    user = dict(_pick(document, "users", "user", chosen.get("user"), path)) if chosen.get("user") else {}
    if not isinstance(cluster.get("server"), str) or "://" not in cluster["server"]:
        raise _no(path, f"cluster {chosen.get('cluster')!r} has no server")
    register_url(cluster["server"])
    for name in _SECRET_FIELDS:
        if user.get(name) is not None:
            if not isinstance(user[name], str):
                raise _no(path, f"{name} of user {chosen['user']!r} is no text")
            register(user[name])
    loaded = Loaded(path)
    try:
        for part in (cluster, user):
            _bring_files(part, path, loaded.descriptors)
    except BaseException:
        loaded.close()
        raise
    loaded.content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": named,
        "contexts": [{"name": named, "context": {**chosen, "cluster": "cluster", "user": "user"}}],
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
    }
    return loaded


def expired(path: Path, context: str | None) -> str:
    """That a context's client certificate is no longer valid, and since when; else empty."""
    from cryptography import x509  # here: it takes long to load, and is seldom needed

    loaded = load(path, context)
    try:
        named = loaded.content["users"][0]["user"].get("client-certificate")
        if not named:
            return ""
        until = x509.load_pem_x509_certificate(Path(named).read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return ""  # what is wrong with it is not its age
    finally:
        loaded.close()
    if until > datetime.now(UTC):
        return ""
    return f"its client certificate has expired on {until:%Y-%m-%d %H:%M} UTC"


def _read(path: Path) -> dict[str, Any]:
    def complain(sentence: str) -> UsageError:
        return UsageError(sentence, HINT)

    try:
        document = parse_yaml(read_text(path, complain), path, complain)
    except FileNotFoundError:
        raise UsageError(f"there is no kubeconfig {path}", "check --kubeconfig") from None
    if not isinstance(document, dict):
        raise _no(path, "holds no mapping")
    return document


def _entries(document: dict[str, Any], part: str, path: Path) -> list[dict[str, Any]]:
    found = document.get(part)
    if not isinstance(found, list) or not found:
        raise _no(path, f"it has no {part}")
    if not all(isinstance(it, dict) and isinstance(it.get("name"), str) for it in found):
        raise _no(path, f"an entry of {part} has no name")
    return found


def _pick(document: dict[str, Any], part: str, what: str, name: object, path: Path) -> dict[str, Any]:
    entries = _entries(document, part, path)
    for entry in entries:
        if entry["name"] == name:
            found = entry.get(what)
            if not isinstance(found, dict):
                raise _no(path, f"{what} {name!r} is empty")
            return found
    there = ", ".join(sorted(entry["name"] for entry in entries)[:20])
    raise UsageError(f"{path} has no {what} {name!r}", f"it has: {there}")


def _bring_files(part: dict[str, Any], path: Path, descriptors: list[int]) -> None:
    """Put inline data into files in memory, and make paths absolute, as seen from the kubeconfig."""
    for name in _FILES:
        data = part.pop(f"{name}-data", None)
        if data:
            part[name] = _in_memory(name, _decoded(data, name, path), descriptors)
        elif isinstance(part.get(name), str) and part[name]:
            file = path.parent.absolute() / part[name]
            if not file.is_file():
                raise _no(path, f"{name}: there is no file {file}")
            part[name] = str(file)
        elif part.pop(name, None) is not None:
            raise _no(path, f"{name} is no path")
    token_file = part.get("tokenFile")
    if isinstance(token_file, str):
        part["tokenFile"] = str(path.parent.absolute() / token_file)


def _decoded(data: object, name: str, path: Path) -> bytes:
    try:
        decoded = base64.b64decode(str(data), validate=False)
    except (binascii.Error, ValueError):
        raise _no(path, f"{name}-data is not base64") from None
    if not decoded.lstrip().startswith(b"-----BEGIN"):
        raise _no(path, f"{name}-data is not PEM")
    if name == "client-key":
        register(decoded.decode(errors="replace"))
        register(str(data))
    return decoded


def _in_memory(name: str, content: bytes, descriptors: list[int]) -> str:
    descriptor = os.memfd_create(f"kubeconfig {name}", os.MFD_CLOEXEC)
    descriptors.append(descriptor)
    os.write(descriptor, content)
    return f"/proc/self/fd/{descriptor}"


def _no(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} is no kubeconfig of use: {why}", HINT)
