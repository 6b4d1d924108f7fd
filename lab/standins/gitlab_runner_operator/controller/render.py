"""What the operator makes of a Runner: pure functions from the Runner object to Kubernetes objects.

Names, keys, volumes, probes, environment and ``config.toml`` are those of operator 1.15.1 as far as public
sources show them (the how-to's listings; the operator's open ancestor), and what ``release`` says of newer.
Scripts are our own.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from .release import HERE as RELEASE

Object = dict[str, Any]

IMAGES = "registry.gitlab.com/gitlab-org/ci-cd/gitlab-runner-ubi-images/"
RUNNER_IMAGE = os.environ.get("RELATED_IMAGE_GITLAB_RUNNER", f"{IMAGES}gitlab-runner-ocp:v{RELEASE.runner}")
HELPER_IMAGE = os.environ.get(
    "RELATED_IMAGE_GITLAB_RUNNER_HELPER", f"{IMAGES}gitlab-runner-helper-ocp:v{RELEASE.runner}"
)
REFUSED = ("deploymentSpec", "podSpec")
"""Fields of newer Runners that patch what is made of them, which the stand-in does not do."""
ROLE = "gitlab-runner-app-role"
ROLE_BINDING = "gitlab-runner-app-rolebinding"
METRICS_PORT = 9252
TEMPLATE_DIRECTORY = "/runner-template"
SCRIPTS = Path(__file__).parent / "scripts"


def labels(runner: Object) -> dict[str, str]:
    name = runner["metadata"]["name"]
    return {
        "app.kubernetes.io/component": "runner",
        "app.kubernetes.io/instance": f"{name}-runner",
        "app.kubernetes.io/managed-by": "gitlab-runner-operator",
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/part-of": "runner",
    }


def owned(runner: Object, api_version: str, kind: str, suffix: str, **rest: Any) -> Object:
    """An object named ``<runner>-runner<suffix>`` that goes when the Runner goes."""
    meta = runner["metadata"]
    owner = {
        "apiVersion": "apps.gitlab.com/v1beta2",
        "kind": "Runner",
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata = {
        "name": f"{meta['name']}-runner{suffix}",
        "namespace": meta["namespace"],
        "labels": labels(runner),
        "ownerReferences": [owner],
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}


def config_toml(spec: Object) -> str:
    """The global part of the runner's configuration; everything else comes from registration."""
    lines = [
        f"concurrent = {spec.get('concurrent', 10)}",
        f"check_interval = {spec.get('interval', 30)}",
        f'log_level = "{spec.get("logLevel", "info")}"',
    ]
    if RELEASE.has_global_settings:
        lines += [
            f'log_format = "{spec.get("logFormat", "runner")}"',
            f'connection_max_age = "{spec.get("connectionMaxAge", "15m0s")}"',
            f"shutdown_timeout = {spec.get('shutdownTimeout', 30)}",
            *([f'sentry_dsn = "{spec["sentryDsn"]}"'] if spec.get("sentryDsn") else []),
        ]
    return "\n".join([*lines, f"listen_address = '{spec.get('listenAddr', f'[::]:{METRICS_PORT}')}'"])


def config_map(runner: Object) -> Object:
    spec = runner["spec"]
    data = {"ci_server_url": spec["gitlabUrl"], "config.toml": config_toml(spec)}
    data.update({script.name: script.read_text() for script in sorted(SCRIPTS.iterdir()) if script.is_file()})
    return owned(runner, "v1", "ConfigMap", "-config", data=data)


def metrics_service(runner: Object) -> Object:
    port = {"name": "metrics", "port": METRICS_PORT, "protocol": "TCP"}
    return owned(runner, "v1", "Service", "-metrics", spec={"ports": [port], "selector": labels(runner)})


def runner_rbac(namespace: str) -> list[tuple[str, Object]]:
    """(collection path, object) of what the runner's pod needs in its namespace.

    Shared by all Runners there, so owned by none: a runner on its way out still has job pods to delete.
    """

    def named(api: str, kind: str, name: str, **rest: Any) -> Object:
        managed = {"app.kubernetes.io/managed-by": "gitlab-runner-operator"}
        metadata = {"name": name, "namespace": namespace, "labels": managed}
        return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}

    core = (
        "secrets pods pods/attach pods/exec pods/log services services/status services/proxy "
        "services/finalizers persistentvolumeclaims configmaps"
    )
    # Spelled out, not "*": the API server lets the operator grant no more than it has itself.
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    rules = [{"apiGroups": [""], "resources": core.split(" "), "verbs": verbs}]
    if RELEASE.reads_events:
        rules.append({"apiGroups": [""], "resources": ["events"], "verbs": ["get", "list", "watch"]})
    account = RELEASE.service_account
    rbac = "rbac.authorization.k8s.io"
    role_ref = {"apiGroup": rbac, "kind": "Role", "name": ROLE}
    subjects = [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]
    v1, path = f"{rbac}/v1", f"/apis/{rbac}/v1/namespaces/{namespace}"
    return [
        (f"/api/v1/namespaces/{namespace}/serviceaccounts", named("v1", "ServiceAccount", account)),
        (f"{path}/roles", named(v1, "Role", ROLE, rules=rules)),
        (f"{path}/rolebindings", named(v1, "RoleBinding", ROLE_BINDING, roleRef=role_ref, subjects=subjects)),
    ]


def environment(runner: Object, *, authentication_token: bool) -> list[Object]:
    """The variables that ``register`` reads.

    ``authentication_token``: the secret holds a ``glrt-`` token. GitLab itself keeps such a runner's tags and
    flags and ``register`` refuses to be told them, so they are left out.
    """
    spec, name = runner["spec"], runner["metadata"]["name"]
    values: dict[str, Any] = {
        "RUNNER_REQUEST_CONCURRENCY": "1",
        "RUNNER_EXECUTOR": "kubernetes",
        "RUNNER_OUTPUT_LIMIT": "4096",
        "KUBERNETES_NAMESPACE": spec.get("namespace") or runner["metadata"]["namespace"],
        "KUBERNETES_POLL_TIMEOUT": "180",
        "KUBERNETES_HELPER_IMAGE": spec.get("helperImage") or HELPER_IMAGE,
        "KUBERNETES_IMAGE": spec.get("buildImage"),
        "CLONE_URL": spec.get("cloneURL"),
        **cache_environment(spec),
    }
    if not authentication_token:
        values["REGISTER_LOCKED"] = str(spec.get("locked", False)).lower()
        values["RUNNER_TAG_LIST"] = spec.get("tags")
        if "runUntagged" in spec:
            values["REGISTER_RUN_UNTAGGED"] = str(spec["runUntagged"]).lower()
        if spec.get("protected"):
            values["REGISTER_ACCESS_LEVEL"] = "ref_protected"
    if spec.get("config"):
        values["TEMPLATE_CONFIG_FILE"] = f"{TEMPLATE_DIRECTORY}/config.toml"
    if spec.get("ca"):
        values["CI_SERVER_TLS_CA_FILE"] = "/secrets/tls.crt"

    def reference(kind: str, source: str, key: str) -> Object:
        # of two keys that may be given, one is
        either = {"optional": True} if kind == "secret" and len(RELEASE.token_keys) > 1 else {}
        return {f"{kind}KeyRef": {"name": source, "key": key, **either}}

    return [
        {
            "name": "CI_SERVER_URL",
            "valueFrom": reference("configMap", f"{name}-runner-config", "ci_server_url"),
        },
        {"name": "CI_SERVER_TOKEN", "valueFrom": reference("secret", spec["token"], "runner-token")},
        {
            "name": "REGISTRATION_TOKEN",
            "valueFrom": reference("secret", spec["token"], "runner-registration-token"),
        },
        *({"name": key, "value": value} for key, value in values.items() if value),
    ]


def cache_environment(spec: Object) -> dict[str, Any]:
    s3, gcs, azure = (spec.get(kind) or {} for kind in ("s3", "gcs", "azure"))
    return {
        "CACHE_TYPE": spec.get("cacheType"),
        "CACHE_PATH": spec.get("cachePath"),
        "CACHE_SHARED": "true" if spec.get("cacheShared") else None,
        "CACHE_S3_SERVER_ADDRESS": s3.get("server"),
        "CACHE_S3_BUCKET_NAME": s3.get("bucket"),
        "CACHE_S3_BUCKET_LOCATION": s3.get("location"),
        "CACHE_S3_INSECURE": "true" if s3.get("insecure") else None,
        "CACHE_GCS_BUCKET_NAME": gcs.get("bucket"),
        "CACHE_AZURE_CONTAINER_NAME": azure.get("container"),
        "CACHE_AZURE_STORAGE_DOMAIN": azure.get("storageDomain"),
    }


def volumes(spec: Object, config_map_name: str) -> list[Object]:
    token: Object = {"name": spec["token"]}
    if len(RELEASE.token_keys) == 1:
        token["items"] = [{"key": key, "path": key} for key in (*RELEASE.token_keys, "runner-token")]
    secrets = [token]
    if spec.get("ca"):
        secrets.append({"name": spec["ca"], "items": [{"key": "tls.crt", "path": "tls.crt"}]})
    credentials = [(spec.get(kind) or {}).get("credentials") for kind in ("s3", "gcs", "azure")]
    secrets.extend({"name": name} for name in credentials if name)
    sources = [{"secret": secret} for secret in secrets]
    found: list[Object] = [
        {"name": "runner-secrets", "emptyDir": {"medium": "Memory"}},
        {"name": "init-runner-secrets", "projected": {"sources": sources}},
        {"name": "scripts", "configMap": {"name": config_map_name}},
    ]
    if spec.get("config"):
        found.append({"name": "runner-template", "configMap": {"name": spec["config"]}})
    return found


def deployment(runner: Object, *, authentication_token: bool) -> Object:
    spec = runner["spec"]
    config = config_map(runner)
    image = {
        "image": spec.get("runnerImage") or RUNNER_IMAGE,
        "imagePullPolicy": spec.get("imagePullPolicy") or "IfNotPresent",
        "env": environment(runner, authentication_token=authentication_token),
    }
    if spec.get("env"):
        image["envFrom"] = [{"configMapRef": {"name": spec["env"]}}]
    secrets = {"name": "runner-secrets", "mountPath": "/secrets"}
    configure = {
        "name": "configure",
        **image,
        "command": ["sh", "/config/configure"],
        "volumeMounts": [
            secrets,
            {"name": "scripts", "mountPath": "/config", "readOnly": True},
            {"name": "init-runner-secrets", "mountPath": "/init-secrets", "readOnly": True},
        ],
    }
    mounts = [secrets, {"name": "scripts", "mountPath": "/scripts"}]
    if spec.get("config"):
        mounts.append({"name": "runner-template", "mountPath": TEMPLATE_DIRECTORY, "readOnly": True})
    probe = {
        "exec": {"command": ["/bin/bash", "/scripts/check-live"]},
        "periodSeconds": 10,
        "timeoutSeconds": 1,
        "failureThreshold": 3,
    }
    container = {
        "name": "runner",
        **image,
        "command": ["/bin/bash", "/scripts/entrypoint"],
        "lifecycle": {"preStop": {"exec": {"command": ["gitlab-runner", "unregister", "--all-runners"]}}},
        "livenessProbe": {**probe, "initialDelaySeconds": 60},
        "readinessProbe": {**probe, "initialDelaySeconds": 10},
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"}],
        "volumeMounts": mounts,
    }
    checksum = hashlib.sha256(json.dumps(config["data"], sort_keys=True).encode()).hexdigest()
    template = {
        "metadata": {"labels": labels(runner), "annotations": {config["metadata"]["name"]: checksum}},
        "spec": {
            "serviceAccountName": spec.get("serviceaccount") or RELEASE.service_account,
            "initContainers": [configure],
            "containers": [container],
            "volumes": volumes(spec, config["metadata"]["name"]),
        },
    }
    body = {"replicas": 1, "selector": {"matchLabels": labels(runner)}, "template": template}
    return owned(runner, "apps/v1", "Deployment", "", spec=body)
