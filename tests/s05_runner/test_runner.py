"""How-to, "Creating a GitLab Runner with the operator"."""

from __future__ import annotations

import base64
import tomllib

import pytest

from fixtures import expect
from fixtures.accepted import AcceptedRunner
from fixtures.gitlab import GitLabTarget
from fixtures.runner import SeenRunner
from fixtures.runner_sides import left_of
from fixtures.stack import Note, Reached
from fixtures.workloads import ready_column, restarts
from harness.diagnosis import classify
from harness.diagnosis.facts import orphan_facts
from harness.kube import Kube, Object
from harness.profile import Profile
from harness.stack import csv as csv_says
from harness.stack.operator import webhook_answer
from harness.stack.runner import SECRET_NAME
from harness.versions import facts
from harness.wait import Watched, wait_for

CONFIG_KEYS = ["check-live", "ci_server_url", "config.toml", "configure", "entrypoint", "register-runner"]
MADE_TIMEOUT_S = 30
"""Seen: less than a second after the Runner was accepted."""
RECENT_CONTACT_S = 300
"""A runner asks for jobs every 30 s; GitLab calls it online for two hours after the last time."""
GONE_TIMEOUT_S = 90
"""The pod's preStop unregisters first, and its grace period is 30 s."""


def _token_key(runner: SeenRunner, secret: Object) -> str:
    """The key that holds the token: of several that the operator reads the one that is there."""
    keys = facts.TOKEN_KEYS.at(runner.stack.profile.operator.version)
    return next((it for it in keys if it in (secret.get("data") or {})), keys[0])


def _token(runner: SeenRunner) -> str:
    found = runner.kube.get("v1/Secret", runner.secret, runner.namespace)
    secret = expect.there(found, f"Secret {runner.secret}")
    key, data = _token_key(runner, secret), secret.get("data") or {}
    assert key in data, f"Secret {runner.secret} has keys {sorted(data)}, the operator reads {key}"
    return base64.b64decode(data[key]).decode()


@pytest.mark.outcome("runner/token", needs=["operator/csv-succeeded"])
def test_the_token(runner: SeenRunner) -> None:
    """Creating a project runner in GitLab gives a runner authentication token.

    How-to, "Getting the registration token": "New project runner … the token starts with plrt by default"
    (a slip for glrt-, which is what GitLab documents).
    """
    if isinstance(runner, AcceptedRunner):  # whose Secret is not read
        start = runner.token_start()
        assert start.startswith("glrt"), f"the token in the pod's config.toml starts with {start!r}"
        return
    token = _token(runner)
    well_formed = token.startswith("glrt-") and len(token) >= 14
    assert well_formed, f"the token starts with {token[:5]!r} and has {len(token)} characters"


@pytest.mark.outcome("runner/secret", needs=["runner/token"])
def test_the_secret(runner: SeenRunner) -> None:
    """The Secret holds the token under the key that the operator reads, and is Opaque.

    How-to, "Creating the Secret": "secret/jh-gitlab-runner-secret created, runner-registration-token: …".
    """
    found = runner.kube.get("v1/Secret", runner.secret, runner.namespace)
    secret = expect.there(found, f"Secret {runner.secret}")
    expect.fields(
        secret, {"type": "Opaque", f"data.{_token_key(runner, secret)}": bool}, f"Secret {runner.secret}"
    )


@pytest.mark.outcome("runner/accepted", needs=["operator/crd", "operator/controller", "runner/secret"])
def test_the_runner_is_accepted(request: pytest.FixtureRequest, runner: SeenRunner) -> None:
    """The Runner resource passed the operator's webhooks and is stored as it was written.

    How-to, "Creating the Runner CRD": "runner.apps.gitlab.com/jh-gitlab-runner created; kubectl get runner".
    """
    if isinstance(runner, AcceptedRunner):
        expect.fields(runner.resource(), runner.wanted_resource())
        if not runner.stack.options.no_dry_run:
            answer = webhook_answer(runner.kube)
            assert not answer, f"the operator's webhooks don't answer a dry run: {answer}"
        return
    target: GitLabTarget = request.getfixturevalue("gitlab_target")
    expect.fields(
        runner.resource(),
        {"spec.gitlabUrl": target.url, "spec.buildImage": "alpine", "spec.token": SECRET_NAME},
    )


@pytest.mark.outcome("runner/pod", needs=["runner/accepted"])
def test_the_runner_s_pod(runner: SeenRunner) -> None:
    """The Runner's pod is 1/1 Running, without a restart.

    How-to, "Creating the Runner CRD": "jh-gitlab-runner-runner-6f7c4bf7dc-r9lzh 1/1 Running 0".
    """
    pod = runner.pod()
    assert pod["metadata"]["name"].startswith(f"{runner.name}-runner-"), f"it is {pod['metadata']['name']}"
    assert ready_column(pod) == "1/1", f"{expect.ref(pod)} is {ready_column(pod)}"
    again = restarts(pod, runner.stack)
    assert again == 0, f"{expect.ref(pod)} was restarted {again} time(s)"
    if isinstance(runner, AcceptedRunner) and runner.resource()["spec"].get("serviceaccount"):
        return  # somebody chose another
    version = runner.stack.profile.operator.version
    account = pod["spec"].get("serviceAccountName")
    assert account == facts.RUNNER_SERVICE_ACCOUNT.at(version), f"its ServiceAccount is {account}"


@pytest.mark.outcome("runner/config-map", needs=["runner/accepted"])
def test_the_config_map(runner: SeenRunner, profile: Profile) -> None:
    """The Runner's ConfigMap has six keys, and the documented default config.toml.

    How-to, "Running docker in a pod": "jh-gitlab-runner-runner-config DATA 6", and the four lines.
    """
    name = f"{runner.name}-runner-config"
    found = wait_for(
        lambda: runner.kube.get("v1/ConfigMap", name, runner.namespace),
        ready=lambda it: it is not None,
        what=f"the operator has made ConfigMap {name}",
        timeout_s=MADE_TIMEOUT_S,
        kube=runner.kube,
        watch=[Watched("v1/ConfigMap", runner.namespace, name)],
    )
    assert found is not None  # ready() said so
    keys = sorted(found["data"])
    assert keys == CONFIG_KEYS, f"ConfigMap {name} has keys {keys}"
    text, documented = found["data"]["config.toml"], facts.DEFAULT_CONFIG.at(profile.operator.version)
    settings = tomllib.loads(text)
    wanted = dict(documented.settings)
    if isinstance(runner, AcceptedRunner):
        wanted = runner.default_settings()
    others = settings.keys() - documented.settings.keys() - documented.others
    kept = {key: settings.get(key) for key in wanted}
    assert kept == wanted, f"config.toml is\n{text}"
    assert not others, f"config.toml sets {sorted(others)} as well:\n{text}"


@pytest.mark.outcome("runner/config-toml", needs=["runner/pod"])
def test_the_config_toml_in_the_pod(runner: SeenRunner, installed: Object, profile: Profile) -> None:
    """The config.toml in the pod says what the how-to's listing says.

    How-to, "Running docker in a pod": "[runners.kubernetes] host = "", image = "alpine",
    namespace = "default", helper_image = …gitlab-runner-helper-ocp:v16.0.1, poll_timeout = 180, …".
    """
    config = runner.kubernetes_config()
    helper = csv_says.helper_image(installed, profile)
    by_digest = facts.HELPER_BY_DIGEST.at(profile.operator.version)
    assert ("@sha256:" in helper) == by_digest, f"the operator names its helper image {helper}"
    documented = {
        "host": "",
        "bearer_token_overwrite_allowed": False,
        "image": "alpine",
        "namespace": runner.namespace,
        "namespace_overwrite_allowed": "",
        "node_selector_overwrite_allowed": "",
        "helper_image": helper,
        "poll_timeout": 180,
        "pod_labels_overwrite_allowed": "",
        "service_account_overwrite_allowed": "",
        "pod_annotations_overwrite_allowed": "",
    }
    if isinstance(runner, AcceptedRunner):
        documented = {**documented, **runner.chosen_settings()}
    wrong = {key: (value, config.get(key)) for key, value in documented.items() if config.get(key) != value}
    assert not wrong, "\n".join(f"{k}: expected {want!r}, found {got!r}" for k, (want, got) in wrong.items())
    privileged = bool(config.get("privileged"))
    assert privileged == bool(documented.get("privileged")), "the default Runner is privileged"


@pytest.mark.outcome("runner/version", needs=["runner/pod"])
def test_the_runner_s_version(runner: SeenRunner, reached: Reached) -> None:
    """The runner in the pod is of the version that the operator ships.

    How-to, "Running docker in a pod": the helper image is gitlab-runner-helper-ocp:v16.0.1.
    """
    reached("runner", runner.version())


@pytest.mark.outcome("runner/online", needs=["runner/pod"])
def test_the_runner_is_online(runner: SeenRunner, note: Note) -> None:
    """GitLab shows the runner online, as a runner of this project, with its tag.

    How-to, "Creating the Runner CRD": the project's Runner page shows that its own runner is registered.
    """
    found = runner.wait_status("online")
    silent = runner.silent_s()
    assert silent < RECENT_CONTACT_S, f"it is called online, and was last heard of {silent:.0f} s ago"
    if isinstance(runner, AcceptedRunner):
        note(runner.told(found))
        runner.assert_takes_jobs(found)
        return
    assert found.runner_type == "project_type", f"it is a runner of type {found.runner_type}"
    assert found.tag_list == [runner.tag], f"its tags are {found.tag_list}"
    projects = [project["path_with_namespace"] for project in found.projects]
    assert projects == [runner.project], f"it is a runner of {projects}"
    listed = [one.id for one in runner.gl.projects.get(runner.project_id).runners.list(get_all=True)]
    assert runner.runner_id in listed, f"the project lists runners {listed}, not {runner.runner_id}"


@pytest.mark.outcome("runner/deleted", needs=["runner/pod"])
def test_a_deleted_runner_leaves_nothing(runner_to_delete: SeenRunner, note: Note) -> None:
    """Deleting the Runner removes all that the operator made for it, and GitLab no longer shows it online.

    How-to, "Creating the Runner CRD": everything hangs on this one resource.
    """
    runner, kube = runner_to_delete, runner_to_delete.kube
    runner.resource()
    runner.pod()
    runner.wait_status("online")
    before = runner.managers()
    assert [one["status"] for one in before] == ["online"], "GitLab shows no manager to go away"
    made = _made_for(runner)
    assert made, "the operator made nothing for this Runner"
    kube.delete("apps.gitlab.com/v1beta2/Runner", runner.name, runner.namespace)
    wait_for(
        lambda: _made_for(runner),
        ready=lambda left: not left,
        what=f"everything of Runner {runner.namespace}/{runner.name} is gone",
        timeout_s=GONE_TIMEOUT_S,
        kube=kube,
        watch=[Watched("v1/Pod", runner.namespace), Watched("apps/v1/Deployment", runner.namespace)],
        hopeless=lambda left: classify(orphan_facts(left)),
        describe=lambda left: ", ".join(map(expect.ref, left)),
    )
    left, back = left_of(before, runner.managers())
    assert not left, f"GitLab still shows a runner manager as {[one['status'] for one in left]}"
    if back:
        note(
            "the deleted Runner unregistered and asked for a job once more before it ended: GitLab shows its "
            "manager until it has been silent for two hours"
        )


def _made_for(runner: SeenRunner) -> list[Object]:
    """Objects in the Runner's namespace that bear its name."""
    kinds = ("apps/v1/Deployment", "v1/ConfigMap", "v1/Service", "v1/Pod")
    found = [item for kind in kinds for item in _list(runner.kube, kind, runner.namespace)]
    return [item for item in found if item["metadata"]["name"].startswith(f"{runner.name}-runner")]


def _list(kube: Kube, kind: str, namespace: str) -> list[Object]:
    return kube.list(kind, namespace)
