"""The rules themselves: whole, ordered, documented; and exceptions that passed no border before."""

from __future__ import annotations

import re

import gitlab.exceptions
import httpx
import pytest
import requests
from kubernetes.client.exceptions import ApiException

from harness.diagnosis import BY_ID, RULES, Fact, Rule, classify
from harness.diagnosis.exceptions import as_harness_error
from harness.diagnosis.model import SOURCES
from harness.diagnosis.page import PAGE, explain, render
from harness.diagnosis.words import short
from harness.errors import Blame, SuiteDefect, UsageError

LATEST_RED_S = 45.0
LOOKED_AT_S = 3.0
"""A reason is seen some time after it began, and once more when it is final: 45 s made 46.1 on a node."""


def test_the_page_is_what_the_rules_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run python -m harness.diagnosis.page"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_is_whole(rule: Rule) -> None:
    assert re.fullmatch(r"[a-z-]+/[a-z-]+", rule.id)
    assert set(rule.sources) <= SOURCES.keys()
    assert rule.meaning
    assert rule.do
    assert rule.why
    latest_s = LATEST_RED_S if "node" in rule.id else LATEST_RED_S - LOOKED_AT_S
    assert rule.final_after_s is None or 0 <= rule.final_after_s <= latest_s
    assert rule.meaning in explain(rule.id)


def test_ids_are_unique_and_an_unknown_one_is_refused() -> None:
    assert len(BY_ID) == len(RULES)
    with pytest.raises(UsageError, match="no reason is called") as caught:
        explain("pull/nothing")
    assert "pull/rate-limited" in caught.value.hint


def test_only_the_suites_own_defects_are_blamed_on_it() -> None:
    assert [rule.id for rule in RULES if rule.blame is Blame.SUITE] == ["suite/within-reach", "suite/defect"]


def test_all_that_match_are_kept_the_most_telling_first() -> None:
    found = classify(
        [
            Fact("container", "pod a/b container c", "crashed: ended 1", "CrashLoopBackOff"),
            Fact("runner-log", "pod a/b container runner says", "FATAL: toml: line 3: expected key"),
        ]
    )
    assert found is not None
    assert found.id == "runner/config"
    assert {other.id for other in found.others} >= {"container/crashed", "runner/fatal"}
    assert classify([Fact("condition", "x", "nothing that anybody knows")]) is None


@pytest.mark.parametrize(
    ("error", "rule", "blame", "words"),
    [
        (gitlab.exceptions.GitlabGetError("404 Not found", 404), "gitlab/absent", Blame.ENVIRONMENT, "404"),
        (gitlab.exceptions.GitlabHttpError("<html>", 502), "gitlab/server-error", Blame.ENVIRONMENT, "502"),
        (requests.exceptions.ConnectionError("refused"), "gitlab/unreachable", Blame.ENVIRONMENT, "refused"),
        (requests.exceptions.SSLError("certificate has expired"), "gitlab/certificate-expired",
         Blame.ENVIRONMENT, "expired"),
        (httpx.RemoteProtocolError("Server disconnected"), "registry/unreachable", Blame.ENVIRONMENT,
         "disconnected"),
        (ApiException(status=503, reason="Unavailable"), "api/server-error", Blame.ENVIRONMENT, "503"),
        (ApiException(status=403, reason="Forbidden"), "api/forbidden", Blame.ENVIRONMENT, "403"),
        (OSError(28, "No space left on device"), "suite/disk-full", Blame.ENVIRONMENT, "No space"),
        (KeyError("data"), "suite/defect", Blame.SUITE, "data"),
        (RuntimeError("script failed"), "suite/defect", Blame.SUITE, "script failed"),
    ],
)  # fmt: skip
def test_an_exception_that_passed_no_border_becomes_a_sentence(
    error: Exception, rule: str, blame: Blame, words: str
) -> None:
    found = as_harness_error(error, "asking for something")
    assert (found.reason_id, found.blame) == (rule, blame)
    assert words in found.message
    assert found.message.startswith("asking for something")
    assert isinstance(found, SuiteDefect) is (blame is Blame.SUITE)


@pytest.mark.parametrize("at", [0, 100, 390, 700, 1195])
def test_words_to_be_kept_survive_wherever_they_are(at: int) -> None:
    text = "a" * at + " THE CAUSE " + "b" * (1200 - at)
    begin = text.index("THE CAUSE")
    cut = short(text, (begin, begin + 9))
    assert "THE CAUSE" in cut
    assert len(cut) <= 400


@pytest.mark.parametrize(
    ("source", "words", "rule", "blame"),
    [
        ("runner-log", "ERROR: Registering runner... failed runner=x status=410 Gone",
         "runner/registration-off", Blame.ENVIRONMENT),
        ("runner-log", "Checking for jobs... forbidden runner=x", "runner/token-refused", Blame.ENVIRONMENT),
        ("runner-log", "Runner https://g/x is not healthy and will be disabled for 1h",
         "runner/token-refused", Blame.ENVIRONMENT),
        ("runner-log", "PANIC: Failed to register the runner.", "runner/fatal", Blame.PRODUCT),
        ("log", "error retrieving resource lock operators/x: context deadline exceeded", "operator/api-slow",
         Blame.ENVIRONMENT),
        ("log", "fatal error: runtime: out of memory", "container/host-limits", Blame.ENVIRONMENT),
        ("log", "accept: too many open files", "container/host-limits", Blame.ENVIRONMENT),
        ("operator-log", "Reconciler error: deployments.apps is invalid", "operator/reconcile",
         Blame.PRODUCT),
        ("condition", "CSV x is Failed: InterOperatorGroupOwnerConflict", "olm/owner-conflict",
         Blame.ENVIRONMENT),
    ],
)  # fmt: skip
def test_what_logs_and_conditions_say_is_blamed_right(
    source: str, words: str, rule: str, blame: Blame
) -> None:
    found = classify([Fact(source, "pod a/b says", words)])
    assert found is not None
    assert (found.id, found.blame) == (rule, blame)


def test_a_conflict_that_a_controller_tries_again_is_no_reason() -> None:
    words = "Reconciler error: the object has been modified; please apply your changes to the latest version"
    assert classify([Fact("operator-log", "pod a/b says", words)]) is None


@pytest.mark.parametrize(
    "words",
    [
        "panic: runtime error: invalid memory address",
        "FATAL: config not found",
        "x509: certificate signed by unknown authority",
        "Post https://10.43.0.1/api/v4: register: connection refused",
        "Reconciler error: the Certificate has no issuer",
    ],
)
def test_what_others_say_is_not_taken_for_the_runners_or_the_operators_words(words: str) -> None:
    """cert-manager, OLM and CoreDNS panic and meet untrusted certificates as well, without any GitLab."""
    found = classify([Fact("log", "pod cert-manager/a container cert-manager-webhook says", words)])
    assert found is None
