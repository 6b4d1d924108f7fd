"""What the classifier takes and gives: facts that somebody saw, rules that know what they mean, a reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.errors import Blame

UNKNOWN = "unknown"
"""The id of a reason that no rule knows; it says the last state and nothing else."""

SEEN_TWICE_S = 20.0
"""Long enough for a controller or the kubelet to try a second time (their first pauses are 5 to 10 s)."""
TRANSIENT_S = 40.0
"""The kubelet pulls again after 10 and 20 s: whatever lasts longer than this failed three times in a row."""


@dataclass(frozen=True)
class Fact:
    """One thing that was seen.

    ``source`` says what kind of thing it is (see SOURCES), ``where`` whom it befell, in words; ``reason`` is
    the machine-readable word of the one who said it, ``text`` its sentence, ``status`` an HTTP status.
    ``subject`` stays the same while the thing is replaced by its like (a pod of a Deployment); ``seen`` is
    the object that it was read from, or the part of it that decides.
    """

    source: str
    where: str
    text: str
    reason: str = ""
    status: int = 0
    subject: str = ""
    seen: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def said(self) -> str:
        """Reason and text as one line, in which a rule's sign is looked for."""
        text = " ".join(self.text.split())
        return f"{self.reason}: {text}" if self.reason and not text.startswith(self.reason) else text


SOURCES: Mapping[str, str] = {
    "pull": "the kubelet's words on an image that it can't pull",
    "sandbox": "the kubelet's words on a pod that it can't start at all",
    "schedule": "the scheduler's words on a pod that has no node",
    "pod": "a pod that has failed",
    "try": "a failed pod of a Job that may have tries left",
    "container": "a container that waits, or how it ended",
    "mount": "a volume that can't be mounted",
    "create": "a controller's words on a pod that the API server refused",
    "job": "a Kubernetes Job that has failed",
    "condition": "a condition or phase of an object",
    "object": "an object that is missing, or one too many",
    "api": "an answer of the Kubernetes API",
    "log": "a line of a container's log",
    "runner-log": "a line of a gitlab-runner's log",
    "operator-log": "a line of the Runner operator's log",
    "ci": "a line of a CI job's log",
    "service": "the end of a service container of a CI job",
    "pending": "a CI job that no runner takes",
    "gitlab": "an answer of GitLab's API",
    "registry": "an answer of a container registry to the suite",
    "node": "a condition of the node",
    "step": "an ending of the suite's own",
}

LOGS = ("log", "runner-log", "operator-log")
"""For signs that mean the same whoever says them; a panic or an untrusted certificate does not."""


def always(fact: Fact) -> bool:
    """The predicate of a rule whose sign says all."""
    return True


@dataclass(frozen=True)
class Rule:
    """What a sign means, who is at fault, what to do, and whether waiting helps.

    ``sign`` is a regular expression, looked for in ``Fact.said``; ``when`` looks closer. A reason is final
    once it has been seen for ``final_after_s`` seconds without a gap; None: it never ends a wait by itself.
    ``why`` says why that is so. While it lasts, a wait's time does not pass, for ``stretches_s`` seconds at
    most. Of several that match, the one with the highest ``rank`` is shown.
    """

    id: str
    sources: tuple[str, ...]
    sign: str
    blame: Blame
    meaning: str
    do: str
    final_after_s: float | None
    why: str
    stretches_s: float = 0.0
    rank: int = 50
    when: Callable[[Fact], bool] = always

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(self.sign, re.IGNORECASE)

    @property
    def domain(self) -> str:
        """The part before the slash."""
        return self.id.partition("/")[0]


@dataclass(frozen=True)
class Reason:
    """Why something is not as it should be: one sentence, who is at fault, the object that decides.

    ``others`` are further rules that matched, less specific or about something else.
    """

    sentence: str
    blame: Blame = Blame.PRODUCT
    id: str = UNKNOWN
    do: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    final_after_s: float | None = 0.0
    stretches_s: float = 0.0
    subject: str = ""
    others: tuple[Reason, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What stays the same while the same trouble lasts."""
        return self.id, self.subject or self.sentence

    def __str__(self) -> str:
        return self.sentence
