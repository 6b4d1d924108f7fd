"""The API layer: the official client's dynamic part, with plain dicts in and out.

Kinds are named ``apiVersion/Kind`` ("v1/Pod", "apps/v1/Deployment") or ``plural.group``
("pods", "deployments.apps", "runners.apps.gitlab.com"). Everything applied goes by server-side apply
under our own field manager. One Kube may be shared between threads.
"""

from __future__ import annotations

import builtins
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
from kubernetes import client
from kubernetes.config.config_exception import ConfigException
from kubernetes.dynamic import DynamicClient
from kubernetes.stream import stream

from harness import kube_retry, proxy
from harness import kubeconfig as kubeconfigs
from harness.errors import EnvironmentProblem, UsageError
from harness.kube_errors import ApiError, ApiUnreachable, KindUnknown, WatchExpired, api_errors
from harness.kube_types import ExecResult, Kind, parse, selectors, text
from harness.kube_watch import Object, Watch
from harness.ownership import FIELD_MANAGER, LABEL, owned_by

__all__ = [
    "ApiError",
    "ApiUnreachable",
    "ExecResult",
    "Kind",
    "KindUnknown",
    "Kube",
    "Object",
    "Watch",
    "WatchExpired",
]

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
"""Longer than any admission webhook may take (30 s), so that its own message arrives."""

_POOL_CONNECTIONS = 32
"""More than layers, watches and pre-pulls that run at once; a smaller pool throws connections away."""


class _NoDiscovery:
    """Keeps DynamicClient from its own discovery: it caches in a file named after the API's address,
    which the next ephemeral cluster shares."""

    def __init__(self, client: DynamicClient, cache_file: str | None = None) -> None:
        del client, cache_file


class Kube:
    """A cluster's API.

    >>> kube = Kube(Path("kubeconfig"))
    >>> kube.get("apps/v1/Deployment", "coredns", "kube-system")["status"]["availableReplicas"]
    1

    Raises EnvironmentProblem for a kubeconfig that can't be read or lacks the context.
    """

    def __init__(self, kubeconfig: Path, context: str | None = None) -> None:
        self.kubeconfig = kubeconfig
        self.context = context
        try:
            self._loaded = kubeconfigs.load(kubeconfig, context)
        except UsageError as error:  # who took it from a user has said so already
            raise EnvironmentProblem(error.message, error.hint) from None
        weakref.finalize(self, self._loaded.close)
        self._dynamic = DynamicClient(self.new_client(), discoverer=_NoDiscovery)
        self._kinds: dict[str, Kind] = {}
        self._preferred: dict[str, str] = {}
        self._lock = threading.Lock()
        self.will_make: Callable[[str, str], None] | None = None
        """Told (kind, "namespace/name" or name) before an object that carries a run's id is made.

        With it, an object that was there before is never taken over.
        """

    def new_client(self) -> client.ApiClient:
        """The official client with this cluster's settings; no proxy for what runs on this host."""
        settings = client.Configuration()
        settings.connection_pool_maxsize = _POOL_CONNECTIONS
        try:
            self._loaded.configure(settings)
        except (ConfigException, OSError, ValueError, TypeError, LookupError) as error:
            raise EnvironmentProblem(
                f"kubeconfig {self.kubeconfig} (context {self.context or 'current'}) is of no use: {error}",
                kubeconfigs.HINT,
            ) from error
        if proxy.is_own(settings.host):  # the one setting that the websocket client (exec) heeds as well
            settings.no_proxy = ",".join(filter(None, (settings.no_proxy, urlsplit(settings.host).hostname)))
        settings.retries = urllib3.Retry(total=0)  # tenacity retries, where it is safe
        return self._api_client(settings)

    def _api_client(self, settings: client.Configuration) -> client.ApiClient:
        return client.ApiClient(settings)

    # -- requests ---------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, object] | None = None,
        content_type: str | None = None,
        timeout_s: float = READ_TIMEOUT_S,
    ) -> Any:
        """One request by path ("/version", "/readyz"): parsed JSON, or text where it is none.

        Reads and server-side apply are repeated while the server is overloaded or restarting; what could
        act twice (POST, DELETE) is sent once. Raises ApiError, ApiUnreachable.
        """
        once = method in ("POST", "DELETE") or timeout_s < kube_retry.RETRY_FOR_S
        send = kube_retry.once if once else kube_retry.again
        doing = f"{method} {path}"

        def attempt() -> Any:
            with (
                api_errors(doing),
                closing(self._open(method, path, body, query, content_type, timeout_s)) as got,
            ):
                return parse(got)

        return send(attempt)

    def _open(
        self,
        method: str,
        path: str,
        body: object,
        query: Mapping[str, object] | None,
        content_type: str | None,
        timeout_s: float,
        accept: str = "application/json, */*",
    ) -> Any:
        return self._dynamic.request(
            method,
            path,
            body=body,
            serialize=False,
            query_params=[(key, text(value)) for key, value in (query or {}).items()],
            header_params={"Accept": accept},
            content_type=content_type,
            _request_timeout=(CONNECT_TIMEOUT_S, timeout_s),
        )

    # -- discovery --------------------------------------------------------------------------------

    def kind(self, name: str) -> Kind:
        """Where a kind is served; looked up once and kept. Raises KindUnknown."""
        with self._lock:
            known = self._kinds.get(name)
        if known is not None:
            return known
        found = self._discover(name)
        with self._lock:
            self._kinds[name] = found
        return found

    def _discover(self, name: str) -> Kind:
        api_version, wanted = self._split(name)
        try:
            served = self.request("GET", f"/{'apis' if '/' in api_version else 'api'}/{api_version}")
        except ApiError as error:
            if error.status == 404:
                raise KindUnknown(f"the cluster serves no {name}", "is its CRD installed?") from None
            raise
        for item in served["resources"]:
            if "/" not in item["name"] and wanted in (item["kind"], item["name"]):
                return Kind(api_version, item["kind"], item["name"], bool(item["namespaced"]))
        raise KindUnknown(f"the cluster serves no {name}", "is its CRD installed?")

    def _split(self, name: str) -> tuple[str, str]:
        """``name`` as (apiVersion, kind or plural)."""
        if "/" in name:
            api_version, _, kind = name.rpartition("/")
            return api_version, kind
        plural, _, group = name.partition(".")
        if not group:
            return "v1", plural
        try:
            served = self.request("GET", f"/apis/{group}")
        except ApiError as error:
            if error.status == 404:
                raise KindUnknown(f"the cluster serves no {name}", "is its CRD installed?") from None
            raise
        return served["preferredVersion"]["groupVersion"], plural

    # -- objects ----------------------------------------------------------------------------------

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """An object, or None when there is none (or its kind isn't served yet)."""
        try:
            found: Object = self.request("GET", self.kind(kind).path(namespace, name))
        except KindUnknown:
            return None
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    def list(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> builtins.list[Object]:
        """The objects of a kind, in one namespace or in all. Raises KindUnknown."""
        return self.list_with_version(
            kind, namespace, label_selector=label_selector, field_selector=field_selector
        )[0]

    def list_with_version(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> tuple[builtins.list[Object], str]:
        """As ``list``, with the resource version to watch from."""
        where = self.kind(kind)
        answer = self.request("GET", where.path(namespace), query=selectors(label_selector, field_selector))
        items: builtins.list[Object] = answer["items"]
        for item in items:  # list items come without their type
            item.setdefault("apiVersion", where.api_version)
            item.setdefault("kind", where.kind)
        return items, answer["metadata"].get("resourceVersion", "")  # an API behind may have none

    def apply(self, manifest: Object, namespace: str | None = None, *, dry_run: bool = False) -> Object:
        """Server-side apply under our field manager, taking over conflicting fields."""
        where = self.kind(f"{manifest['apiVersion']}/{manifest['kind']}")
        metadata = manifest["metadata"]
        space = metadata.get("namespace") or namespace or "default"
        path = where.path(space, metadata["name"])
        if not dry_run:
            self._announce(manifest, where, space)
        query: dict[str, object] = {"fieldManager": FIELD_MANAGER, "force": True}
        if dry_run:
            query["dryRun"] = "All"
        applied: Object = self.request(
            "PATCH", path, body=manifest, query=query, content_type="application/apply-patch+yaml"
        )
        return applied

    def create(self, manifest: Object, namespace: str | None = None, *, dry_run: bool = False) -> Object:
        """Create; an object that is there already is an ApiError with status 409."""
        where = self.kind(f"{manifest['apiVersion']}/{manifest['kind']}")
        space = manifest["metadata"].get("namespace") or namespace or "default"
        path = where.path(space)
        if not dry_run:
            self._announce(manifest, where, space)
        query: dict[str, object] = {"fieldManager": FIELD_MANAGER}
        if dry_run:
            query["dryRun"] = "All"
        created: Object = self.request("POST", path, body=manifest, query=query)
        return created

    def _announce(self, manifest: Object, where: Kind, namespace: str) -> None:
        """Before one of a run's objects is made where others have theirs."""
        run_id = (manifest["metadata"].get("labels") or {}).get(LABEL)
        name = manifest["metadata"].get("name")
        if self.will_make is None or run_id is None or name is None:
            return
        kind = f"{where.api_version}/{where.kind}"
        there = self.get(kind, name, namespace if where.namespaced else None)
        if there is not None and not owned_by(there, run_id):
            raise EnvironmentProblem(
                f"{where.kind} {name} is there already and was not made by this run",
                "it stays as it is; use a cluster without it, or remove it by hand",
            )
        self.will_make(kind, f"{namespace}/{name}" if where.namespaced else name)

    def patch(
        self,
        kind: str,
        name: str,
        namespace: str | None,
        patch: Object | Sequence[Object],
        *,
        subresource: str | None = None,
    ) -> Object:
        """A merge patch (dict) or a JSON patch (list of operations)."""
        path = self.kind(kind).path(namespace, name, subresource)
        form = "merge-patch" if isinstance(patch, dict) else "json-patch"
        body = patch if isinstance(patch, dict) else list(patch)
        patched: Object = self.request(
            "PATCH",
            path,
            body=body,
            query={"fieldManager": FIELD_MANAGER},
            content_type=f"application/{form}+json",
        )
        return patched

    def delete(
        self, kind: str, name: str, namespace: str | None = None, *, propagation: str = "Background"
    ) -> bool:
        """Delete; False when it was not there."""
        try:
            self.request(
                "DELETE", self.kind(kind).path(namespace, name), query={"propagationPolicy": propagation}
            )
        except KindUnknown:
            return False
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    # -- streams ----------------------------------------------------------------------------------

    def watch(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        resource_version: str,
        timeout_s: float,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> Watch:
        """Changes since ``resource_version`` as (ADDED | MODIFIED | DELETED, object), until ``timeout_s``.

        Iterating raises WatchExpired when a new list is due; ``stop()`` ends it from any thread.
        """
        query = selectors(label_selector, field_selector)
        query |= {
            "watch": True,
            "resourceVersion": resource_version,
            "timeoutSeconds": max(1, int(timeout_s)),
        }
        path = self.kind(kind).path(namespace)
        with api_errors(f"watch {path}"):
            return Watch(self._open("GET", path, None, query, None, timeout_s + CONNECT_TIMEOUT_S), path)

    def logs(
        self,
        pod: str,
        namespace: str,
        container: str | None = None,
        *,
        tail_lines: int | None = None,
        limit_bytes: int | None = None,
        previous: bool = False,
        timeout_s: float = 20.0,
    ) -> str:
        """A container's log so far."""
        query = {
            "container": container,
            "tailLines": tail_lines,
            "limitBytes": limit_bytes,
            "previous": previous or None,
        }
        path = self.kind("v1/Pod").path(namespace, pod, "log")
        given = {key: value for key, value in query.items() if value is not None}
        # As text even where a log happens to be JSON: only the content type decides, and it is text/plain.
        return str(self.request("GET", path, query=given, timeout_s=timeout_s))

    def exec(
        self,
        pod: str,
        namespace: str,
        argv: Sequence[str],
        *,
        container: str | None = None,
        timeout_s: float = 30.0,
    ) -> ExecResult:
        """Run a command in a container and wait for it, at most ``timeout_s``."""
        # A client of its own: the official stream() swaps the client's transport while it connects.
        api = client.CoreV1Api(self.new_client())
        chosen = {"container": container} if container else {}
        with api_errors(f"exec in {namespace}/{pod}"):
            session = stream(
                api.connect_get_namespaced_pod_exec,
                pod,
                namespace,
                command=list(argv),
                stdout=True,
                stderr=True,
                stdin=False,
                tty=False,
                _preload_content=False,
                **chosen,
            )
            try:
                session.run_forever(timeout=timeout_s)
                out = session.read_stdout(timeout=0) or ""
                err = session.read_stderr(timeout=0) or ""
                code = -1 if session.is_open() else session.returncode
            finally:
                session.close()
        return ExecResult(out, err, code)
