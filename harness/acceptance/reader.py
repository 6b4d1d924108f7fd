"""Kube behind the border: the same reads, no changes, Secrets without their values, and what was read."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from kubernetes import client

from harness.acceptance.border import (
    METADATA_ONLY,
    TABLE,
    GuardedClient,
    MissingPermission,
    Refused,
    Request,
    refusal,
)
from harness.acceptance.rights import Depth
from harness.kube import READ_TIMEOUT_S, ApiError, ExecResult, Kube, Object
from harness.kube_errors import api_errors
from harness.kube_types import parse
from harness.options import ProvisionOptions

NOT_READ = "(not read)"


_READS = threading.local()
"""Where a thread notes what it reads; nothing is noted by threads that nobody asked to."""


@contextmanager
def noting(seen: list[str]) -> Iterator[None]:
    """Note in ``seen`` the objects that this thread reads of any cluster meanwhile."""
    _READS.seen = seen
    try:
        yield
    finally:
        _READS.seen = None


def depth_of(options: ProvisionOptions) -> Depth:
    """What the user lets an acceptance ask beyond reading."""
    return Depth(streams=not options.no_exec, dry_runs=not options.no_dry_run)


class ReadingKube(Kube):
    """A cluster's API for an acceptance. Raises Refused, MissingPermission, and what Kube raises.

    >>> ReadingKube(Path("kubeconfig"), "default").delete("v1/Pod", "p", "ns")
    Traceback (most recent call last):
    harness.acceptance.border.Refused: it would have to delete pods in namespace ns, which changes the …
    """

    def __init__(self, kubeconfig: Path, context: str | None, depth: Depth | None = None) -> None:
        self.depth = depth or Depth()
        super().__init__(kubeconfig, context)

    def _api_client(self, settings: client.Configuration) -> client.ApiClient:
        return GuardedClient(settings, self.depth)

    def _note(self, request: Request, what: str = "") -> None:
        seen = getattr(_READS, "seen", None)
        told = request.resource or request.path == "/version"
        if seen is not None and told and (said := f"{what}{request.object}") not in seen:
            seen.append(said)

    def request(self, method: str, path: str, **named: Any) -> Any:
        """As Kube's; a missing right is a MissingPermission."""
        query = named.get("query") or {}
        dry_run = "?dryRun=All" if query.get("dryRun") == "All" else ""
        request = Request.of(method, f"{path}{dry_run}")
        if why := refusal(request, self.depth, METADATA_ONLY):  # before discovery: it is refused anyhow
            raise Refused(why)
        with self._permitted(request):
            found = super().request(method, path, **named)
        self._note(request, "dry run: " if request.dry_run else "")
        return found

    @contextmanager
    def _permitted(self, request: Request) -> Iterator[None]:
        try:
            yield
        except ApiError as error:
            if error.status == 403 and "is forbidden: User" in error.api_message:
                raise MissingPermission(request.permission) from None
            raise

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """As Kube's; of a Secret type and keys, with no value."""
        if kind in ("v1/Secret", "secrets"):
            return self._secret(name, namespace or "default")
        return super().get(kind, name, namespace)

    def _secret(self, name: str, namespace: str) -> Object | None:
        """A Secret's type is in the table that `kubectl get` prints, its keys are in its managed fields."""
        path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
        try:
            metadata = self._as(path, METADATA_ONLY)["metadata"]
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        if not metadata.get("managedFields"):
            raise Refused(
                f"Secret {namespace}/{name} does not say which keys it has, but together with the values"
            )
        table = self._as(path, TABLE)
        columns = [it["name"] for it in table["columnDefinitions"]]
        kind = dict(zip(columns, table["rows"][0]["cells"], strict=True)).get("Type", "")
        keys = {
            key.removeprefix("f:")
            for entry in metadata.get("managedFields") or ()
            for part in ("f:data", "f:stringData")
            for key in (entry.get("fieldsV1") or {}).get(part) or ()
            if key.startswith("f:")
        }
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {key: value for key, value in metadata.items() if key != "managedFields"},
            "type": kind,
            "data": dict.fromkeys(sorted(keys), NOT_READ),
        }

    def _as(self, path: str, accept: str) -> Any:
        request = Request.of("GET", path)
        with (
            self._permitted(request),
            api_errors(f"GET {path}"),
            closing(self._open("GET", path, None, None, None, READ_TIMEOUT_S, accept)) as got,
        ):
            found = parse(got)
        self._note(request, "keys of ")
        return found

    def exec(
        self,
        pod: str,
        namespace: str,
        argv: Sequence[str],
        *,
        container: str | None = None,
        timeout_s: float = 30.0,
    ) -> ExecResult:
        """As Kube's, where --no-exec was not given."""
        request = Request.of("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}/exec")
        if why := refusal(request, self.depth):
            raise Refused(why)
        with self._permitted(request):
            done = super().exec(pod, namespace, argv, container=container, timeout_s=timeout_s)
        self._note(request, f"`{argv[0]}` by ")
        return done
