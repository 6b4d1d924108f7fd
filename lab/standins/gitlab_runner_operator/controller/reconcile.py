"""The reconciler. Order as in the real one: configuration, token, deployment, metrics, status."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from urllib.parse import urlencode

from . import render
from .api import Api, ApiError, Object
from .release import HERE as RELEASE

AUTHENTICATION_TOKEN_PREFIX = "glrt-"


class ReconcileError(Exception):
    """What the log and the Runner's ``status.message`` say."""


class Reconciler:
    def __init__(self, api: Api, log: Callable[..., None]) -> None:
        self.api = api
        self.log = log

    def reconcile(self, namespace: str, name: str) -> None:
        """Bring everything of one Runner up to date. Raises ReconcileError, ApiError, OSError."""
        path = f"/apis/apps.gitlab.com/v1beta2/namespaces/{namespace}/runners/{name}"
        runner = self.api.get(path)
        if runner is None or "deletionTimestamp" in runner["metadata"]:
            return  # owner references take the rest away
        self.log("INFO", "controllers.Runner", "Reconciling Runner", name=name, namespace=namespace)
        core = f"/api/v1/namespaces/{namespace}"
        try:
            for field in render.REFUSED:
                if runner["spec"].get(field):
                    raise ReconcileError(f"spec.{field} is not handled by the stand-in of the operator")
            self.api.apply(f"{core}/configmaps", render.config_map(runner))
            if not runner["spec"].get("serviceaccount"):
                for collection, obj in render.runner_rbac(namespace):
                    self.api.create_if_missing(collection, obj)
            authentication_token = self._token(core, runner)
            wanted = render.deployment(runner, authentication_token=authentication_token)
            self.api.apply(f"/apis/apps/v1/namespaces/{namespace}/deployments", wanted)
            self.api.apply(f"{core}/services", render.metrics_service(runner))
        except (ReconcileError, ApiError) as error:
            self._status(path, runner, {"phase": "Pending", "message": str(error)})
            raise
        self._status(path, runner, self._observed(core, runner))

    def _token(self, core: str, runner: Object) -> bool:
        """Check the token's secret, give it an empty ``runner-token``. True: an authentication token."""
        name = runner["spec"]["token"]
        secret = self.api.get(f"{core}/secrets/{name}")
        if secret is None:
            raise ReconcileError(f'Secret "{name}" not found')
        data = secret.get("data") or {}
        keys = RELEASE.token_keys
        given = [key for key in keys if key in data]
        if not given:
            raise ReconcileError(f"{keys[0]} key not found in {name} secret")
        if len(given) > 1:
            raise ReconcileError(f"only one of {' and '.join(given)} may be set in {name} secret")
        token = base64.b64decode(data[given[0]]).decode(errors="replace").strip()
        if not token:
            raise ReconcileError(f"{given[0]} can not be empty")
        if "runner-token" not in data and len(keys) == 1:
            self.api.merge(f"{core}/secrets/{name}", {"data": {"runner-token": ""}})
        return token.startswith(AUTHENTICATION_TOKEN_PREFIX)

    def _observed(self, core: str, runner: Object) -> Object:
        """Phase and registration from the pod's log.

        1.15.1 looks for the words of a registration. A ``glrt-`` token is verified, in other words: the phase
        of such a Runner stays Pending while it works; newer ones look for both.
        """
        selector = ",".join(f"{key}={value}" for key, value in render.labels(runner).items())
        pods = self.api.call("GET", f"{core}/pods?{urlencode({'labelSelector': selector})}")["items"]
        running = [pod for pod in pods if pod["status"].get("phase") == "Running"]
        if running:
            log = self.api.text(f"{core}/pods/{running[0]['metadata']['name']}/log?container=runner")
            found = re.search(r"Registering runner\.+ ([a-z]+)", log)
            if RELEASE.knows_verified:
                found = found or re.search(r"Verifying runner\.+ is ([a-z]+)", log)
            if found:
                return {"phase": "Running", "registration": found[1]}
        return {"phase": "Pending"}

    def _status(self, path: str, runner: Object, status: Object) -> None:
        status = {"message": None, "registration": None, **status}
        old = runner.get("status") or {}
        if any(old.get(key) != value for key, value in status.items()):
            self.api.merge(f"{path}/status", {"status": status})
