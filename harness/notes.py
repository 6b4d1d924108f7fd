"""What is wrong beside what was asked for: noted under the verdict, and no reason for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from harness.diagnosis.facts import node_facts
from harness.errors import HarnessError
from harness.gitlab.client import connect
from harness.gitlab.errors import gitlab_errors
from harness.kube import Kube
from harness.kube_errors import ApiUnreachable
from harness.redact import redact
from harness.stack import StackContext, gitlab
from harness.stack.operator import SUBSCRIPTION

SKEW_S = 30.0
"""Tokens and certificates begin a few seconds before they are made, so that less than this harms nobody."""
_LEFT_OUT: tuple[type[Exception], ...] = (HarnessError, KeyError, TypeError, ValueError)
"""The API or GitLab can't be asked, and what failed by that says so itself; or objects have another shape."""
_LEASE_EVERY_S = 10.0
"""A kubelet renews its lease this often: so old may the newest be on a node whose clock is right."""


def notes(ctx: StackContext) -> list[str]:
    """One look at a stack's surroundings. Never raises: what can't be looked at is left out."""
    found: list[str] = []
    for look in (_apis, _nodes, _subscriptions, _accounts, _node_clock):
        try:
            found += look(ctx)
        except ApiUnreachable:
            break  # the next look would only wait as long again
        except _LEFT_OUT:
            continue
    with contextlib.suppress(*_LEFT_OUT):
        found += _gitlab_clock(ctx)
    return [redact(note) for note in found]


def _apis(ctx: StackContext) -> Iterator[str]:
    for it in ctx.kube.list("apiregistration.k8s.io/v1/APIService"):
        for condition in it.get("status", {}).get("conditions") or ():
            if condition["type"] == "Available" and condition["status"] != "True":
                yield f"APIService {it['metadata']['name']} is not available: {condition.get('message', '')}"


def _nodes(ctx: StackContext) -> Iterator[str]:
    for fact in node_facts(ctx.kube.list("v1/Node")):
        yield f"{fact.where}: {fact.text}"


def _subscriptions(ctx: StackContext) -> Iterator[str]:
    ours = ctx.profile.operator.subscription_name
    for it in ctx.kube.list(SUBSCRIPTION):
        name = it["metadata"]["name"]
        for condition in it.get("status", {}).get("conditions") or ():
            failed = condition["type"] in ("ResolutionFailed", "BundleUnpackFailed")
            if name != ours and failed and condition["status"] == "True":
                where = f"{it['metadata']['namespace']}/{name}"
                told = f"{condition['type']}: {condition.get('message', '')}"
                yield f"Subscription {where}, not the how-to's: {told}"


def _accounts(ctx: StackContext) -> Iterator[str]:
    for namespace in sorted({it["metadata"]["namespace"] for it in _runners(ctx.kube)}):
        if ctx.kube.get("v1/ServiceAccount", "default", namespace) is None:
            yield f"namespace {namespace} has no ServiceAccount default, which most pods need"


def _runners(kube: Kube) -> list[dict[str, Any]]:
    return kube.list("runners.apps.gitlab.com")


def _node_clock(ctx: StackContext) -> Iterator[str]:
    silent = {fact.where for fact in node_facts(ctx.kube.list("v1/Node")) if fact.text.startswith("Ready=")}
    for it in ctx.kube.list("coordination.k8s.io/v1/Lease", "kube-node-lease"):
        if f"node {it['metadata']['name']}" in silent:
            continue  # an old lease says nothing of the clock of who renews none
        renewed = datetime.fromisoformat(it["spec"]["renewTime"]).timestamp()
        behind = time.time() - renewed
        if behind < -SKEW_S or behind > SKEW_S + _LEASE_EVERY_S:
            yield _skew(f"node {it['metadata']['name']}", -behind)


def _gitlab_clock(ctx: StackContext) -> Iterator[str]:
    target = gitlab.attach(ctx)
    with gitlab_errors("asking for the time", target.url):
        answer = connect(target, patient=False).http_request("get", "/version")
    told = answer.headers.get("Date")
    ahead = parsedate_to_datetime(told).timestamp() - time.time() if told else 0.0
    if abs(ahead) > SKEW_S:
        yield _skew(f"GitLab at {target.url}", ahead)


def _skew(whose: str, ahead_s: float) -> str:
    side = "ahead of" if ahead_s > 0 else "behind"
    now = datetime.now(UTC).strftime("%H:%M:%SZ")
    return f"the clock of {whose} is {abs(ahead_s):.0f} s {side} this machine's ({now})"
