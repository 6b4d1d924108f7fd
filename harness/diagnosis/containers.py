"""Containers that wait, end or can't be started, whatever runs in them."""

from __future__ import annotations

import re

from harness.diagnosis.model import LOGS, SEEN_TWICE_S, TRANSIENT_S, Fact, Rule
from harness.errors import Blame
from harness.patience import slow_host

CRASHES_UNTIL_FINAL = 3
"""A container may lose a race once or twice while its peers start; after that it is broken."""
_NOT_YET = "what it needs may be made a moment later"
_RACES = "a container may lose a race once or twice while its peers start"


def limited_by_range(fact: Fact) -> bool:
    """A LimitRange gave the container its limit: the admission plugin says so on the pod."""
    notes = (fact.seen.get("metadata") or {}).get("annotations") or {}
    return "limit" in str(notes.get("kubernetes.io/limit-ranger", ""))


def limited_by_itself(fact: Fact) -> bool:
    """The container came with its own memory limit."""
    limits = [
        (container.get("resources") or {}).get("limits") or {}
        for container in (fact.seen.get("spec") or {}).get("containers", ())
    ]
    return not limited_by_range(fact) and any("memory" in it for it in limits)


def only_late(fact: Fact) -> bool:
    """Its liveness probe had the kubelet end it, on a host that is slow."""
    return "Liveness probe failed" in fact.text and bool(slow_host())


def crashed(fact: Fact) -> bool:
    """It has ended by a fault of its own."""
    return not only_late(fact)


def crashed_often(fact: Fact) -> bool:
    """The same, as often as no race explains."""
    return crashed(fact) and int(fact.seen.get("restartCount", 0)) >= CRASHES_UNTIL_FINAL


_LATE = r"failed to sync (secret|configmap) cache: timed out"


def _not_only_late(fact: Fact) -> bool:
    """A kubelet that is behind says "timed out" too, of no storage, and it ends no wait."""
    return not re.search(_LATE, fact.said)


RULES: tuple[Rule, ...] = (
    Rule(
        "container/limit-range",
        ("container", "service", "pod"),
        r"OOMKilled",
        Blame.ENVIRONMENT,
        "killed for want of memory, by a limit that a LimitRange of the namespace gave it",
        "raise or remove the LimitRange",
        SEEN_TWICE_S,
        "a second start may do with less",
        rank=85,
        when=limited_by_range,
    ),
    Rule(
        "container/own-limit",
        ("container", "service", "pod"),
        r"OOMKilled",
        Blame.PRODUCT,
        "killed for want of memory, by the limit that it came with",
        "raise the memory limit in the manifest that it comes from",
        SEEN_TWICE_S,
        "a second start may do with less",
        rank=84,
        when=limited_by_itself,
    ),
    Rule(
        "container/host-memory",
        ("container", "service", "pod"),
        r"OOMKilled",
        Blame.ENVIRONMENT,
        "killed because the host has too little memory",
        "use a host with more memory",
        SEEN_TWICE_S,
        "memory may be free the next time",
        rank=83,
    ),
    Rule(
        "container/config",
        ("container",),
        r"CreateContainerConfigError|couldn't find key|(secret|configmap) \"[^\"]*\" not found",
        Blame.PRODUCT,
        "what the container takes its settings from is not there",
        "see the Secret or ConfigMap that the message names",
        TRANSIENT_S,
        _NOT_YET,
        rank=60,
    ),
    Rule(
        "container/disk-full",
        ("container", "mount", *LOGS, "service"),
        r"no space left on device|disk quota exceeded|database or disk is full",
        Blame.ENVIRONMENT,
        "the disk is full",
        "make room on the node's disk",
        TRANSIENT_S,
        "the kubelet removes unused images when the disk fills up",
        rank=84,
    ),
    Rule(
        "container/host-limits",
        (*LOGS, "service"),
        r"too many open files|cannot allocate memory|runtime: out of memory|failed to create new OS thread",
        Blame.ENVIRONMENT,
        "a program gets too little of the host: open files, memory or threads",
        "raise the host's limits (ulimit -n, fs.inotify.max_user_instances), or use a larger host",
        TRANSIENT_S,
        "it starts again by itself, and may get it then",
        rank=75,
    ),
    Rule(
        "container/runtime",
        ("container",),
        r"(RunContainer|CreateContainer)Error.*(cannot allocate memory|read-only file system"
        r"|deadline ?exceeded|input/output error|name is reserved|containerd\.sock|transport is closing)",
        Blame.ENVIRONMENT,
        "the node's runtime can't start containers",
        "see the node's memory and disk, and the log of containerd",
        TRANSIENT_S,
        "a runtime that is busy starts it the next time",
        rank=62,
    ),
    Rule(
        "container/start",
        ("container",),
        r"RunContainerError|CreateContainerError|StartError|ContainerCannotRun",
        Blame.PRODUCT,
        "the container can't be started",
        "see the runtime's words: a missing program, a wrong user, a missing path",
        TRANSIENT_S,
        "a runtime that is busy starts it the next time",
        rank=58,
    ),
    Rule(
        "container/crashes",
        ("container",),
        r"CrashLoopBackOff|crashed",
        Blame.PRODUCT,
        "it ends again and again",
        "see its log, and that of its run before",
        0.0,
        f"{_RACES}; it has crashed {CRASHES_UNTIL_FINAL} times",
        rank=41,
        when=crashed_often,
    ),
    Rule(
        "container/crashed",
        ("container",),
        r"CrashLoopBackOff|crashed",
        Blame.PRODUCT,
        "it has ended",
        "see its log, and that of its run before",
        TRANSIENT_S,
        _RACES,
        rank=40,
        when=crashed,
    ),
    Rule(
        "container/too-slow",
        ("container",),
        r"Liveness probe failed",
        Blame.ENVIRONMENT,
        "it is ended before it is up: the host is too slow for its liveness probe",
        "use a host with more CPUs, or with less to do",
        None,
        "it starts again by itself, and may be up in time",
        rank=42,
        when=only_late,
    ),
    Rule(
        "container/probe",
        ("container",),
        r"Unhealthy|probe failed",
        Blame.PRODUCT,
        "its probe fails",
        "see its log",
        None,
        "a program that is slow to start fails its probe until it is up",
        rank=35,
    ),
    Rule(
        "container/kubelet-late",
        ("mount",),
        _LATE,
        Blame.ENVIRONMENT,
        "the node is behind: its kubelet has not yet read what the volume holds",
        "see the load of the node",
        None,
        "the kubelet asks again by itself, and nothing has failed yet",
        rank=59,
    ),
    Rule(
        "container/storage",
        ("mount",),
        r"timed out|deadline ?exceeded|connection refused|no route to host|input/output error"
        r"|stale file handle|exit status 32",
        Blame.ENVIRONMENT,
        "the storage of a volume does not answer the node",
        "see the storage server and the node's way to it",
        TRANSIENT_S,
        "the kubelet tries again after 1, 2, 4 … s",
        rank=57,
        when=_not_only_late,
    ),
    Rule(
        "container/mount",
        ("mount",),
        r"FailedMount|FailedAttachVolume|MountVolume|Unable to attach or mount",
        Blame.PRODUCT,
        "a volume of the pod can't be mounted",
        "see the Secret, ConfigMap or path that the message names",
        TRANSIENT_S,
        f"{_NOT_YET}; the kubelet tries again after 1, 2, 4 … s",
        rank=55,
        when=_not_only_late,
    ),
    Rule(
        "container/pod-failed",
        ("pod",),
        r"",
        Blame.PRODUCT,
        "the pod has failed",
        "see its log",
        TRANSIENT_S,
        "what owns it makes another; one that nobody owns is judged by who waits for it",
        rank=20,
    ),
    Rule(
        "container/try",
        ("try",),
        r"",
        Blame.PRODUCT,
        "a pod of the Job has failed",
        "see its log",
        None,
        "the Job tries again, with pauses of up to minutes; its own condition says when it gives up",
        rank=18,
    ),
    Rule(
        "container/scaled-down",
        ("object",),
        r"asks for 0 replicas",
        Blame.PRODUCT,
        "it was scaled to nothing, so nobody does its work",
        "kubectl scale it to 1",
        10.0,
        "somebody has to scale it up again",
        rank=61,
    ),
    Rule(
        "container/job-failed",
        ("job",),
        r"BackoffLimitExceeded|DeadlineExceeded|Job has reached|Job was active",
        Blame.PRODUCT,
        "a Job has used up its tries or its time",
        "see the log of its pods",
        0.0,
        "Kubernetes does not start it again",
        rank=40,
    ),
)
