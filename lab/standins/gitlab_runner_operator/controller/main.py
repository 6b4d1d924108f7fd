"""The process: flags, log, work queue, watches, metrics, leadership, signals."""

from __future__ import annotations

import argparse
import datetime
import heapq
import json
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any

from . import webhook
from .api import Api, ApiError, Object
from .election import LEASE_NAME, Election
from .reconcile import ReconcileError, Reconciler
from .release import HERE as RELEASE

OWNED = "app.kubernetes.io/managed-by=gitlab-runner-operator"
RETRY_FIRST_S, RETRY_MAX_S = 0.005, 1000.0
"""controller-runtime's back-off: doubled at each failure in a row."""
RESYNC_S = 1.0
"""Pause before a watch that ended or failed is set up again."""


def log(level: str, name: str, message: str, /, **fields: Any) -> None:
    """A line as zap's console encoder writes it."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    parts = [now, level, name, message, *([json.dumps(fields)] if fields else [])]
    print("\t".join(parts), file=sys.stderr, flush=True)


class Queue:
    """Keys to reconcile, each at most once, each not before its time."""

    def __init__(self) -> None:
        self._due: dict[tuple[str, str], float] = {}
        self._heap: list[tuple[float, tuple[str, str]]] = []
        self._changed = threading.Condition()

    def add(self, key: tuple[str, str], delay_s: float = 0.0) -> None:
        due = time.monotonic() + delay_s
        with self._changed:
            if due < self._due.get(key, float("inf")):
                self._due[key] = due
                heapq.heappush(self._heap, (due, key))
                self._changed.notify()

    def take(self) -> tuple[str, str]:
        with self._changed:
            while True:
                now = time.monotonic()
                if self._heap and self._heap[0][0] <= now:
                    due, key = heapq.heappop(self._heap)
                    if self._due.get(key) == due:
                        del self._due[key]
                        return key
                else:
                    self._changed.wait(self._heap[0][0] - now if self._heap else None)


class Manager:
    def __init__(self, api: Api) -> None:
        self.api = api
        self.queue = Queue()
        self.counts = {"success": 0, "error": 0}
        self.leading = False
        watched = [name for name in os.environ.get("WATCH_NAMESPACES", "").split(",") if name]
        self.scopes = [f"/namespaces/{name}" for name in watched] or [""]

    def watch(self, group: str, scope: str, resource: str, selector: str) -> None:
        """Queue the Runner behind every object that changes, for ever."""

        def handle(kind: str, obj: Object) -> None:
            meta = obj["metadata"]
            owner = [ref["name"] for ref in meta.get("ownerReferences", ()) if ref["kind"] == "Runner"]
            for name in owner if selector else [meta["name"]]:
                self.queue.add((meta["namespace"], name))

        while True:
            try:
                self.api.follow(f"{group}{scope}/{resource}", selector, handle)
            except (ApiError, OSError, ValueError) as error:
                log("ERROR", "controller-runtime.source", "watch ended", resource=resource, error=str(error))
            time.sleep(RESYNC_S)

    def work(self) -> None:
        """Reconcile what is queued; what fails comes back later and later."""
        reconciler = Reconciler(self.api, log)
        failures: dict[tuple[str, str], int] = {}
        while True:
            key = self.queue.take()
            namespace, name = key
            try:
                reconciler.reconcile(namespace, name)
            except (ReconcileError, ApiError, OSError) as error:
                fields = {"reconciler group": "apps.gitlab.com", "reconciler kind": "Runner"}
                fields |= {"name": name, "namespace": namespace, "error": str(error)}
                log("ERROR", "controller.runner", "Reconciler error", **fields)
                self.counts["error"] += 1
                failures[key] = failures.get(key, 0) + 1
                # 18 doublings reach the maximum
                self.queue.add(key, min(RETRY_FIRST_S * 2 ** min(failures[key], 18), RETRY_MAX_S))
            else:
                self.counts["success"] += 1
                failures.pop(key, None)

    def metrics(self) -> str:
        lines = ["# TYPE controller_runtime_reconcile_total counter"]
        for result, count in self.counts.items():
            lines.append(
                f'controller_runtime_reconcile_total{{controller="runner",result="{result}"}} {count}'
            )
        lines.append("# TYPE leader_election_master_status gauge")
        lines.append(f'leader_election_master_status{{name="{LEASE_NAME}"}} {int(self.leading)}')
        return "\n".join(lines) + "\n"

    def lead(self, elect: bool) -> None:
        """Act as leader until leadership is lost."""
        election = Election(self.api)
        if elect:
            lease = f"{self.api.namespace}/{LEASE_NAME}"
            log("INFO", "setup", f"attempting to acquire leader lease {lease}...")
            election.acquire()
            log("INFO", "setup", f"successfully acquired lease {lease}")
        self.leading = True
        for scope in self.scopes:
            for group, resource, selector in (
                ("/apis/apps.gitlab.com/v1beta2", "runners", ""),
                ("/apis/apps/v1", "deployments", OWNED),
                ("/api/v1", "services", OWNED),
            ):
                arguments = (group, scope, resource, selector)
                threading.Thread(target=self.watch, args=arguments, daemon=True).start()
        log("INFO", "controller.runner", "Starting Controller")
        threading.Thread(target=self.work, daemon=True).start()
        if not elect:
            threading.Event().wait()
        election.keep()
        log("ERROR", "setup", "problem running manager", error="leader election lost")


def die(failed: threading.ExceptHookArgs) -> None:
    """A thread that meets the unexpected takes the process with it: the kubelet starts it anew."""
    traceback.print_exception(failed.exc_value)
    os._exit(2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="manager")
    parser.add_argument("--metrics-addr", "--metrics-bind-address", default=":8080")
    parser.add_argument("--enable-leader-election", "--leader-elect", action="store_true")
    parser.add_argument("--version", action="version", version=f"{RELEASE.version} (stand-in)")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    threading.excepthook = die
    manager = Manager(Api())
    webhook.serve_metrics(options.metrics_addr, manager.metrics)
    log(
        "INFO",
        "controller-runtime.metrics",
        "metrics server is starting to listen",
        addr=options.metrics_addr,
    )
    if webhook.serve_webhooks():
        log("INFO", "controller-runtime.webhook", "serving webhook server", host="", port=9443)
    else:
        log("INFO", "setup", f"no certificate in {webhook.CERTIFICATES}: webhooks are off")
    log("INFO", "setup", "starting manager", version=f"{RELEASE.version} (stand-in)")
    manager.lead(options.enable_leader_election)
    os._exit(1)
