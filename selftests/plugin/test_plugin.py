"""The plugin on an example project: what is provisioned, what blocks, how it ends, what is written."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import jsonschema
import pytest

from harness.report import schema

GOOD = '''
    @outcome("cluster/node")
    def test_node(cluster):
        """One node.

        How-to, "k3s": one node Ready.
        """

    @outcome("olm/catalog", needs=["cluster/node"])
    def test_catalog(olm):
        """The catalog.

        How-to, "OLM": READY.
        """
        assert olm.made == "olm"

    @outcome("operator/csv", needs=["olm/catalog"])
    def test_csv(operator):
        """The CSV.

        How-to, "Operator": Succeeded.
        """
'''
RED = GOOD.replace('== "olm"', '== "something else", "v1/CatalogSource/olm/x: READY expected"')

RED_STATUSES = {"cluster/node": "passed", "olm/catalog": "failed", "operator/csv": "blocked"}


def test_all_green_conforms(project):
    project.test(GOOD)
    result = project.run()
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "runner-conformance: verifies profile seed in an example; no stand-in known before it runs",
            "*creates cluster*",
            "*cluster: 1 passed*",
            "CONFORMS: 3 passed",
        ]
    )
    assert project.document()["verdict"]["text"] == "CONFORMS"
    jsonschema.validate(project.document(), schema())
    assert (project.pytester.path / "closed.txt").read_text() == "False"


def test_the_headline_is_the_first_line(project):
    project.plan(rehearsal=True)
    project.test(GOOD)
    result = project.run()
    assert "REHEARSAL (stand-ins: k3s)" in result.outlines[0]
    assert "k3s v1.28.15+lab1 (stand-in for v1.28.5+k3s1)" in result.outlines[1]
    assert "CONFORMS (rehearsal): 3 passed" in result.outlines


def test_a_failure_blocks_its_dependents_and_names_itself_first(project):
    project.test(RED)
    result = project.run()
    assert result.ret == 1
    assert project.statuses() == {
        "cluster/node": "passed",
        "olm/catalog": "failed",
        "operator/csv": "blocked",
    }
    result.stdout.fnmatch_lines(
        [
            "*operator/csv: blocked by olm/catalog",
            "DOES NOT CONFORM: 1 passed, 1 failed, 1 blocked",
            "first reason: olm/catalog: v1/CatalogSource/olm/x: READY expected*",
            "next: pytest tests/test_example.py::test_catalog tests/test_example.py::test_csv",
        ]
    )


def test_a_blocked_test_is_not_even_begun(project):
    project.test(
        RED
        + '''
    @outcome("operator/last", needs=["operator/csv"])
    def test_last():
        """Last.

        How-to: last.
        """
        open("begun.txt", "w").close()
'''
    )
    project.run()
    assert project.statuses()["operator/last"] == "blocked"
    assert not (project.pytester.path / "begun.txt").exists()


def test_order_does_not_matter(project):
    project.test(
        '''
    @outcome("b/second", needs=["a/first"])
    def test_b(cluster):
        """B.

        How-to: b.
        """

    @outcome("a/first")
    def test_a(cluster):
        """A.

        How-to: a.
        """
        assert False, "a is red"
'''
    )
    project.run()
    assert project.statuses() == {"b/second": "blocked", "a/first": "failed"}


@pytest.mark.parametrize(
    ("blame", "code", "word"), [("product", 1, "DOES NOT CONFORM"), ("environment", 10, "INCONCLUSIVE")]
)
def test_a_step_that_fails_is_told_with_its_blame(project, blame, code, word):
    project.plan(fails="olm", blame=blame)
    project.test(GOOD)
    result = project.run()
    assert result.ret == code
    document = project.document()
    assert document["verdict"]["word"] == word
    phases = {p["name"]: p["status"] for p in document["phases"]}
    assert phases == {"cluster": "passed", "olm": "failed", "operator": "blocked", "remove": "passed"}
    assert project.made_steps() == ["cluster", "olm"]


@pytest.mark.parametrize(("blame", "code"), [("product", 1), ("environment", 10)])
def test_a_test_that_looks_at_what_a_failed_step_left_says_why(project, blame, code):
    project.plan(fails="olm", blame=blame, looks=True)
    project.test(GOOD.replace('olm.made == "olm"', 'olm and olm.made == "olm", "no CatalogSource"'))
    assert project.run().ret == code
    outcome = project.document()["outcomes"][1]
    assert outcome["blame"] == blame
    assert outcome["reason"].startswith("no CatalogSource; because olm did not get ready: olm broke over")
    assert outcome["hint"] == "mend it"


def test_a_step_without_meaning_is_no_reason_for_what_was_seen(project):
    project.plan(pointless="olm")
    project.test(
        """
        @pytest.mark.steps("olm")
        @outcome("olm/catalog")
        def test_catalog():
            '''The catalog.

            How-to, "OLM": READY.
            '''
            assert False, "no CatalogSource"
        """
    )
    assert project.run().ret == 1
    (outcome,) = project.document()["outcomes"]
    assert outcome["blame"] == "product"
    assert outcome["reason"].startswith("no CatalogSource\n")


def test_only_the_steps_of_the_selected_tests_are_played(project):
    project.test(GOOD)
    result = project.run("-k", "catalog")
    assert result.ret == 0
    assert project.made_steps() == ["cluster", "olm"]
    assert project.statuses() == {"olm/catalog": "passed"}


def test_a_single_test_by_name(project):
    project.test(GOOD)
    assert project.run("tests/test_example.py::test_node").ret == 0
    assert project.made_steps() == ["cluster"]


def test_stop_at_the_first_failure_leaves_the_rest_not_run(project):
    project.test(RED)
    assert project.run("-x").ret == 1
    assert project.statuses()["operator/csv"] in ("blocked", "not run")


def test_last_failed_runs_only_what_was_red(project):
    project.test(RED)
    project.run()
    project.test(GOOD)
    result = project.run("--lf")
    assert result.ret == 0
    assert list(project.statuses()) == ["olm/catalog"]


def test_leftovers_have_an_exit_code_of_their_own(project):
    project.plan(leftovers=["link rc-1"])
    project.test(GOOD)
    result = project.run()
    assert result.ret == 11
    result.stdout.fnmatch_lines(
        ["*left behind: link rc-1", "CONFORMS: 3 passed", "first reason: 1 thing*link rc-1"]
    )


def test_a_teardown_that_fails_fails_the_run_separately(project):
    project.test(
        GOOD
        + '''
    @pytest.fixture
    def untidy():
        yield
        raise RuntimeError("still there")

    @outcome("runner/deleted")
    def test_deleted(untidy):
        """Deleted.

        How-to: deleted.
        """
'''
    )
    result = project.run()
    assert project.statuses()["runner/deleted"] == "passed"
    assert result.ret == 11
    assert "still there" in project.document()["leftovers"][0]


@pytest.mark.parametrize(
    ("raised", "blame", "code"),
    [
        ("AssertionError('x')", "product", 1),
        ("KeyError('x')", "suite", 12),
        ("ConnectionRefusedError('x')", "environment", 10),
    ],
)
def test_what_a_test_raises_says_who_is_at_fault(project, raised, blame, code):
    project.test(GOOD.replace('assert olm.made == "olm"', f"raise {raised}"))
    assert project.run().ret == code
    assert project.document()["outcomes"][1]["blame"] == blame


def test_not_applicable_needs_a_reason_and_does_not_block(project):
    project.test(
        '''
    from fixtures.plugin.outcomes import NotApplicable

    @outcome("a/first")
    def test_a(cluster):
        """A.

        How-to: a.
        """
        raise NotApplicable("the lab has no kaniko")

    @outcome("b/second", needs=["a/first"])
    def test_b(cluster):
        """B.

        How-to: b.
        """
'''
    )
    assert project.run().ret == 0
    assert project.statuses() == {"a/first": "not applicable", "b/second": "passed"}
    assert project.document()["outcomes"][0]["reason"] == "the lab has no kaniko"


def test_a_step_without_meaning_makes_its_outcomes_not_applicable(project):
    project.plan(pointless="olm")
    project.test(GOOD)
    assert project.run().ret == 0
    assert project.statuses() == {
        "cluster/node": "passed",
        "olm/catalog": "not applicable",
        "operator/csv": "not applicable",
    }
    assert project.document()["outcomes"][2]["reason"] == "olm has no meaning here"
    jsonschema.validate(project.document(), schema())
    assert 'message="olm has no meaning here"' in (project.pytester.path / "report" / "junit.xml").read_text()


def test_a_bare_skip_is_blocked_not_green(project):
    project.test(GOOD.replace('assert olm.made == "olm"', 'pytest.skip("later")'))
    assert project.run().ret == 10
    assert project.statuses()["olm/catalog"] == "blocked"


def test_evidence_is_linked_and_in_the_message(project):
    project.test(RED)
    result = project.run()
    outcome = project.document()["outcomes"][1]
    assert outcome["evidence"] == ["evidence/olm-catalog/pods.txt"]
    assert (project.pytester.path / "report" / "evidence" / "olm-catalog" / "pods.txt").exists()
    result.stdout.fnmatch_lines(["*pod x: CrashLoopBackOff*"])


def test_no_secret_reaches_any_sink(project):
    project.test(
        '''
    import logging
    from harness.redact import Secret
    token = Secret("correct-horse-battery")

    @outcome("a/first")
    def test_a(operator):
        """A.

        How-to: a.
        """
        print("printed", token.reveal())
        logging.warning("logged %s", token.reveal())
        value = token.reveal()
        assert value == "", f"diff {value}"
'''
    )
    project.plan(fails="nothing")
    result = project.run("-l", "-v", "--tb=long")
    assert result.ret == 1
    sinks = result.stdout.str() + result.stderr.str()
    for path in (project.pytester.path / "report").rglob("*"):
        sinks += path.read_text() if path.is_file() else ""
    assert "[redacted]" in sinks
    assert "correct-horse-battery" not in sinks


def test_a_secret_in_a_step_s_failure_is_cut(project):
    project.plan(fails="operator", blame="product")
    project.test(GOOD)
    result = project.run("-v", "--tb=long")
    sinks = result.stdout.str() + "".join(
        p.read_text() for p in (project.pytester.path / "report").rglob("*") if p.is_file()
    )
    assert "operator broke over [redacted]" in sinks
    assert "hunter2-hunter2" not in sinks


def test_junit_holds_facts_outcomes_and_phases(project):
    project.plan(rehearsal=True, fails="operator", blame="product")
    project.test(GOOD)
    project.run()
    suite = ET.parse(project.pytester.path / "report" / "junit.xml").getroot().find("testsuite")
    facts = {p.get("name"): p.get("value") for p in suite.find("properties")}
    assert facts["verdict"] == "DOES NOT CONFORM (rehearsal)"
    assert facts["k3s.expected"] == "v1.28.15+lab1"
    cases = {(c.get("classname"), c.get("name")): c for c in suite.iter("testcase")}
    assert cases["provision", "operator"].find("failure") is not None
    assert cases["provision", "olm"].find("failure") is None
    case = cases["tests.test_example", "test_catalog"]
    inner = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert (inner["outcome"], inner["status"]) == ("olm/catalog", "passed")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--reuse", "x", "--k3s-version", "v1.29.0+k3s1"), "*kept stack isn't installed again*"),
        (("--reuse", "x", "--keep"), "*always left as it was*"),
        (("--cluster", "existing"), "*would act on whichever cluster is current*"),
        (("--kubeconfig", "x"), "*an ephemeral cluster would be verified*"),
        (("--gitlab-url", "https://gitlab.example"), "*go together*"),
        (("--gitlab-ca-file", "ca.pem"), "*so yours would not be used*"),
        (("--gitlab-project", "a/b"), "*so your GitLab would stay untested*"),
        (("--name", "x"), "*nobody could use its name*"),
        (("--keep", "--name", "X y"), "*lower case*"),
    ],
)
def test_contradictions_are_usage_errors_with_their_consequence(project, args, message):
    project.test(GOOD)
    result = project.run(*args)
    assert result.ret == 4
    result.stderr.fnmatch_lines([message])
    assert project.made_steps() == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.replace("olm/catalog", "Catalog"), "*is not section/name*"),
        (lambda s: s.replace("olm/catalog", "cluster/node"), "*is tests/test_example.py::test_node already*"),
        (lambda s: s.replace('        How-to, "OLM": READY.\n', ""), "*must say what the how-to promises*"),
    ],
)
def test_a_bad_declaration_is_refused_before_anything_starts(project, spoil, message):
    project.test(spoil(GOOD))
    result = project.run()
    assert result.ret == 4
    (result.stderr if result.stderr.lines else result.stdout).fnmatch_lines([message])
    assert project.made_steps() == []


def test_collect_only_touches_nothing(project):
    project.test(GOOD)
    result = project.run("--collect-only")
    assert result.ret == 0
    assert project.made_steps() == []
    assert not (project.pytester.path / "report").exists()


def test_the_plugin_sleeps_without_outcomes(project):
    project.test("def test_plain():\n    pass\n")
    result = project.run("tests/test_example.py")
    assert result.ret == 0
    assert project.made_steps() == []
    assert not (project.pytester.path / "report" / "conformance.json").exists()


def test_interrupted_takes_everything_down_and_still_reports(project):
    project.test(GOOD.replace('assert olm.made == "olm"', "raise KeyboardInterrupt"))
    result = project.run()
    assert result.ret == 130
    assert project.document()["verdict"]["word"] == "INCONCLUSIVE"
    assert (project.pytester.path / "closed.txt").read_text() == "True"


def test_a_failing_plain_test_beside_green_outcomes_still_fails(project):
    project.test(GOOD + "\n    def test_plain():\n        assert False\n")
    assert project.run().ret == 1


def test_outcomes_are_selected_by_their_ids(project):
    project.test(GOOD)
    assert project.run("-k", "operator/csv or cluster/").ret == 0
    assert project.statuses() == {"cluster/node": "passed", "operator/csv": "passed"}


def test_the_next_command_has_each_option_in_one_word(project):
    """A value that is a path of its own would be taken for a place to look for tests."""
    project.test(RED)
    project.run("--report-dir", "report", "--artifacts=upstream", "--name", "x", "--keep", "tests")
    again = project.document()["run"]["again"]
    assert again.startswith("pytest --report-dir=report --artifacts=upstream --name=x --keep tests/")
