"""All rules, and the function that makes a reason of facts: who is at fault is decided here alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from harness.diagnosis import (
    admission,
    api,
    cert_manager,
    containers,
    gitlab_api,
    job_log,
    node,
    olm,
    operator,
    pulls,
    registry,
    runner,
    scheduling,
    suite,
)
from harness.diagnosis.model import Fact, Reason, Rule
from harness.diagnosis.words import short
from harness.errors import Blame, EnvironmentProblem, HarnessError, ProductFailure, SuiteDefect
from harness.redact import redact

RULES: tuple[Rule, ...] = (
    *pulls.RULES,
    *scheduling.RULES,
    *admission.RULES,
    *containers.RULES,
    *node.RULES,
    *api.RULES,
    *olm.RULES,
    *cert_manager.RULES,
    *operator.RULES,
    *runner.RULES,
    *job_log.RULES,
    *gitlab_api.RULES,
    *registry.RULES,
    *suite.RULES,
)
BY_ID = {rule.id: rule for rule in RULES}


def classify(facts: Iterable[Fact], rules: Sequence[Rule] = RULES) -> Reason | None:
    """The reason that explains most of ``facts``, with the others that match; None where none does."""
    found = [
        (rule.rank, _reason(rule, fact))
        for fact in facts
        for rule in rules
        if fact.source in rule.sources and rule.pattern.search(fact.said) and rule.when(fact)
    ]
    if not found:
        return None
    by_key: dict[tuple[str, str], Reason] = {}
    for _, reason in sorted(found, key=lambda it: -it[0]):  # stable: of equals the first seen is shown
        by_key.setdefault(reason.key, reason)
    first, *rest = by_key.values()
    return with_others(first, rest)


def with_others(first: Reason, others: Iterable[Reason]) -> Reason:
    """``first``, which keeps ``others`` for the reader."""
    return replace(first, others=tuple(replace(it, others=()) for it in others if it.key != first.key))


def with_sentence(reason: Reason, sentence: str) -> Reason:
    """The same reason, told in other words."""
    return replace(reason, sentence=sentence)


def as_error(reason: Reason, *, evidence: str = "") -> HarnessError:
    """The reason as an error that carries its blame."""
    beside = "\n".join(f"Also: {other.sentence}" for other in reason.others)
    text = "\n".join(part for part in (beside, evidence) if part)
    kind = _ERROR_OF[reason.blame]
    return kind(reason.sentence, reason.do, evidence=text, reason_id=reason.id)


_ERROR_OF: Mapping[Blame, type[HarnessError]] = {
    Blame.PRODUCT: ProductFailure,
    Blame.ENVIRONMENT: EnvironmentProblem,
    Blame.SUITE: SuiteDefect,
}


def _reason(rule: Rule, fact: Fact) -> Reason:
    match = rule.pattern.search(fact.said)
    span = match.span() if match and match.end() > match.start() else None
    return Reason(
        sentence=redact(f"{fact.where}: {rule.meaning}: {short(fact.said, span)}"),
        blame=rule.blame,
        id=rule.id,
        do=rule.do,
        evidence=fact.seen,
        final_after_s=rule.final_after_s,
        stretches_s=rule.stretches_s,
        subject=fact.subject or fact.where,
    )
