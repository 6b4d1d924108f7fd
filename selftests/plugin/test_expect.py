"""Assertions on objects name the object, every wrong field, and what was last seen."""

from __future__ import annotations

import pytest

from fixtures import expect
from fixtures.olm import assert_succeeded
from harness.errors import Blame, HarnessError

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "x", "namespace": "ns"},
    "spec": {"containers": [{"name": "a", "image": "i"}]},
    "status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("status.phase", "Pending"),
        ("spec.containers[0].image", "i"),
        ("status.conditions[type=Ready].status", "False"),
        ("spec.containers[1]", "(absent)"),
        ("status.conditions[type=Other].status", "(absent)"),
        ("spec.nothing.here", "(absent)"),
    ],
)
def test_fields_by_path(path, value):
    assert expect.field(POD, path) == value


def test_right_fields_pass():
    expect.fields(POD, {"status.phase": "Pending", "metadata.name": lambda name: name.startswith("x")})


def test_all_wrong_fields_are_told_with_the_object_and_its_status():
    with pytest.raises(AssertionError) as raised:
        expect.fields(POD, {"status.phase": "Running", "metadata.name": "x", "spec.nodeName": "n"})
    first, second, *rest = str(raised.value).splitlines()
    assert first == "v1/Pod/ns/x: status.phase: expected 'Running', found 'Pending'"
    assert second == "  spec.nodeName: expected 'n', found '(absent)'"
    assert "last seen" in rest[0]


def test_a_missing_object_is_named():
    with pytest.raises(AssertionError, match="Secret s: is not there"):
        expect.fields(None, {"type": "Opaque"}, "Secret s")


def csv(phase, reason, message=""):
    status = {"phase": phase, "reason": reason, "message": message}
    return {
        "kind": "ClusterServiceVersion",
        "metadata": {"name": "x", "namespace": "operators"},
        "status": status,
    }


def test_a_csv_that_failed_is_explained_by_what_olm_says():
    two = csv("Failed", "TooManyOperatorGroups", "csv created in namespace with multiple operatorgroups")
    with pytest.raises(HarnessError, match="CSV x is Failed: TooManyOperatorGroups") as caught:
        assert_succeeded(two, "CSV x")
    assert (caught.value.reason_id, caught.value.blame) == ("olm/many-operator-groups", Blame.ENVIRONMENT)
    with pytest.raises(AssertionError, match=r"status\.phase"):
        assert_succeeded(csv("Replacing", "BeingReplaced"), "CSV x")
    assert assert_succeeded(csv("Succeeded", "InstallSucceeded"), "CSV x")["status"]["phase"] == "Succeeded"
