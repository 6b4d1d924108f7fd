"""The steps that faults are made of: each breaks one thing in a copy of a bundle, or in a running stack."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from harness.artifacts.bundle import Bundle
from harness.artifacts.storage import ImageRef, Storage, sha256_file
from harness.cluster import K3sCluster
from harness.gitlab.client import GitLabTarget, connect
from harness.kube import Kube
from harness.wait import wait_for

SUBSTITUTES = ("docker.io/kubesphere/kube-rbac-proxy:v0.8.0", "quay.io/brancz/kube-rbac-proxy:v0.8.0")
"""All that the lab has of the images that may replace kube-rbac-proxy."""

_END_S = 10.0
"""A killed process is gone in milliseconds; on a busy host in seconds."""

Object = dict[str, Any]


class FaultError(Exception):
    """A fault could not be injected: what it breaks is not there. A run would then prove nothing."""


@dataclass(frozen=True)
class Stack:
    """A running stack as a fault strikes it: through its API server, on its node, or in its GitLab."""

    kube: Kube
    cluster: K3sCluster
    gitlab: GitLabTarget | None = None


class BundleStep(Protocol):
    """Breaks an own copy of a bundle in place."""

    def damage(self, bundle: Path) -> None: ...


class StackStep(Protocol):
    """Breaks a running stack."""

    def strike(self, stack: Stack) -> None: ...


# --- on a bundle -----------------------------------------------------------------------------------------


def copy_bundle(source: Path, out: Path) -> None:
    """A copy of hard links to the files of `source`: steps replace files, they don't write in them."""
    shutil.copytree(source, out, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def overwrite(path: Path, content: bytes) -> None:
    """Put a new file in the old one's place: by hard link, the old one is the original bundle's as well."""
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(content)
    path.chmod(mode)


def relist(bundle: Path, **changes: Any) -> None:
    """Write bundle.toml anew with some fields of it changed."""
    changed = replace(Bundle.read(bundle), **changes)
    (bundle / "bundle.toml").unlink()
    changed.write()


@dataclass(frozen=True)
class Withhold:
    """The image is not in the registry; `listed`: though bundle.toml promises it."""

    ref: str
    listed: bool = False

    def damage(self, bundle: Path) -> None:
        ref = ImageRef.parse(self.ref)
        storage = Storage(bundle / "registry")
        digest = storage.digest(ref)
        others = [tag for tag in storage.tags(ref.repository) if tag != ref.tag]
        if others:
            manifests = storage.root / "docker/registry/v2/repositories" / ref.repository / "_manifests"
            shutil.rmtree(manifests / "tags" / ref.tag)
            if all(storage.digest(replace(ref, tag=tag)) != digest for tag in others):
                shutil.rmtree(manifests / "revisions" / digest.replace(":", "/"))
        else:
            storage.remove_repository(ref.repository)
        if not self.listed:
            relist(bundle, images=tuple(i for i in Bundle.read(bundle).images if i.ref != self.ref))


@dataclass(frozen=True)
class Truncate:
    """The second half of the image's biggest layer is gone."""

    ref: str

    def damage(self, bundle: Path) -> None:
        layer = biggest_layer(Storage(bundle / "registry"), self.ref)
        content = layer.read_bytes()
        overwrite(layer, content[: len(content) // 2])


@dataclass(frozen=True)
class Corrupt:
    """A byte in the middle of the image's biggest layer is another: its size is right, its digest is not."""

    ref: str

    def damage(self, bundle: Path) -> None:
        layer = biggest_layer(Storage(bundle / "registry"), self.ref)
        content = bytearray(layer.read_bytes())
        content[len(content) // 2] ^= 0xFF
        overwrite(layer, bytes(content))


def biggest_layer(storage: Storage, ref: str) -> Path:
    """Where the blob of the image's biggest layer lies."""
    manifest: Object = json.loads(storage.manifest(ImageRef.parse(ref)))
    layers = [storage.blob_path(layer["digest"]) for layer in manifest["layers"]]
    return max(layers, key=lambda path: path.stat().st_size)


@dataclass(frozen=True)
class Edit:
    """A file has other text: `new` for every `old`, or in place of all for an empty `old`.

    `listed`: bundle.toml keeps the old sha256, so that the change can be noticed.
    """

    path: str
    old: str
    new: str
    listed: bool = False

    def damage(self, bundle: Path) -> None:
        path = bundle / self.path
        content = self.new
        if self.old:
            text = path.read_text()
            if self.old not in text:
                raise FaultError(f"{path} does not contain {self.old!r}")
            content = text.replace(self.old, self.new)
        overwrite(path, content.encode())
        if not self.listed and self.path != "bundle.toml":
            listed = Bundle.read(bundle).files
            sha256 = sha256_file(path)
            relist(
                bundle, files=tuple(replace(f, sha256=sha256) if f.path == self.path else f for f in listed)
            )


@dataclass(frozen=True)
class Append:
    """A file has bytes more at its end than bundle.toml's sha256 is of: tampered with, or badly copied."""

    path: str
    content: bytes = b"\n"

    def damage(self, bundle: Path) -> None:
        overwrite(bundle / self.path, (bundle / self.path).read_bytes() + self.content)


@dataclass(frozen=True)
class Remove:
    """A file is not there, though bundle.toml promises it."""

    path: str

    def damage(self, bundle: Path) -> None:
        (bundle / self.path).unlink()


# --- on a running stack ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Create:
    """An object is there that should not be."""

    manifest: Object

    def strike(self, stack: Stack) -> None:
        stack.kube.create(self.manifest)


@dataclass(frozen=True)
class Delete:
    """An object is not there that should be."""

    kind: str
    name: str
    namespace: str | None = None

    def strike(self, stack: Stack) -> None:
        if not stack.kube.delete(self.kind, self.name, self.namespace):
            raise FaultError(f"{self.kind} {self.name} is not there to be deleted")


@dataclass(frozen=True)
class Patch:
    """An object is changed, or every object that carries the label: a merge patch or a JSON patch.

    `within_s`: how long to wait for the first that carries it.
    """

    kind: str
    patch: Object | Sequence[Object]
    name: str = ""
    namespace: str | None = None
    label: str = ""
    within_s: float = 0.0

    def strike(self, stack: Stack) -> None:
        found = [(self.name, self.namespace)]
        if self.label:
            found = wait_for(
                lambda: self._labelled(stack.kube),
                ready=bool,
                what=f"a {self.kind} that carries {self.label}",
                timeout_s=self.within_s,
            )
        for name, namespace in found:
            stack.kube.patch(self.kind, name, namespace, self.patch)

    def _labelled(self, kube: Kube) -> list[tuple[str, str | None]]:
        found = kube.list(self.kind, self.namespace, label_selector=self.label)
        return [(it["metadata"]["name"], it["metadata"].get("namespace")) for it in found]


@dataclass(frozen=True)
class Shows:
    """A blow before this one shows: a field of an object's status has the value."""

    kind: str
    name: str
    namespace: str
    field: str
    value: str
    within_s: float = 60.0

    def strike(self, stack: Stack) -> None:
        wait_for(
            lambda: stack.kube.get(self.kind, self.name, self.namespace),
            ready=lambda found: (found or {}).get("status", {}).get(self.field) == self.value,
            what=f"{self.kind} {self.name}: status.{self.field} is {self.value}",
            timeout_s=self.within_s,
        )


@dataclass(frozen=True)
class OnNode:
    """A shell command in the node's own namespaces."""

    script: str

    def strike(self, stack: Stack) -> None:
        done = stack.cluster.node_shell(["sh", "-c", self.script])
        if done.returncode:
            raise FaultError(f"on the node, `{self.script}` failed: {done.stderr.strip()}")


@dataclass(frozen=True)
class PauseRunners:
    """Somebody pauses every runner that GitLab shows."""

    def strike(self, stack: Stack) -> None:
        if stack.gitlab is None:
            raise FaultError("this stack has no GitLab")
        gl = connect(stack.gitlab)
        runners = gl.runners.list(get_all=True)
        if not runners:
            raise FaultError(f"{stack.gitlab.url} shows no runner to be paused")
        for runner in runners:
            gl.http_put(f"/runners/{runner.id}", post_data={"paused": True})


@dataclass(frozen=True)
class StopRegistry:
    """The registry that this stack's node pulls from ends."""

    def strike(self, stack: Stack) -> None:
        stop_registry(stack.cluster)


def _end(pid: int) -> None:
    """Kill a process, and return when its sockets are closed, so that another may take its port."""
    descriptor = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        ended, _, _ = select.select([descriptor], [], [], _END_S)
    finally:
        os.close(descriptor)
    if not ended:
        raise FaultError(f"process {pid} was killed and is still there after {_END_S:.0f} s")


def stop_registry(cluster: K3sCluster) -> Path:
    """End the registry that the cluster's node pulls from; its configuration file."""
    config = cluster.state_dir / "registry" / "registry.yaml"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if os.fsencode(config) in arguments:
            _end(int(process.name))
            return config
    raise FaultError(f"no process serves {config}")
