"""Leader election over a Lease, with the times that controller-runtime uses."""

from __future__ import annotations

import datetime
import os
import time
import uuid

from .api import Api, ApiError, Object

LEASE_NAME = "runner-controller-manager.gitlab.com"
LEASE_DURATION_S = 15
RENEW_DEADLINE_S = 10
RETRY_S = 2


class Election:
    """Whether this process may act. Nothing is released at the end: a successor waits, as in the real one."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.identity = f"{os.uname().nodename}_{uuid.uuid4()}"
        self.path = f"/apis/coordination.k8s.io/v1/namespaces/{api.namespace}/leases"
        self._seen: tuple[str, float] = (
            "",
            0.0,
        )  # the other's last renewal as written, and when we first saw it

    def acquire(self) -> None:
        """Block until we lead."""
        while not self._try():
            time.sleep(RETRY_S)
        self._announce()

    def keep(self) -> None:
        """Renew for ever; return when the lease could not be renewed in time."""
        renewed = time.monotonic()
        while time.monotonic() - renewed < RENEW_DEADLINE_S:
            time.sleep(RETRY_S)
            if self._try():
                renewed = time.monotonic()

    def _try(self) -> bool:
        try:
            return self._write(self.api.get(f"{self.path}/{LEASE_NAME}"))
        except (ApiError, OSError):
            return False

    def _write(self, lease: Object | None) -> bool:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        old = (lease or {}).get("spec", {})
        ours = old.get("holderIdentity") == self.identity
        if lease and not ours and old.get("holderIdentity") and not self._expired(old):
            return False
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": LEASE_DURATION_S,
            "acquireTime": old["acquireTime"] if ours else now,
            "renewTime": now,
            "leaseTransitions": old.get("leaseTransitions", 0) + (0 if ours or not lease else 1),
        }
        if lease is None:
            metadata: Object = {"name": LEASE_NAME, "namespace": self.api.namespace}
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
            self.api.call("POST", self.path, {**body, "spec": spec})
        else:  # the resource version in it makes this fail if somebody else was quicker
            self.api.call("PUT", f"{self.path}/{LEASE_NAME}", {**lease, "spec": spec})
        return True

    def _expired(self, spec: Object) -> bool:
        """By our own clock: since when has the holder's renewal not moved?"""
        if self._seen[0] != spec.get("renewTime", ""):
            self._seen = (spec.get("renewTime", ""), time.monotonic())
        return time.monotonic() - self._seen[1] > spec.get("leaseDurationSeconds", LEASE_DURATION_S)

    def _announce(self) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{LEASE_NAME}.", "namespace": self.api.namespace},
            "involvedObject": {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "name": LEASE_NAME,
                "namespace": self.api.namespace,
            },
            "reason": "LeaderElection",
            "message": f"{self.identity} became leader",
            "source": {"component": self.identity},
            "type": "Normal",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        self.api.call("POST", f"/api/v1/namespaces/{self.api.namespace}/events", event)
