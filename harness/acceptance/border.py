"""The border of an acceptance: no request passes that would change something, or that was not announced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes import client

from harness.acceptance.rights import DRY_RUNS, STREAMS, Depth
from harness.errors import Blame, HarnessError
from harness.graph import Inapplicable
from harness.verdict import NOT_PERMITTED

METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"
"""Ways of asking for a Secret whose answers hold no value: its metadata, and what `kubectl get` prints."""

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_DISCOVERY = ("/api", "/apis", "/version", "/readyz", "/livez", "/healthz", "/openapi")


class Refused(HarnessError, Inapplicable):
    """A request that this run does not make; the outcome that asked for it can't be judged without it."""

    blame = Blame.ENVIRONMENT

    def __init__(self, why: str) -> None:
        HarnessError.__init__(self, why)
        self.why = why


class MissingPermission(HarnessError, Inapplicable):
    """The kubeconfig's user lacks a right; ``permission`` is the same words for all who miss the same one."""

    blame = Blame.ENVIRONMENT

    def __init__(self, permission: str) -> None:
        why = f"the kubeconfig's user may not {permission}"
        HarnessError.__init__(self, why, "grant what `pytest --show-rbac` prints", reason_id=NOT_PERMITTED)
        self.permission, self.why = permission, why


@dataclass(frozen=True)
class Request:
    """A request as RBAC sees it. ``resource`` is empty for what is no resource (discovery, /version)."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    dry_run: bool
    path: str

    @classmethod
    def of(cls, method: str, url: str) -> Request:
        """From a method and a URL."""
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        group, resource, namespace, name = _resource(parts.path)
        verb = _VERBS.get(method.upper(), "")
        if not verb:
            verb = "get" if name or not resource else "list"
            verb = "watch" if query.get("watch", [""])[0] in ("true", "1") else verb
        dry_run = query.get("dryRun") == ["All"]
        return cls(verb, group, resource, namespace, name, dry_run, parts.path)

    @property
    def changes(self) -> bool:
        """Whether it would change something."""
        return self.verb in _VERBS.values() and not self.dry_run

    @property
    def permission(self) -> str:
        """``list pods in namespace ci``: the right that it needs."""
        named = f"{self.resource}.{self.group}" if self.group else self.resource or self.path
        return f"{self.verb} {named}" + (f" in namespace {self.namespace}" if self.namespace else "")

    @property
    def object(self) -> str:
        """``deployments.apps ci/gitlab-runner``: what it reads, for who wants to look at the same."""
        if not self.resource:
            return self.path
        named = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{named} {'/'.join(filter(None, (self.namespace, self.name or '*')))}"


def _resource(path: str) -> tuple[str, str, str, str]:
    """(group, resource with its subresource, namespace, name) of a path."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        group, rest = "", parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, rest = parts[1], parts[3:]
    else:
        return "", "", "", ""
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource, name = rest[0], rest[1] if len(rest) > 1 else ""
    if resource == "namespaces" and name:
        namespace = ""
    return group, "/".join([resource, *rest[2:3]]), namespace, name


def refusal(request: Request, depth: Depth, accept: str = "") -> str:
    """Why a request does not pass; empty when it does. ``accept``: its header of that name."""
    if not request.resource:
        plain = request.verb == "get" and request.path.startswith(_DISCOVERY)
        return "" if plain else f"{request.verb} {request.path} is no part of an acceptance"
    asked = (request.group, request.resource, request.verb)
    if any(right.grants(*asked) for right in STREAMS):
        return "" if depth.streams else f"it would have to {request.permission}, and --no-exec was given"
    if request.changes:
        what = f"{request.verb} {request.object}"
        return f"it would have to {what}, which changes the cluster; an acceptance only reads"
    if request.dry_run:
        if not depth.dry_runs:
            return f"it would have to ask with a dry run ({request.permission}), and --no-dry-run was given"
        if any(right.grants(*asked) for right in DRY_RUNS):
            return ""
        return f"it would have to ask with a dry run that was not announced ({request.permission})"
    if request.resource == "secrets" and request.name and accept not in (METADATA_ONLY, TABLE):
        return "the value of a Secret is never read"
    if any(right.grants(*asked) for right in depth.rights()):
        return ""
    return f"{request.permission} was not announced"


class GuardedClient(client.ApiClient):  # type: ignore[misc]  # the official client has no types
    """The official client behind the border. Streams put their own transport in ``call_api``'s place, and
    are guarded as well: whatever is put there is wrapped."""

    def __init__(self, settings: Any, depth: Depth) -> None:
        self._depth = depth
        self._send: Callable[..., Any] = super().call_api
        super().__init__(settings)

    @property
    def call_api(self) -> Callable[..., Any]:
        """The transport, guarded."""
        send, depth = self._send, self._depth

        def guarded(
            method: str, url: str, header_params: Mapping[str, str] | None = None, *rest: Any, **named: Any
        ) -> Any:
            accept = next((v for k, v in (header_params or {}).items() if k.lower() == "accept"), "")
            why = refusal(Request.of(method, url), depth, accept)
            if why:
                raise Refused(why)
            return send(method, url, header_params, *rest, **named)

        return guarded

    @call_api.setter
    def call_api(self, send: Callable[..., Any]) -> None:
        self._send = send
