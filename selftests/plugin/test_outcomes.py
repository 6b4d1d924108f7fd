"""The suite's own outcomes: declared soundly, documented, and none passes where there is nothing."""

from __future__ import annotations

import re

import pytest

from fixtures.plugin.catalogue import PAGE, declared, render
from fixtures.plugin.outcomes import Spec
from harness.verdict import Outcome, Status, resolve

SECTIONS = [
    "cluster",
    "cert-manager",
    "olm",
    "operator",
    "runner",
    "pipeline",
    "docker-sock",
    "daemonless",
    "kube-rbac-proxy",
    "offline",
]


@pytest.fixture(scope="module")
def specs() -> list[Spec]:
    return declared()


def test_every_section_of_the_how_to_has_outcomes(specs):
    assert list(dict.fromkeys(spec.section for spec in specs)) == SECTIONS


def test_ids_are_unique_and_needs_exist(specs):
    ids = [spec.id for spec in specs]
    assert len(ids) == len(set(ids))
    unknown = {need for spec in specs for need in spec.needs} - set(ids)
    assert not unknown


def test_needs_have_no_circle_and_reach_the_cluster(specs):
    outcomes = [Outcome(s.id, s.title, Status.PASSED, needs=s.needs) for s in specs]
    broken = [
        o if o.id != "cluster/node-ready" else Outcome(o.id, o.title, Status.FAILED, reason="down")
        for o in outcomes
    ]
    still_green = [o.id for o in resolve(broken) if o.status is Status.PASSED]
    assert still_green == ["cluster/kubernetes-version", "cluster/k3s-version"]


def test_every_promise_names_the_how_to_s_section(specs):
    for spec in specs:
        assert re.match(r'How-to, (introduction|"[^"]+"(, end)?( and "[^"]+")?):', spec.promise), spec.id


def test_the_page_of_outcomes_is_what_the_tests_say(specs):
    assert PAGE.read_text(encoding="utf-8") == render(specs), "run: python -m fixtures.plugin.catalogue"


def test_a_page_is_made_of_no_tests_that_could_not_be_read(monkeypatch, capfd):
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no_such_plugin")
    with pytest.raises(SystemExit, match="the outcomes can't be read from tests/"):
        declared()
    assert "no_such_plugin" in capfd.readouterr().err
