"""The rights of a kubeconfig's user are asked for before anything is made, and each missing one is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cluster.rights import RIGHTS, check_rights
from harness.errors import UsageError
from harness.inputs import check_inputs
from harness.kube import ApiError, Kube
from harness.options import ProvisionOptions
from selftests.unit.test_kube import Api, kube_at, refusal

REVIEWS = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
Allows = Callable[[str, str], bool]
"""(verb, resource as kubectl names it) → whether it is allowed."""


class Answers(dict[str, Any]):
    """A review is answered by ``allows``, unless there is an answer already."""

    def __init__(self, api: Api, allows: Allows) -> None:
        super().__init__({"GET /version": {"gitVersion": "v1.28.5+k3s1"}})
        self._api, self._allows = api, allows

    def get(self, key: str, default: Any = None) -> Any:
        if key != REVIEWS or key in self:
            return super().get(key, default)
        asked = json.loads(self._api.asked[-1][2])["spec"]["resourceAttributes"]
        resource = "/".join(part for part in (asked["resource"], asked["subresource"]) if part)
        name = f"{resource}.{asked['group']}" if asked["group"] else resource
        return {"status": {"allowed": self._allows(asked["verb"], name)}}


@pytest.fixture
def reviewing(tmp_path: Path) -> Iterator[Callable[[Allows], tuple[Api, Kube]]]:
    api = Api()

    def begin(allows: Allows) -> tuple[Api, Kube]:
        api.answers = Answers(api, allows)
        return api, kube_at(api.server.server_port, tmp_path)

    yield begin
    api.server.shutdown()
    api.server.server_close()


Reviewing = Callable[[Allows], tuple[Api, Kube]]


def viewer(verb: str, resource: str) -> bool:
    return verb in ("get", "list", "watch") and resource != "secrets"


def test_who_may_only_look_is_refused_with_every_right_that_is_missing(reviewing: Reviewing) -> None:
    served, kube = reviewing(viewer)
    with pytest.raises(UsageError, match=r"the user of context 'x'.*nothing was made") as caught:
        check_inputs(ProvisionOptions(cluster="existing", kubeconfig=kube.kubeconfig, context="x"))
    for right in RIGHTS:
        for name in right.names():
            lacking = [verb for verb in right.verbs if not viewer(verb, name)]
            assert not lacking or f"{', '.join(lacking)} {name}" in caught.value.message
    assert "pods/log" not in caught.value.message
    assert {asked for asked, _, _ in served.asked if asked.startswith("POST")} == {REVIEWS}


def test_who_lacks_one_right_is_told_that_one(reviewing: Reviewing) -> None:
    _, kube = reviewing(
        lambda verb, resource: resource != "*.*" and (verb, resource) != ("create", "pods/exec")
    )
    with pytest.raises(UsageError, match=r"\(nothing was made\): create pods/exec\n"):
        check_rights(kube, "u")


def test_a_cluster_admin_is_asked_one_question(reviewing: Reviewing) -> None:
    served, kube = reviewing(lambda verb, resource: (verb, resource) == ("*", "*.*"))
    check_rights(kube, "u")
    assert [asked for asked, _, _ in served.asked] == [REVIEWS]


@pytest.mark.parametrize("status", [403, 404])
def test_an_api_server_that_does_not_review_refuses_nobody(reviewing: Reviewing, status: int) -> None:
    served, kube = reviewing(viewer)
    served.answers[REVIEWS] = refusal(status, "x", "no reviews here")
    check_rights(kube, "u")


def test_a_user_whom_nobody_knows_is_no_question_of_rights(reviewing: Reviewing) -> None:
    served, kube = reviewing(viewer)
    served.answers[REVIEWS] = refusal(401, "Unauthorized", "Unauthorized")
    with pytest.raises(ApiError) as caught:
        check_rights(kube, "u")
    assert caught.value.reason_id == "api/unauthorized"


def test_who_only_reads_is_asked_for_no_right_to_make(reviewing: Reviewing) -> None:
    """With --accept nothing but reads is sent; a review is a POST."""
    served, kube = reviewing(viewer)
    check_inputs(ProvisionOptions(cluster="existing", kubeconfig=kube.kubeconfig, context="x", accept=True))
    assert not [asked for asked, _, _ in served.asked if not asked.startswith("GET ")]
