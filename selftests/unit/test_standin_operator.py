"""The operator stand-in: what it makes of a Runner, its bundles, its errors."""

from __future__ import annotations

import base64
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from lab.standins.gitlab_runner_operator import generate
from lab.standins.gitlab_runner_operator.controller import reconcile, release, render, webhook
from lab.standins.gitlab_runner_operator.controller.main import Queue

STANDIN = Path(generate.__file__).parent
FIRST = "1.15.0 1.15.1 1.20.0"
HOW_TO_CONFIG_TOML = """\
concurrent = 10
check_interval = 30
log_level = "info"
listen_address = '[::]:9252'"""
Object = dict[str, Any]


def runner(**spec: Any) -> Object:
    """The how-to's Runner."""
    return {
        "apiVersion": "apps.gitlab.com/v1beta2",
        "kind": "Runner",
        "metadata": {"name": "jh-gitlab-runner", "namespace": "demo", "uid": "u-1"},
        "spec": {
            "gitlabUrl": "https://jihulab.com",
            "buildImage": "alpine",
            "token": "jh-gitlab-runner-secret",
            **spec,
        },
    }


def values(env: list[Object]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in env if "value" in entry}


# Rendering


def test_config_map_is_the_how_tos() -> None:
    config_map = render.config_map(runner())
    assert config_map["metadata"]["name"] == "jh-gitlab-runner-runner-config"
    assert sorted(config_map["data"]) == [
        "check-live",
        "ci_server_url",
        "config.toml",
        "configure",
        "entrypoint",
        "register-runner",
    ]
    assert config_map["data"]["config.toml"] == HOW_TO_CONFIG_TOML
    assert config_map["data"]["ci_server_url"] == "https://jihulab.com"


def test_concurrent_and_interval_reach_config_toml() -> None:
    text = render.config_map(runner(concurrent=2, interval=5))["data"]["config.toml"]
    assert text.startswith("concurrent = 2\ncheck_interval = 5\n")


@pytest.mark.parametrize(
    "made",
    [
        render.config_map(runner()),
        render.metrics_service(runner()),
        render.deployment(runner(), authentication_token=True),
    ],
    ids=lambda made: made["kind"],
)
def test_everything_named_after_the_runner_is_owned_by_it(made: Object) -> None:
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Runner", "jh-gitlab-runner", "u-1")
    assert owner["controller"]
    assert made["metadata"]["namespace"] == "demo"


def test_deployment_has_the_names_that_users_see() -> None:
    made = render.deployment(runner(), authentication_token=True)
    pod = made["spec"]["template"]["spec"]
    assert made["metadata"]["name"] == "jh-gitlab-runner-runner"
    assert [c["name"] for c in pod["containers"]] == ["runner"]
    assert [c["name"] for c in pod["initContainers"]] == ["configure"]
    assert pod["containers"][0]["image"].endswith("/gitlab-runner-ocp:v16.0.1")
    assert pod["serviceAccountName"] == "gitlab-runner-sa"
    mounted = {m["name"] for c in (*pod["containers"], *pod["initContainers"]) for m in c["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_authentication_token_is_registered_without_what_gitlab_keeps() -> None:
    spec = {"tags": "jh", "locked": True, "runUntagged": True, "protected": True}
    env = values(render.environment(runner(**spec), authentication_token=True))
    assert not {"REGISTER_LOCKED", "RUNNER_TAG_LIST", "REGISTER_RUN_UNTAGGED", "REGISTER_ACCESS_LEVEL"} & set(
        env
    )
    assert env["KUBERNETES_NAMESPACE"] == "demo"
    assert env["KUBERNETES_IMAGE"] == "alpine"
    assert env["KUBERNETES_HELPER_IMAGE"].endswith("/gitlab-runner-helper-ocp:v16.0.1")


def test_registration_token_is_registered_with_them() -> None:
    spec = {"tags": "jh", "runUntagged": True, "protected": True}
    env = values(render.environment(runner(**spec), authentication_token=False))
    assert env["REGISTER_LOCKED"] == "false"
    assert env["RUNNER_TAG_LIST"] == "jh"
    assert env["REGISTER_RUN_UNTAGGED"] == "true"
    assert env["REGISTER_ACCESS_LEVEL"] == "ref_protected"


def test_config_is_the_registration_template() -> None:
    made = render.deployment(runner(config="custom-config-toml"), authentication_token=True)
    pod = made["spec"]["template"]["spec"]
    path = values(pod["containers"][0]["env"])["TEMPLATE_CONFIG_FILE"]
    (volume,) = [v for v in pod["volumes"] if v.get("configMap", {}).get("name") == "custom-config-toml"]
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == volume["name"]]
    assert path == f"{mount['mountPath']}/config.toml"


def test_a_changed_configuration_changes_the_pod() -> None:
    first, second = (
        render.deployment(runner(concurrent=n), authentication_token=True)["spec"]["template"]["metadata"]
        for n in (1, 2)
    )
    assert first["annotations"] != second["annotations"]


def test_optional_fields_reach_the_pod() -> None:
    spec = {
        "env": "extra",
        "ca": "gitlab-ca",
        "runnerImage": "r:1",
        "helperImage": "h:1",
        "serviceaccount": "mine",
        "cloneURL": "http://inside",
        "s3": {"bucket": "b", "credentials": "s3-keys"},
    }
    made = render.deployment(runner(**spec), authentication_token=True)["spec"]["template"]["spec"]
    (container,) = made["containers"]
    env = values(container["env"])
    assert container["envFrom"] == [{"configMapRef": {"name": "extra"}}]
    assert (container["image"], env["KUBERNETES_HELPER_IMAGE"]) == ("r:1", "h:1")
    assert (made["serviceAccountName"], env["CLONE_URL"]) == ("mine", "http://inside")
    assert env["CACHE_S3_BUCKET_NAME"] == "b"
    projected = [
        s["secret"]["name"] for v in made["volumes"] for s in v.get("projected", {}).get("sources", ())
    ]
    assert projected == ["jh-gitlab-runner-secret", "gitlab-ca", "s3-keys"]


@pytest.mark.parametrize("script", sorted(p.name for p in render.SCRIPTS.iterdir() if p.is_file()))
def test_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", render.SCRIPTS / script], check=True)


# Bundles


def csv(version: str) -> Object:
    return generate.manifests(version)["gitlab-runner-operator.clusterserviceversion.yaml"]


def test_csv_is_the_how_tos() -> None:
    """``kubectl get csv`` in the how-to: name, DISPLAY, VERSION, REPLACES."""
    found = csv("1.15.1")
    assert found["metadata"]["name"] == "gitlab-runner-operator.v1.15.1"
    assert found["spec"]["displayName"] == "GitLab Runner"
    assert found["spec"]["version"] == "1.15.1"
    assert found["spec"]["replaces"] == "gitlab-runner-operator.v1.15.0"
    (deployment,) = found["spec"]["install"]["spec"]["deployments"]
    containers = deployment["spec"]["template"]["spec"]["containers"]
    assert deployment["name"] == "gitlab-runner-controller-manager"
    assert [c["name"] for c in containers] == ["kube-rbac-proxy", "manager"]
    assert containers[0]["image"] == "gcr.io/kubebuilder/kube-rbac-proxy:v0.8.0"
    assert containers[1]["image"].endswith("/gitlab-runner-operator:v1.15.1")


def test_versions_differ_in_what_names_them_only() -> None:
    def neutral(version: str) -> Object:
        text = yaml.safe_dump(csv(version))
        replaces, created, _ = generate.VERSIONS[version]
        for value, name in ((version, "V"), (replaces, "R"), (created, "T")):
            text = text.replace(value, name)
        return yaml.safe_load(text)

    assert neutral("1.15.0") == neutral("1.15.1") == neutral("1.20.0")


def test_operator_may_grant_what_it_grants() -> None:
    """The API server refuses a Role with more rights than its author has."""
    own = csv("1.15.1")["spec"]["install"]["spec"]["clusterPermissions"][0]["rules"]
    has = {
        (group, resource, verb)
        for rule in own
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    role = next(obj for _, obj in render.runner_rbac("demo") if obj["kind"] == "Role")
    (rule,) = role["rules"]
    assert {("", resource, verb) for resource in rule["resources"] for verb in rule["verbs"]} <= has


def test_crd_knows_no_pod_spec() -> None:
    """podSpec came with 1.23; before, the API server drops it."""
    crd = generate.manifests("1.15.1")["apps.gitlab.com_runners.yaml"]
    (version,) = crd["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert spec["required"] == ["gitlabUrl", "token"]
    assert "podSpec" not in spec["properties"]
    assert {"config", "buildImage", "ca", "tags", "runUntagged"} <= set(spec["properties"])


def test_catalog_is_one_channel_up_to_1_20(tmp_path: Path) -> None:
    generate.render(tmp_path, {"variables": {"operators": FIRST, "runner": "16.0.1"}, "digests": {}})
    blobs = list(yaml.safe_load_all((tmp_path / "catalog/gitlab-runner-operator/catalog.yaml").read_text()))
    (channel,) = [b for b in blobs if b["schema"] == "olm.channel"]
    assert channel["name"] == "stable"
    assert [(e["name"][-6:], e.get("replaces", "")[-6:]) for e in channel["entries"]] == [
        ("1.15.0", ""),
        ("1.15.1", "1.15.0"),
        ("1.20.0", "1.15.1"),
    ]
    assert {b["image"] for b in blobs if b["schema"] == "olm.bundle"} == {
        f"quay.io/operatorhubio/gitlab-runner-operator:v{v}" for v in FIRST.split()
    }
    for version in FIRST.split():
        assert len(list((tmp_path / f"v{version}" / "manifests").iterdir())) == 8
        labels = yaml.safe_load((tmp_path / f"v{version}" / "metadata/annotations.yaml").read_text())
        assert labels["annotations"]["operators.operatorframework.io.bundle.mediatype.v1"] == "registry+v1"


# Reconciling


class Store:
    """The API server, as far as one reconcile goes: objects by path."""

    def __init__(self, *objects: tuple[str, Object]) -> None:
        self.objects = dict(objects)
        self.logs = ""

    def get(self, path: str) -> Object | None:
        return self.objects.get(path)

    def call(self, method: str, path: str, body: Any = None, content_type: str = "") -> Object:
        assert method == "GET"
        pods = [{"metadata": {"name": "p"}, "status": {"phase": "Running"}}] if self.logs else []
        return {"items": pods}

    def text(self, path: str) -> str:
        return self.logs

    def create_if_missing(self, collection: str, obj: Object) -> None:
        self.objects.setdefault(f"{collection}/{obj['metadata']['name']}", obj)

    def apply(self, collection: str, obj: Object) -> Object:
        self.objects[f"{collection}/{obj['metadata']['name']}"] = obj
        return obj

    def merge(self, path: str, patch: Object) -> Object:
        path = path.removesuffix("/status")
        for key, value in patch.items():
            old = self.objects[path].setdefault(key, {})
            old.update(value)
            for gone in [k for k, v in value.items() if v is None]:
                old.pop(gone)
        return self.objects[path]


RUNNER_PATH = "/apis/apps.gitlab.com/v1beta2/namespaces/demo/runners/jh-gitlab-runner"
SECRET_PATH = "/api/v1/namespaces/demo/secrets/jh-gitlab-runner-secret"
DEPLOYMENT_PATH = "/apis/apps/v1/namespaces/demo/deployments/jh-gitlab-runner-runner"


def secret(**data: str) -> tuple[str, Object]:
    encoded = {k.replace("_", "-"): base64.b64encode(v.encode()).decode() for k, v in data.items()}
    return SECRET_PATH, {"data": encoded}


def reconciled(*objects: tuple[str, Object], logs: str = "") -> Store:
    store = Store((RUNNER_PATH, runner()), *objects)
    store.logs = logs
    reconciler = reconcile.Reconciler(store, lambda *_, **__: None)  # type: ignore[arg-type]
    reconciler.reconcile("demo", "jh-gitlab-runner")
    return store


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([], 'Secret "jh-gitlab-runner-secret" not found'),
        (
            [secret(runner_token="glrt-x")],
            "runner-registration-token key not found in jh-gitlab-runner-secret secret",
        ),
        ([secret(runner_registration_token="")], "runner-registration-token can not be empty"),
    ],
    ids=["no secret", "only runner-token", "empty"],
)
def test_a_bad_token_secret_is_an_error(objects: list[tuple[str, Object]], message: str) -> None:
    with pytest.raises(reconcile.ReconcileError) as raised:
        reconciled(*objects)
    assert str(raised.value) == message


def test_the_failing_runner_says_why_and_has_no_deployment() -> None:
    store = Store((RUNNER_PATH, runner()), secret(other="x"))
    with pytest.raises(reconcile.ReconcileError):
        reconcile.Reconciler(store, lambda *_, **__: None).reconcile("demo", "jh-gitlab-runner")  # type: ignore[arg-type]
    assert "key not found" in store.objects[RUNNER_PATH]["status"]["message"]
    assert DEPLOYMENT_PATH not in store.objects


def test_secret_gets_the_second_key_and_the_pod_both() -> None:
    store = reconciled(secret(runner_registration_token="glrt-abcdefghijklmnopqrst"))
    assert store.objects[SECRET_PATH]["data"]["runner-token"] == ""
    env = store.objects[DEPLOYMENT_PATH]["spec"]["template"]["spec"]["containers"][0]["env"]
    keys = {e["valueFrom"]["secretKeyRef"]["key"] for e in env if "secretKeyRef" in e.get("valueFrom", {})}
    assert keys == {"runner-registration-token", "runner-token"}
    assert "REGISTER_LOCKED" not in values(env)


@pytest.mark.parametrize(
    ("logs", "status"),
    [
        ("Verifying runner... is valid   runner=x", {"phase": "Pending"}),
        ("Registering runner... succeeded   runner=x", {"phase": "Running", "registration": "succeeded"}),
    ],
    ids=["authentication token", "registration token"],
)
def test_phase_follows_the_words_in_the_log(logs: str, status: Object) -> None:
    store = reconciled(secret(runner_registration_token="GR1348941EXAMPLE"), logs=logs)
    assert store.objects[RUNNER_PATH]["status"] == status


def test_a_deleted_runner_is_left_to_its_owner_references() -> None:
    store = Store()
    reconcile.Reconciler(store, lambda *_, **__: None).reconcile("demo", "gone")  # type: ignore[arg-type]
    assert store.objects == {}


# Queue and webhooks


def take(queue: Queue) -> tuple[str, str] | None:
    """The next key, or None when none comes within 5 s."""
    taken: list[tuple[str, str]] = []
    waiting = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
    waiting.start()
    waiting.join(5)
    return taken[0] if taken else None


def test_queue_holds_a_key_once_and_takes_the_earliest() -> None:
    queue = Queue()
    queue.add(("n", "later"), 3600)
    queue.add(("n", "a"))
    queue.add(("n", "a"))
    queue.add(("n", "later"))
    assert [take(queue), take(queue)] == [("n", "a"), ("n", "later")]
    queue.add(("n", "a"))
    assert take(queue) == ("n", "a")


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_admission_answers_in_the_version_asked(version: str) -> None:
    review = {"apiVersion": f"admission.k8s.io/{version}", "kind": "AdmissionReview", "request": {"uid": "7"}}
    assert webhook.admit(review) == {
        "apiVersion": f"admission.k8s.io/{version}",
        "kind": "AdmissionReview",
        "response": {"uid": "7", "allowed": True},
    }


def test_conversion_returns_every_object_in_the_version_asked() -> None:
    request = {
        "uid": "8",
        "desiredAPIVersion": "apps.gitlab.com/v1beta2",
        "objects": [runner(), runner(tags="x")],
    }
    response = webhook.convert({"apiVersion": "apiextensions.k8s.io/v1", "request": request})["response"]
    assert response["convertedObjects"] == request["objects"]
    assert response["result"] == {"status": "Success"}


def certificate(directory: Path, name: str) -> None:
    """A self-signed tls.crt and tls.key for localhost."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(directory / "tls.key"), "-out", str(directory / "tls.crt")]
    subprocess.run([*command, *files], check=True, capture_output=True)


def trusting(directory: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(directory / "tls.crt"))


def test_webhooks_answer_over_tls_and_take_up_a_new_certificate(tmp_path: Path) -> None:
    certificate(tmp_path, "first")
    server = webhook.serve_webhooks(0, tmp_path)
    assert server
    url = f"https://localhost:{server.server_port}"
    review = {"apiVersion": "admission.k8s.io/v1", "request": {"uid": "7"}}
    try:
        answer = httpx.post(
            f"{url}{webhook.ADMISSION_PATHS[0]}?timeout=10s", json=review, verify=trusting(tmp_path)
        )
        assert answer.json()["response"] == {"uid": "7", "allowed": True}
        assert httpx.post(f"{url}/other", json=review, verify=trusting(tmp_path)).status_code == 404
        assert httpx.post(f"{url}/convert", content=b"x", verify=trusting(tmp_path)).status_code == 400
        certificate(tmp_path, "second")
        path = webhook.ADMISSION_PATHS[1]
        assert httpx.post(f"{url}{path}", json=review, verify=trusting(tmp_path)).status_code == 200
    finally:
        server.shutdown()
        server.server_close()


def test_without_a_certificate_there_are_no_webhooks(tmp_path: Path) -> None:
    assert webhook.serve_webhooks(0, tmp_path) is None


# The second generation

DIGEST = "sha256:" + "5" * 64
SECOND = release.Release("1.53.0", "19.4.0")


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller as 1.53.0."""
    for module in (render, reconcile):
        monkeypatch.setattr(module, "RELEASE", SECOND)


def test_names_of_1_53_are_those_of_its_published_bundle() -> None:
    digests = dict.fromkeys(generate.images("1.53.0", "19.4.0").values(), DIGEST)
    made = generate.manifests("1.53.0", "19.4.0", digests)
    found = made["gitlab-runner-operator.clusterserviceversion.yaml"]
    (deployment,) = found["spec"]["install"]["spec"]["deployments"]
    pod = deployment["spec"]["template"]["spec"]
    assert deployment["name"] == "gitlab-runner-gitlab-runnercontroller-manager"
    assert pod["serviceAccountName"] == "gitlab-runner-sa"
    assert "webhookdefinitions" not in found["spec"]
    assert found["spec"]["replaces"] == "gitlab-runner-operator.v1.52.2"
    images = [container["image"] for container in pod["containers"]]
    env = {e["name"]: e.get("value") for e in pod["containers"][1]["env"]}
    assert all(image.endswith(f"@{DIGEST}") for image in images)
    assert images[0].startswith(
        "registry.gitlab.com/gitlab-org/gl-openshift/gitlab-runner-operator/openshift4/"
    )
    assert env["RELATED_IMAGE_GITLAB_RUNNER_HELPER"].endswith(f"/gitlab-runner-helper-ocp@{DIGEST}")
    assert "GitLab Runner v19.4.0" in found["spec"]["description"]
    related = {entry["image"] for entry in found["spec"]["relatedImages"]}
    assert {*images, env["RELATED_IMAGE_GITLAB_RUNNER"], env["RELATED_IMAGE_GITLAB_RUNNER_HELPER"]} == related
    modes = {mode["type"]: mode["supported"] for mode in found["spec"]["installModes"]}
    assert modes == {
        "OwnNamespace": True, "SingleNamespace": True, "MultiNamespace": False, "AllNamespaces": True,
    }  # fmt: skip
    crd = made["apps.gitlab.com_runners.yaml"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert {"podSpec", "logFormat", "shutdownTimeout"} <= set(crd["properties"]["spec"]["properties"])


@pytest.mark.usefixtures("second")
def test_1_53_writes_more_lines_and_another_service_account() -> None:
    text = render.config_toml(runner(shutdownTimeout=60, logFormat="json")["spec"])
    assert 'log_format = "json"' in text
    assert "shutdown_timeout = 60" in text
    assert text.endswith("listen_address = '[::]:9252'")
    pod = render.deployment(runner(), authentication_token=True)["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "gitlab-runner-app-sa"
    kinds = {obj["kind"]: obj for _, obj in render.runner_rbac("demo")}
    assert kinds["RoleBinding"]["subjects"][0]["name"] == "gitlab-runner-app-sa"
    assert {"events"} in [set(rule["resources"]) for rule in kinds["Role"]["rules"]]


@pytest.mark.usefixtures("second")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"other": "x"}, "runner-token key not found in jh-gitlab-runner-secret secret"),
        ({"runner_token": ""}, "runner-token can not be empty"),
        (
            {"runner_token": "glrt-x", "runner_registration_token": "y"},
            "only one of runner-token and runner-registration-token may be set in "
            "jh-gitlab-runner-secret secret",
        ),
    ],
    ids=["neither", "empty", "both"],
)
def test_1_53_wants_one_key_of_two(data: dict[str, str], message: str) -> None:
    with pytest.raises(reconcile.ReconcileError) as raised:
        reconciled(secret(**data))
    assert str(raised.value) == message


@pytest.mark.usefixtures("second")
def test_1_53_takes_the_newer_key_and_sees_a_verified_runner() -> None:
    store = reconciled(
        secret(runner_token="glrt-abcdefghijklmnopqrst"), logs="Verifying runner... is valid   runner=x"
    )
    assert set(store.objects[SECRET_PATH]["data"]) == {"runner-token"}, "no second key is added"
    assert store.objects[RUNNER_PATH]["status"] == {"phase": "Running", "registration": "valid"}
    pod = store.objects[DEPLOYMENT_PATH]["spec"]["template"]["spec"]
    sources = [entry.get("valueFrom", {}) for entry in pod["containers"][0]["env"]]
    references = [source["secretKeyRef"] for source in sources if "secretKeyRef" in source]
    assert [reference["optional"] for reference in references] == [True, True], "one of two may be missing"
    assert "items" not in pod["volumes"][1]["projected"]["sources"][0]["secret"]


@pytest.mark.usefixtures("second")
def test_what_the_standin_does_not_do_of_a_newer_runner_is_refused_by_name() -> None:
    store = Store(
        (RUNNER_PATH, runner(podSpec=[{"name": "x", "patchType": "merge"}])), secret(runner_token="glrt-x")
    )
    with pytest.raises(reconcile.ReconcileError, match=r"spec\.podSpec is not handled by the stand-in"):
        reconcile.Reconciler(store, lambda *_, **__: None).reconcile("demo", "jh-gitlab-runner")  # type: ignore[arg-type]
