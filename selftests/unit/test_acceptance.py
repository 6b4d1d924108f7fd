"""Acceptance of what somebody installed, against a small API server: what is found, what is never sent."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gitlab
import pytest
import yaml
from kubernetes import client
from kubernetes.stream import portforward

from fixtures.accepted import AcceptedRunner
from fixtures.steps.accepted_build import Way, way_from_cluster
from fixtures.steps.runner_setups import FILES
from harness.acceptance.border import METADATA_ONLY, MissingPermission, Refused, Request, refusal
from harness.acceptance.config import READ_CONFIG
from harness.acceptance.discovery import discover
from harness.acceptance.found import HELM, MANIFEST, OLM, Found, FoundRunner, chosen, only_runner
from harness.acceptance.jobs import tags_of_jobs
from harness.acceptance.reader import NOT_READ, ReadingKube, noting
from harness.acceptance.rights import Depth, cluster_role
from harness.errors import HarnessError, UsageError
from harness.given import FOUND
from harness.kube import ApiError
from harness.options import ProvisionOptions
from selftests.unit import their_stack as their
from selftests.unit.fake_cluster import FakeCluster

FAR = Depth()
NEAR = Depth(streams=False, dry_runs=False)


class Side:
    """A fake cluster and a client of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.clusters: list[FakeCluster] = []

    def __call__(self, *objects: Any, depth: Depth = FAR) -> tuple[FakeCluster, ReadingKube]:
        cluster = FakeCluster(*objects)
        self.clusters.append(cluster)
        return cluster, ReadingKube(cluster.kubeconfig(self._directory), "theirs", depth)


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    one = Side(tmp_path)
    yield one
    for cluster in one.clusters:
        cluster.close()


# -- the border -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_no_request_that_changes_leaves_this_process(side, method):
    cluster, kube = side()
    for path in (
        "/api/v1/namespaces/ci/pods/p",
        "/apis/apps/v1/namespaces/ci/deployments",
        "/api/v1/nodes/n",
    ):
        with pytest.raises(Refused, match="changes the cluster"):
            kube.request(method, path)
        with pytest.raises(Refused, match="changes the cluster"):
            kube.new_client().call_api(method, f"{cluster.url}{path}", {})
    assert cluster.asked == []


def test_the_methods_that_would_change_something_are_refused(side):
    cluster, kube = side(their.node())
    pod = their.thing("v1", "Pod", "p", "ci")
    for change in (
        lambda: kube.create(pod),
        lambda: kube.apply(pod),
        lambda: kube.patch("v1/Pod", "p", "ci", {"spec": {}}),
        lambda: kube.delete("v1/Pod", "p", "ci"),
    ):
        with pytest.raises(Refused, match="an acceptance only reads"):
            change()
    assert all(it.startswith("GET ") for it in cluster.asked)


def test_only_the_dry_runs_that_were_announced_are_sent(side):
    certificate = their.thing("cert-manager.io/v1", "Certificate", "probe", "default")
    cluster, kube = side()
    kube.apply(certificate, dry_run=True)
    assert [it for it in cluster.asked if not it.startswith("GET ")] == [
        "PATCH /apis/cert-manager.io/v1/namespaces/default/certificates/probe"
        "?fieldManager=runner-conformance&force=true&dryRun=All"
    ]
    with pytest.raises(Refused, match="a dry run that was not announced"):
        kube.apply(their.thing("v1", "Pod", "p", "ci"), dry_run=True)
    cluster, kube = side(depth=NEAR)
    with pytest.raises(Refused, match="--no-dry-run was given"):
        kube.apply(certificate, dry_run=True)
    assert all(it.startswith("GET ") for it in cluster.asked)


def test_streams_into_pods_pass_the_border_too(side):
    """The official client puts another transport in the place of the one that is guarded."""
    cluster, kube = side(depth=NEAR)
    with pytest.raises(Refused, match="--no-exec was given"):
        kube.exec("p", "ci", ["true"])
    api = client.CoreV1Api(kube.new_client())
    for _ in range(2):  # the first one has put the transport back
        with pytest.raises(Refused, match="--no-exec was given"):
            portforward(api.connect_get_namespaced_pod_portforward, "p", "ci", ports="8443")
    assert cluster.asked == []


def test_streams_that_were_announced_reach_the_api_server(side):
    cluster, kube = side()
    with pytest.raises(ApiError, match="not found"):  # it has no such pod
        kube.exec("p", "ci", ["true"])
    (asked,) = cluster.asked
    assert asked.startswith("GET /api/v1/namespaces/ci/pods/p/exec?command=true")


@pytest.mark.parametrize(
    ("method", "path", "passes"),
    [
        ("GET", "/version", True),
        ("GET", "/apis/apps.gitlab.com/v1beta2", True),
        ("GET", "/api/v1/namespaces/kube-system", True),
        ("GET", "/api/v1/namespaces/ci/pods/p/log?container=runner", True),
        ("GET", "/api/v1/namespaces/ci/pods?watch=true", True),
        ("GET", "/api/v1/namespaces/ci/pods/p/proxy/x", False),
        ("GET", "/api/v1/namespaces/ci/pods/p/attach", False),
        ("GET", "/api/v1/secrets", False),
        ("GET", "/api/v1/namespaces/ci/secrets/s", False),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles", False),
        ("GET", "/metrics", False),
        ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", False),
        ("POST", "/api/v1/namespaces/ci/pods/p/exec?command=id", True),
    ],
)
def test_what_was_not_announced_does_not_pass(method, path, passes):
    assert (refusal(Request.of(method, path), FAR) == "") is passes


def test_a_value_of_a_secret_is_never_asked_for(side):
    _, kube = side(*their.runner())
    secret = kube.get("v1/Secret", "gitlab-runner-secret", "default")
    assert secret is not None
    assert (secret["type"], secret["data"]) == ("Opaque", {"runner-registration-token": NOT_READ})
    with pytest.raises(Refused, match="list secrets in namespace default was not announced"):
        kube.list("v1/Secret", "default")
    with pytest.raises(Refused, match="the value of a Secret is never read"):
        kube.request("GET", "/api/v1/namespaces/default/secrets/gitlab-runner-secret")
    assert kube.get("v1/Secret", "none", "default") is None


def test_a_secret_that_hides_its_keys_is_not_read_for_them(side):
    secret = their.thing("v1", "Secret", "s", "ci", type="Opaque", data={"token": "eA=="})
    _, kube = side(secret)
    with pytest.raises(Refused, match="together with the values"):
        kube.get("v1/Secret", "s", "ci")


def test_a_missing_right_is_named(side):
    cluster, kube = side()
    cluster.forbidden |= {("list", "pods"), ("get", "deployments")}
    with pytest.raises(MissingPermission, match=r"may not list pods in namespace ci\n"):
        kube.list("v1/Pod", "ci")
    with pytest.raises(MissingPermission, match=r"may not get deployments\.apps in namespace ci\n"):
        kube.get("apps/v1/Deployment", "d", "ci")


def test_what_is_read_is_noted(side):
    _, kube = side(*their.runner("ci"))
    seen: list[str] = []
    with noting(seen):
        kube.get("v1/ConfigMap", "gitlab-runner-runner-config", "ci")
        kube.list("v1/Pod", "ci")
        kube.get("v1/Secret", "gitlab-runner-secret", "ci")
    kube.list("v1/Node")
    assert seen == [
        "configmaps ci/gitlab-runner-runner-config",
        "pods ci/*",
        "keys of secrets ci/gitlab-runner-secret",
    ]


def test_the_role_grants_what_the_border_lets_pass_and_no_more():
    role = yaml.safe_load(cluster_role(NEAR))
    verbs = {verb for rule in role["rules"] for verb in rule["verbs"]}
    assert verbs == {"get", "list", "watch"}
    resources = {it for rule in role["rules"] for it in rule["resources"]}
    assert not resources & {"pods/exec", "pods/portforward"}
    assert "secrets" in resources
    far = yaml.safe_load(cluster_role(FAR))["rules"]
    assert {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]} in far
    for rule in role["rules"]:
        prefix = f"/apis/{rule['apiGroups'][0]}/v1" if rule["apiGroups"][0] else "/api/v1"
        for resource in rule["resources"]:
            named, _, sub = resource.partition("/")
            path = f"{prefix}/namespaces/ns/{named}/name" + (f"/{sub}" if sub else "")
            assert refusal(Request.of("GET", path), NEAR, METADATA_ONLY) == "", path


# -- what is found ----------------------------------------------------------------------------------------


def test_the_how_tos_stack_is_found(side):
    found = discover(side(*their.how_to_stack())[1])
    assert (found.kubernetes, found.node, found.is_k3s) == ("v1.28.15", "v1.28.5+k3s1", True)
    assert found.cert_manager is not None
    assert (found.cert_manager.namespace, found.cert_manager.version) == ("cert-manager", "v1.7.1")
    assert (found.olm_namespace, found.olm_version) == ("olm", "v0.26.0")
    operator = found.operator
    assert operator is not None
    assert (operator.how, operator.version, operator.namespace) == (OLM, "1.15.1", "operators")
    assert operator.subscription == "my-gitlab-runner-operator"
    assert operator.deployment == "gitlab-runner-controller-manager"
    (runner,) = found.runners
    assert (str(runner), runner.secret, runner.version) == (
        "default/gitlab-runner",
        "gitlab-runner-secret",
        "16.0.1",
    )
    assert found.sources["operator"] == "ClusterServiceVersion operators/gitlab-runner-operator.v1.15.1"
    profile = found.profile(ProvisionOptions(profile="found"))
    assert profile.requested == {
        "k3s": "v1.28.5+k3s1",
        "cert-manager": "v1.7.1",
        "olm": "v0.26.0",
        "operator": "1.15.1",
        "runner": "16.0.1",
    }
    assert profile.operator.csv == operator.csv


def test_other_names_are_found_as_well(side):
    found = discover(
        side(
            their.node("v1.33.1-eks-1234"),
            *their.cert_manager("pki", "certs-cert-manager", "v1.21.2"),
            *their.operator_by_manifest("gitlab-operator", "runner-controller", "1.53.0"),
            *their.runner("ci", "one", "19.4.0", config="ours"),
            *their.runner("ci", "two", "19.4.0"),
        )[1]
    )
    assert found.cert_manager is not None
    assert found.cert_manager.namespace == "pki"
    assert found.cert_manager.deployments == (
        "certs-cert-manager",
        "certs-cert-manager-cainjector",
        "certs-cert-manager-webhook",
    )
    assert (found.is_k3s, found.olm_namespace) == (False, "")
    assert found.operator is not None
    assert (found.operator.how, found.operator.version, found.operator.deployment) == (
        MANIFEST,
        "1.53.0",
        "runner-controller",
    )
    assert [(str(it), it.config) for it in found.runners] == [("ci/one", "ours"), ("ci/two", "")]


@pytest.mark.parametrize(
    ("profile", "asked", "judged"),
    [(FOUND, {}, "1.53.0"), (FOUND, {"operator": "1.15.1"}, "1.15.1"), ("seed", {}, "1.15.1")],
)
def test_an_operator_by_digest_is_judged_as_the_newest_or_as_asked_for(side, profile, asked, judged):
    operator = their.operator_by_manifest()
    (deployment,) = (it for it in operator if it["kind"] == "Deployment")
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        container["image"] = f"{container['image'].partition(':')[0]}@sha256:{'0' * 64}"
    found = discover(side(*operator)[1])
    assert found.operator is not None
    assert found.operator.version == ""
    assert found.profile(ProvisionOptions(profile=profile, overrides=asked)).operator.version == judged
    assert "judged as the newest that is known, or as --operator-version says" in "\n".join(found.lines())


def test_helm_is_told_from_a_manifest(side):
    annotations = {"meta.helm.sh/release-name": "gitlab-operator"}
    found = discover(side(*their.operator_by_manifest(annotations=annotations))[1])
    assert found.operator is not None
    assert found.operator.how == HELM


def test_several_operators_are_asked_back(side):
    _, kube = side(*their.operator_by_manifest("a"), *their.operator_by_olm("b"))
    with pytest.raises(UsageError, match="2 GitLab Runner Operators are there, in namespaces a, b") as told:
        discover(kube)
    assert told.value.hint == "name the one that is meant: --operator-namespace a"
    found = discover(kube, "b")
    assert found.operator is not None
    assert found.operator.how == OLM
    with pytest.raises(UsageError, match="no operator is there"):
        discover(kube, "c")


def test_while_olm_upgrades_the_newer_csv_is_the_one(side):
    older = their.csv("gitlab-runner-operator.v1.15.0", "operators", "1.15.0")
    newer = their.csv(
        "gitlab-runner-operator.v1.15.1",
        "operators",
        "1.15.1",
        spec={"replaces": "gitlab-runner-operator.v1.15.0"},
    )
    found = discover(side(older, newer)[1])
    assert found.operator is not None
    assert found.operator.version == "1.15.1"


def test_a_runner_is_picked_or_asked_for(side):
    found = discover(side(*their.runner("ci", "one"), *their.runner("ci", "two"))[1])
    assert [str(it) for it in chosen(found, "ci/two").runners] == ["ci/two"]
    with pytest.raises(UsageError, match="--runner ci/three: there is no such Runner") as told:
        chosen(found, "ci/three")
    assert told.value.hint == "there are: ci/one, ci/two"
    with pytest.raises(UsageError, match="2 Runners are there: ci/one, ci/two") as told:
        only_runner(found)
    assert told.value.hint == "name one of them: --runner ci/one"
    assert str(only_runner(chosen(found, "ci/two"))) == "ci/two"


def test_nothing_is_found_where_nothing_is(side):
    cluster, kube = side()
    cluster.absent |= {"cert-manager.io", "operators.coreos.com", "apps.gitlab.com"}
    found = discover(kube)
    assert (found.cert_manager, found.operator, found.runners, found.unseen) == (None, None, (), ())
    assert found.profile(ProvisionOptions(profile="found")).operator.csv == "gitlab-runner-operator.v1.15.1"


def test_what_may_not_be_seen_is_said_once(side):
    cluster, kube = side(*their.how_to_stack())
    cluster.forbidden |= {("list", "nodes"), ("list", "runners")}
    found = discover(kube)
    assert found.unseen == (
        "the kubeconfig's user may not list nodes",
        "the kubeconfig's user may not list runners.apps.gitlab.com",
    )


def test_what_was_found_is_the_same_in_another_process(side, tmp_path):
    found = discover(side(*their.how_to_stack())[1])
    found.save(tmp_path)
    assert Found.load(tmp_path) == found


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("build: {script: [x], tags: [jh]}", {"build": ["jh"]}),
        (
            "default: {tags: [a]}\nbuild: {script: [x]}\nother: {script: [x], tags: [b, c]}",
            {"build": ["a"], "other": ["b", "c"]},
        ),
        (".hidden: {tags: [a]}\nvariables: {tags: a}\nbuild: {script: !reference [.x, script]}", {}),
        ("build: [", {}),
        ("- a list", {}),
    ],
)
def test_tags_of_a_ci_file(text, tags):
    assert tags_of_jobs(text) == tags


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("", Way("plain", "daemonless")),
        ("[[runners]]\n[runners.kubernetes]\nprivileged = true\n", Way("dind", "dind")),
        ((FILES / "custom-config.toml").read_text(), Way("docker-sock", "docker-sock")),
        ("[[runners", Way("plain", "daemonless")),
    ],
)
def test_a_runner_builds_in_the_way_that_its_config_offers(side, text, way):
    config = their.thing("v1", "ConfigMap", "ours", "ci", data={"config.toml": text})
    _, kube = side(*their.runner("ci", "one", config="ours"), config)
    assert way_from_cluster(kube, FoundRunner("ci", "one", config="ours")) == way


def test_what_is_secret_in_a_config_is_cut_off_where_it_is_read():
    text = """\
[[runners]]
  id = 7
  token = "glrt-never-shown-to-anybody"
  token_obtained_at = 2026-01-01T00:00:00Z
  environment = ["PASSWORD=never-shown"]
  [runners.cache.s3]
    SecretKey = "never-shown"
  [runners.kubernetes]
    image = "alpine"
    bearer_token = "never-shown"
"""
    sed, *words, _ = READ_CONFIG
    printed = subprocess.run([sed, *words], input=text, capture_output=True, text=True, check=True).stdout
    assert "shown" not in printed
    (runner,) = tomllib.loads(printed)["runners"]
    assert (runner["id"], runner["token"], runner["kubernetes"]["image"]) == (7, "glrt-", "alpine")


@pytest.mark.parametrize("status", [404, 403])
def test_a_ci_file_that_may_not_be_read_is_not_taken_for_none(status: int) -> None:
    def unreadable(**_: Any) -> None:
        raise gitlab.GitlabGetError("no", response_code=status)

    runner = SimpleNamespace(id=7, paused=False, tag_list=["builds"], run_untagged=False)
    project = SimpleNamespace(
        runners=SimpleNamespace(list=lambda **_: [runner]),
        files=SimpleNamespace(get=unreadable),
        default_branch="main",
    )
    client = SimpleNamespace(url="https://gitlab.example.com", projects={"g/p": project})
    stack = SimpleNamespace(options=SimpleNamespace(gitlab_project="g/p"))
    seen = AcceptedRunner(
        SimpleNamespace(getfixturevalue=lambda name: client),  # type: ignore[arg-type]
        stack,  # type: ignore[arg-type]
        FoundRunner("ci", "one"),
    )
    if status == 404:
        seen.assert_takes_jobs(runner)
        return
    with pytest.raises(HarnessError) as caught:
        seen.assert_takes_jobs(runner)
    assert caught.value.reason_id == "gitlab/forbidden"
