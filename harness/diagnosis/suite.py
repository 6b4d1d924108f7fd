"""Endings of the suite's own: a full disk on this machine, a worker that died, a defect."""

from __future__ import annotations

from harness.diagnosis.model import Rule
from harness.errors import Blame


def _rule(id: str, sign: str, meaning: str, do: str, **changes: object) -> Rule:
    given: dict[str, object] = {
        "sources": ("step",),
        "blame": Blame.ENVIRONMENT,
        "final_after_s": 0.0,
        "why": "it has happened",
        "rank": 60,
    }
    return Rule(id=id, sign=sign, meaning=meaning, do=do, **{**given, **changes})  # type: ignore[arg-type]


RULES: tuple[Rule, ...] = (
    _rule(
        "suite/disk-full",
        r"No space left on device|Disk quota exceeded",
        "this machine's disk is full",
        "make room where the state and the reports are written",
    ),
    _rule(
        "suite/not-permitted",
        r"Permission denied|Operation not permitted|Read-only file system",
        "this machine does not let the suite write or run something",
        "run it as root, or with directories that it may write (--report-dir, XDG_STATE_HOME)",
    ),
    _rule(
        "suite/files",
        r"Too many open files|inotify|No file descriptors",
        "this machine allows too few open files or watches",
        "raise ulimit -n and fs.inotify.max_user_instances",
    ),
    _rule(
        "suite/memory",
        r"Cannot allocate memory",
        "this machine has too little memory",
        "use a host with more memory",
    ),
    _rule(
        "suite/network",
        r"refused|unreachable|timed out|reset|Name or service not known|Temporary failure",
        "something on the network does not answer",
        "see the address that the message names",
        rank=40,
    ),
    _rule(
        "suite/worker",
        r"worker .* (crashed|died|ended)|node down",
        "a worker process of the run ended before its test did",
        "see whether the host killed it (memory), then run that test again",
    ),
    _rule(
        "suite/within-reach",
        r"was pulled, so its registry is within reach",
        "the second cluster was to be cut off from a registry, and reaches it",
        "report it: the suite cuts it off where the node's containerd is told its registries",
        blame=Blame.SUITE,
    ),
    _rule(
        "suite/defect",
        r"a defect of the suite",
        "the suite has a defect",
        "report it with the traceback",
        blame=Blame.SUITE,
        rank=10,
    ),
)
