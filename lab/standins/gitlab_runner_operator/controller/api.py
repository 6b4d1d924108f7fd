"""As much of a Kubernetes client as this controller needs: requests, server-side apply, watches."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

Object = dict[str, Any]
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REQUEST_TIMEOUT_S = 30
WATCH_TIMEOUT_S = 300
FIELD_MANAGER = "gitlab-runner-operator"


class ApiError(Exception):
    """The API server's refusal: its message, and the HTTP status in ``code``."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Api:
    """The API server as the pod's service account sees it. One connection a thread."""

    def __init__(self) -> None:
        self.host = os.environ["KUBERNETES_SERVICE_HOST"]
        self.port = int(os.environ.get("KUBERNETES_SERVICE_PORT", "443"))
        self.namespace = (ACCOUNT / "namespace").read_text().strip()
        self.tls = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        self._local = threading.local()

    def _open(self, timeout_s: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=self.tls)

    def _headers(self, content_type: str) -> dict[str, str]:
        # The kubelet renews the token's file, so it is read each time.
        token = (ACCOUNT / "token").read_text().strip()
        return {
            "Authorization": f"Bearer {token}",
            "Content-Type": content_type,
            "User-Agent": "manager/v0.0.0 (linux/amd64)",
        }

    def _send(self, method: str, path: str, body: Any, content_type: str) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body).encode()
        for attempt in (1, 2):
            connection = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = self._open(REQUEST_TIMEOUT_S)
            try:
                connection.request(method, path, body=data, headers=self._headers(content_type))
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                self._local.connection = None
                # The server may have closed a kept connection; when a new one fails, that is an error.
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def text(self, path: str) -> str:
        status, data = self._send("GET", path, None, "application/json")
        if status >= 300:
            raise _error(status, data)
        return data.decode(errors="replace")

    def call(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Object:
        status, data = self._send(method, path, body, content_type)
        if status >= 300:
            raise _error(status, data)
        found: Object = json.loads(data)
        return found

    def get(self, path: str) -> Object | None:
        try:
            return self.call("GET", path)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def create_if_missing(self, collection: str, obj: Object) -> None:
        if self.get(f"{collection}/{obj['metadata']['name']}") is None:
            try:
                self.call("POST", collection, obj)
            except ApiError as error:
                if error.code != 409:
                    raise

    def apply(self, collection: str, obj: Object) -> Object:
        """Server-side apply: no write where nothing differs, and hand edits of what we own are undone."""
        query = urlencode({"fieldManager": FIELD_MANAGER, "force": "true"})
        path = f"{collection}/{obj['metadata']['name']}?{query}"
        return self.call("PATCH", path, obj, "application/apply-patch+yaml")

    def merge(self, path: str, patch: Object) -> Object:
        return self.call("PATCH", path, patch, "application/merge-patch+json")

    def follow(self, path: str, selector: str, handle: Callable[[str, Object], None]) -> None:
        """List once and watch until the server ends it, calling ``handle(event type, object)``."""
        query = {"labelSelector": selector} if selector else {}
        listed = self.call("GET", f"{path}?{urlencode(query)}")
        for item in listed["items"]:
            handle("ADDED", item)
        version = listed["metadata"]["resourceVersion"]
        watch = {**query, "watch": "1", "resourceVersion": version, "timeoutSeconds": str(WATCH_TIMEOUT_S)}
        for event in self._events(f"{path}?{urlencode(watch)}"):
            if event["type"] == "ERROR":  # 410 Gone and the like: the caller lists anew
                return
            handle(event["type"], event["object"])

    def _events(self, path: str) -> Iterator[Object]:
        connection = self._open(WATCH_TIMEOUT_S + REQUEST_TIMEOUT_S)
        try:
            connection.request("GET", path, headers=self._headers("application/json"))
            response = connection.getresponse()
            if response.status >= 300:
                raise _error(response.status, response.read())
            for line in response:
                yield json.loads(line)
        finally:
            connection.close()


def _error(status: int, data: bytes) -> ApiError:
    try:
        message = json.loads(data)["message"]
    except (ValueError, KeyError, TypeError):
        message = data.decode(errors="replace") or f"HTTP {status}"
    return ApiError(status, message)
