"""The reports: data against its schema, Markdown that stays a table, HTML that escapes and loads nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import jsonschema
import pytest

from harness.errors import Blame
from harness.redact import Secret
from harness.report import conformance_document, render_page, render_summary, schema, write_reports
from harness.verdict import Component, Outcome, Phase, Run, Status, judge, resolve

OUTCOMES = (
    Outcome(
        "cluster/node-ready",
        "One node is Ready",
        Status.PASSED,
        promise="vm-0-12-ubuntu Ready",
        duration_s=0.4,
    ),
    Outcome(
        "operator/controller-ready",
        "The controller pod is 2/2",
        Status.FAILED,
        reason="v1/Pod/operators/x: 1/2 | ImagePullBackOff\nevents:\n <b>Back-off</b> pulling",
        hint="substitute kube-rbac-proxy",
        blame=Blame.PRODUCT,
        evidence=("evidence/operator/pods.yaml",),
        nodeid="tests/s04_operator/test_operator.py::test_controller",
    ),
    Outcome("operator/csv-succeeded", "CSV Succeeded", Status.FAILED, needs=("operator/controller-ready",)),
    Outcome("daemonless/kaniko", "kaniko builds", Status.NOT_APPLICABLE, reason="the lab has no kaniko"),
)
PHASES = (
    Phase("cluster", 0, 5, critical=True),
    Phase("olm", 5, 30),
    Phase("operator", 30, 60, Status.FAILED, "not 2/2", blame=Blame.PRODUCT, critical=True),
)
COMPONENTS = (
    Component("k3s", "v1.28.5+k3s1", "v1.28.15+lab1", "v1.28.15+lab1", "stand-in", "lab"),
    Component("cert-manager", "v1.7.1", reached="v1.7.1"),
)


@pytest.fixture
def run() -> Run:
    return Run(
        run_id="rc-00000000",
        started="2026-11-23T00:00:00Z",
        duration_s=61.5,
        profile="seed",
        cluster="k3s",
        artifacts="bundle",
        gitlab="embedded",
        outcomes=resolve(OUTCOMES),
        phases=PHASES,
        components=COMPONENTS,
        leftovers=("link rc-1",),
        again="pytest --reuse x tests/s04_operator/test_operator.py::test_controller",
    )


class Page(HTMLParser):
    """Collects ids, links and whatever would make the page load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.hrefs: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                (self.hrefs if tag == "a" else self.loads).append(value or "")
            if name == "src":
                self.loads.append(value or "")
        if tag == "script":
            self.loads.append(tag)


def test_document_satisfies_its_schema(run):
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(conformance_document(run, judge(run)), schema())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d["outcomes"][1].update(reason=""),
        lambda d: d["outcomes"][1].update(blame=None),
        lambda d: d["outcomes"][3].update(reason=""),
        lambda d: d["outcomes"][0].update(status="green"),
        lambda d: d["verdict"].update(exit_code=3),
        lambda d: d.update(more=1),
    ],
)
def test_schema_refuses(run, spoil):
    document = conformance_document(run, judge(run))
    spoil(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema())


def test_page_loads_nothing_and_every_inner_link_has_its_target(run):
    page = Page(render_page(run, judge(run)))
    assert page.loads == []
    inner = {href[1:] for href in page.hrefs if href.startswith("#")}
    assert "operator/controller-ready" in inner
    assert inner <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "evidence/operator/pods.yaml" in page.hrefs


def test_page_escapes_what_the_cluster_said(run):
    text = render_page(run, judge(run))
    assert "<b>Back-off</b>" not in text
    assert "&lt;b&gt;Back-off&lt;/b&gt;" in text


def test_rehearsal_is_said_everywhere(run):
    verdict = judge(run)
    for text in (render_page(run, verdict), render_summary(run, verdict), str(verdict)):
        assert "DOES NOT CONFORM (rehearsal)" in text
    assert conformance_document(run, verdict)["verdict"]["rehearsal"] is True
    real = replace(run, components=COMPONENTS[1:])
    assert "(rehearsal)" not in render_page(real, judge(real)) + render_summary(real, judge(real))


def test_summary_keeps_its_table(run):
    text = render_summary(run, judge(run))
    row = next(line for line in text.splitlines() if line.startswith("| `operator/controller-ready`"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 4
    assert "blocked by `operator/controller-ready`" in text
    assert run.again in text


def test_no_secret_is_written(run, tmp_path):
    token = Secret("s3cr3t-of-this-test")
    leaky = replace(run.outcomes[1], reason=f"refused {token.reveal()}")
    spoilt = replace(run, outcomes=(leaky,), again=f"pytest --x {token.reveal()}")
    paths = write_reports(spoilt, judge(spoilt), tmp_path)
    assert sorted(paths) == ["conformance.json", "report.html", "summary.md"]
    for path in paths.values():
        assert token.reveal() not in path.read_text()
    json.loads(paths["conformance.json"].read_text())


def test_a_section_stands_once_whatever_order_its_tests_ran_in(run):
    late = Outcome("cluster/dns", "DNS answers", Status.PASSED)
    mixed = replace(run, outcomes=(*run.outcomes, late))
    verdict = judge(mixed)
    assert render_summary(mixed, verdict).count("\n| cluster |") == 1
    assert render_page(mixed, verdict).count('<h3 id="cluster">') == 1


def test_a_blocked_outcome_says_by_what_once(run: Run) -> None:
    by = Outcome(
        "runner/pod",
        "The pod runs",
        Status.BLOCKED,
        reason="blocked by operator/csv-succeeded",
        blocked_by=("operator/csv-succeeded",),
    )
    page = render_page(replace(run, outcomes=(*run.outcomes, by)), judge(run))
    row = page.partition('id="runner/pod"')[2].partition("</tr>")[0]
    assert re.sub(r"<[^>]+>", "", row).count("operator/csv-succeeded") == 1
