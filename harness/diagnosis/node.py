"""The node and the host below it."""

from __future__ import annotations

from harness.diagnosis.model import TRANSIENT_S, Rule
from harness.errors import Blame

_THREE_TRIES = "the kubelet tries again every 12 s or so"

RULES: tuple[Rule, ...] = (
    Rule(
        "node/not-ready",
        ("node",),
        r"Ready=(False|Unknown)",
        Blame.ENVIRONMENT,
        "the node is not ready",
        "see the node's conditions and the log of its kubelet",
        45.0,
        "a node that starts or restarts is ready within 45 s",
        rank=68,
    ),
    Rule(
        "node/pressure",
        ("node",),
        r"(Disk|Memory|PID)Pressure=True",
        Blame.ENVIRONMENT,
        "the node is short of disk, memory or process ids",
        "make room on the host",
        None,
        "the kubelet makes room by itself where it can; what it evicts is a reason of its own",
        rank=45,
    ),
    Rule(
        "node/overloaded",
        ("node",),
        r"load of .* on \d+ CPUs|says that it is slow",
        Blame.ENVIRONMENT,
        "the host is overloaded or slow, so this may only be late",
        "run it when the host is idle, or on more CPUs",
        None,
        "a slow host is no failure; only the wait's own limit ends it",
        rank=22,
    ),
    Rule(
        "node/ended",
        ("node", "step"),
        r"k3s (has )?ended|its keeper ended|the cluster .*(ended|is gone)",
        Blame.ENVIRONMENT,
        "the cluster has ended under the run",
        "see the end of k3s's log; then start anew",
        0.0,
        "nobody starts it again",
        rank=90,
    ),
    Rule(
        "node/clock",
        ("node",),
        r"clock",
        Blame.ENVIRONMENT,
        "clocks differ",
        "set the clocks by NTP: tokens and certificates are only valid at their time",
        None,
        "it harms only what checks times",
        rank=24,
    ),
    Rule(
        "node/no-addresses",
        ("sandbox",),
        r"no IP addresses available|failed to allocate for range",
        Blame.ENVIRONMENT,
        "the node has no address left for another pod",
        "use a node with fewer pods, or a larger pod network",
        TRANSIENT_S,
        _THREE_TRIES,
        rank=72,
    ),
    Rule(
        "node/network",
        ("sandbox",),
        r"network plugin|cni|plugin type=|setup network for sandbox|networkPlugin",
        Blame.ENVIRONMENT,
        "the node's pod network does not work",
        "see the CNI plugin and the kubelet's log",
        TRANSIENT_S,
        _THREE_TRIES,
        rank=58,
    ),
    Rule(
        "node/sandbox",
        ("sandbox",),
        r"",
        Blame.ENVIRONMENT,
        "the node can't start the pod at all",
        "see the kubelet's words and the log of containerd",
        TRANSIENT_S,
        _THREE_TRIES,
        rank=28,
    ),
)
