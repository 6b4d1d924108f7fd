"""Pods that get no node, or lose it: eviction, taints, too little of something."""

from __future__ import annotations

from harness.diagnosis.model import SEEN_TWICE_S, TRANSIENT_S, Rule
from harness.errors import Blame

_OTHERS_END = "pods that end free what this one needs; their grace period is 30 s"
_REPLACED = "its controller makes another at once; a replacement that is well makes this reason vanish"


def _rule(id: str, sign: str, meaning: str, do: str, **changes: object) -> Rule:
    given: dict[str, object] = {
        "sources": ("schedule", "ci"),
        "blame": Blame.ENVIRONMENT,
        "final_after_s": TRANSIENT_S,
        "why": _OTHERS_END,
        "rank": 60,
    }
    return Rule(id=id, sign=sign, meaning=meaning, do=do, **{**given, **changes})  # type: ignore[arg-type]


RULES: tuple[Rule, ...] = (
    _rule(
        "schedule/insufficient",
        r"Insufficient (cpu|memory|ephemeral-storage|\S+)|Too many pods",
        "the node has too little left for the pod",
        "use a larger host, or end what else runs on the node",
        rank=62,
    ),
    _rule(
        "schedule/pressure",
        r"node\.kubernetes\.io/(disk|memory|pid)-pressure",
        "the node is short of disk, memory or process ids and takes no pods",
        "make room on the host; `kubectl describe node` names what is short",
        rank=66,
    ),
    _rule(
        "schedule/node-not-ready",
        r"node\.kubernetes\.io/(not-ready|unreachable|network-unavailable)|node\.cloudprovider\S*uninitialized",
        "the node is not ready",
        "see the node's conditions and the log of its kubelet",
        why="a node that starts or restarts is ready within 45 s",
        final_after_s=45.0,
        rank=65,
    ),
    _rule(
        "schedule/cordoned",
        r"were unschedulable|node\.kubernetes\.io/unschedulable",
        "the node is cordoned",
        "kubectl uncordon it",
        final_after_s=SEEN_TWICE_S,
        why="somebody has to lift it",
        rank=65,
    ),
    _rule(
        "schedule/taint",
        r"untolerated taint",
        "the node has a taint that the pod does not tolerate",
        "remove the taint, or use a node without it",
        final_after_s=SEEN_TWICE_S,
        why="somebody has to lift it",
        rank=61,
    ),
    _rule(
        "schedule/selector",
        r"didn't match (Pod's )?node (affinity|selector)|anti-affinity|free ports",
        "no node is as the pod asks for",
        "see the pod's nodeSelector, affinity and host ports",
        final_after_s=SEEN_TWICE_S,
        why="labels of nodes and ports in use change only by somebody's hand",
    ),
    _rule(
        "schedule/volume",
        r"unbound immediate PersistentVolumeClaims|volume node affinity|persistentvolumeclaim .* not found",
        "the pod's volume is not there",
        "see the PersistentVolumeClaim and its storage class",
    ),
    _rule(
        "schedule/unknown",
        r"nodes are available|Unschedulable",
        "no node takes the pod, for a reason that is not known here",
        "see the scheduler's words",
        rank=30,
    ),
    _rule(
        "schedule/evicted",
        r"Evicted|The node was low on resource|node had condition|exceeds the limit",
        "the node evicted the pod",
        "make room on the host; `kubectl describe node` names what is short",
        sources=("pod",),
        why=_REPLACED,
        rank=64,
    ),
    _rule(
        "schedule/node-shutdown",
        r"NodeShutdown|node shutdown|Pod was terminated in response",
        "the node was shut down under the pod",
        "start the run again when the node is back",
        sources=("pod",),
        why=_REPLACED,
        rank=64,
    ),
    _rule(
        "schedule/rejected",
        r"OutOf\w+|NodeAffinity|UnexpectedAdmissionError|Preempt\w*|NodeLost|node .* lost|TaintManager",
        "the node did not take the pod, or took it off again",
        "see the kubelet's words",
        sources=("pod",),
        why=_REPLACED,
        rank=64,
    ),
)
