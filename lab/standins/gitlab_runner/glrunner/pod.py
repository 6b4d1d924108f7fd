"""The build pod and its pull secret, as pure functions of the job and the runner's configuration."""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from . import RELEASE, REVISION, VERSION, shell
from .config import SECURITY_CONTEXTS
from .variables import Variables

Object = dict[str, Any]

_HELPER_TAG = f"x86_64-v{VERSION}" if RELEASE.at_least(17) else f"x86_64-{REVISION}"
_HELPER_IMAGE = f"registry.gitlab.com/gitlab-org/gitlab-runner/gitlab-runner-helper:{_HELPER_TAG}"
_HOST_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
PULL_POLICIES = {"always": "Always", "if-not-present": "IfNotPresent", "never": "Never"}


def generate_name(short_token: str, project_id: int, slot: int) -> str:
    """`runner-<short>-project-<id>-concurrent-<n>`; letters that no object name may have are dropped."""
    short = re.sub(r"[^a-z0-9-]", "", short_token.lower())
    return f"runner-{short}-project-{project_id}-concurrent-{slot}"


def namespace(config: Mapping[str, Any]) -> str:
    """The namespace of build pods."""
    return config.get("namespace") or "default"


def pull_secret(
    job: Mapping[str, Any], variables: Variables, config: Mapping[str, Any], name: str
) -> Object | None:
    """A dockercfg Secret from the job's registry credentials and DOCKER_AUTH_CONFIG; None without any."""
    entries: Object = {}
    for host, auth in (json.loads(variables.get("DOCKER_AUTH_CONFIG") or "{}").get("auths") or {}).items():
        user, _, password = base64.b64decode(auth.get("auth", "")).decode().partition(":")
        entries[host] = _login(auth.get("username") or user, auth.get("password") or password, host)
    for credential in job.get("credentials") or []:
        if credential["type"] == "registry":
            host = credential["url"]
            entries.setdefault(host, _login(credential["username"], credential["password"], host))
    if not entries:
        return None
    data = base64.b64encode(json.dumps(entries, separators=(",", ":")).encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"generateName": name, "namespace": namespace(config)},
        "type": "kubernetes.io/dockercfg",
        "data": {".dockercfg": data},
    }


def _login(user: str, password: str, host: str) -> Object:
    return {"username": user, "password": password, "serveraddress": host}


def build_pod(
    job: Mapping[str, Any],
    variables: Variables,
    config: Mapping[str, Any],
    name: str,
    secret_name: str | None,
) -> Object:
    """The Pod: init-permissions, build, helper, svc-0…"""
    project, scripts, logs = directories(job)
    volumes, own_mounts = _volumes(config)
    mounts = [{"name": "scripts", "mountPath": scripts}, {"name": "logs", "mountPath": logs}, *own_mounts]
    builds = variables.get("CI_BUILDS_DIR")
    if all(mount["mountPath"] != builds for mount in own_mounts):
        volumes.append({"name": "repo", "emptyDir": {}})
        mounts.append({"name": "repo", "mountPath": builds})
    volumes += [{"name": "scripts", "emptyDir": {}}, {"name": "logs", "emptyDir": {}}]

    def container(kind: str, container_name: str, image: str, **extra: object) -> Object:
        made: Object = {"name": container_name, "image": image, "volumeMounts": mounts}
        made["resources"] = _resources(config, {"build": "", "helper": "helper_"}.get(kind, "service_"))
        made["securityContext"] = _security(config, kind)
        if kind != "init_permissions" and (policies := pull_policies(config)):
            made["imagePullPolicy"] = PULL_POLICIES.get(policies[0], policies[0])
        return made | {key: value for key, value in extra.items() if value}

    main = ["sh", "-c", shell.detect()]
    environment = [{"name": item.key, "value": item.value} for item in variables.items if item.public]
    helper_image = variables.expand(config.get("helper_image") or "") or _HELPER_IMAGE
    touch = f"touch {logs}/output.log && (chmod 777 {logs}/output.log || exit 0)"
    containers = [
        container(
            "build", "build", build_image(job, variables, config), command=main, env=environment, stdin=True
        ),
        container(
            "helper",
            "helper",
            helper_image,
            command=["gitlab-runner-build"] if RELEASE.build_in_helper else main,
            stdin=True,
        ),
    ]
    services = list(job.get("services") or [])
    for number, service in enumerate(services):
        own = [
            {"name": v["key"], "value": variables.expand(v["value"])} for v in service.get("variables") or []
        ]
        shape = {
            "command": service.get("entrypoint"),
            "args": service.get("command"),
            "env": environment + own,
        }
        image = variables.expand(service["name"])
        containers.append(container("service", f"svc-{number}", image, stdin=True, **shape))
    aliases = host_names(services, variables)
    secrets = ([secret_name] if secret_name else []) + list(config.get("image_pull_secrets") or [])
    spec: Object = {
        "volumes": volumes,
        "initContainers": [
            container("init_permissions", "init-permissions", helper_image, command=["sh", "-c", touch])
        ],
        "containers": containers,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": int(config.get("pod_termination_grace_period_seconds") or 0),
        "securityContext": _pod_security(config),
        "affinity": {},
        "imagePullSecrets": [{"name": secret} for secret in secrets],
        "hostAliases": [{"ip": "127.0.0.1", "hostnames": aliases}] if aliases else [],
        "nodeSelector": config.get("node_selector"),
        "serviceAccountName": config.get("service_account"),
        "runtimeClassName": config.get("runtime_class_name"),
        "priorityClassName": config.get("priority_class_name"),
        "schedulerName": config.get("scheduler_name"),
        "dnsPolicy": config.get("dns_policy"),
    }
    keep = {"terminationGracePeriodSeconds", "securityContext", "affinity"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": name,
            "namespace": namespace(config),
            "labels": {"pod": name} | dict(config.get("pod_labels") or {}),
            "annotations": _annotations(job, variables, project) | dict(config.get("pod_annotations") or {}),
        },
        "spec": {key: value for key, value in spec.items() if value or key in keep},
    }


def pull_policies(config: Mapping[str, Any]) -> list[str]:
    """config.toml takes one policy or a list."""
    given = config.get("pull_policy") or []
    return [given] if isinstance(given, str) else list(given)


def build_image(job: Mapping[str, Any], variables: Variables, config: Mapping[str, Any]) -> str:
    """The job's image, else the runner's default."""
    return variables.expand((job.get("image") or {}).get("name") or config.get("image") or "")


def directories(job: Mapping[str, Any]) -> tuple[int, str, str]:
    """Project id, scripts directory, logs directory."""
    project = int((job.get("job_info") or {}).get("project_id") or 0)
    return project, f"/scripts-{project}-{job['id']}", f"/logs-{project}-{job['id']}"


def host_names(services: Iterable[Mapping[str, Any]], variables: Variables) -> list[str]:
    """The names under which services are found on 127.0.0.1: from the image, then the aliases."""
    names: list[str] = []
    for service in services:
        image = variables.expand(service["name"]).partition("@")[0]
        host, slash, path = image.rpartition("/")
        plain = re.sub(r":\d+", "", host) + slash + path.partition(":")[0]
        candidates = [plain.replace("/", "-"), *re.split(r"[\s,]+", service.get("alias") or "")]
        names += [c for c in candidates if _HOST_NAME.fullmatch(c) and c not in names]
    return names


def _annotations(job: Mapping[str, Any], variables: Variables, project: int) -> Object:
    git = job["git_info"]
    return {
        "job.runner.gitlab.com/id": str(job["id"]),
        "job.runner.gitlab.com/url": variables.get("CI_JOB_URL"),
        "job.runner.gitlab.com/sha": git.get("sha", ""),
        "job.runner.gitlab.com/before_sha": git.get("before_sha", ""),
        "job.runner.gitlab.com/ref": git.get("ref", ""),
        "job.runner.gitlab.com/name": (job.get("job_info") or {}).get("name", ""),
        "project.runner.gitlab.com/id": str(project),
    }


def _security(config: Mapping[str, Any], kind: str) -> Object:
    # NET_RAW is dropped always; `privileged` is for every container, init and helper included.
    context: Object = {"capabilities": {"drop": [*(config.get("cap_drop") or []), "NET_RAW"]}}
    if config.get("cap_add"):
        context["capabilities"]["add"] = list(config["cap_add"])
    if "privileged" in config:
        context["privileged"] = config["privileged"]
    if "allow_privilege_escalation" in config:
        context["allowPrivilegeEscalation"] = config["allow_privilege_escalation"]
    table = f"{kind}_container_security_context"
    assert table in SECURITY_CONTEXTS
    return context | _camel({k: v for k, v in (config.get(table) or {}).items() if not isinstance(v, dict)})


def _pod_security(config: Mapping[str, Any]) -> Object:
    return _camel(config.get("pod_security_context") or {})


def _camel(table: Mapping[str, Any]) -> Object:
    return {re.sub(r"_(\w)", lambda m: m[1].upper(), key): value for key, value in table.items()}


def _resources(config: Mapping[str, Any], prefix: str) -> Object:
    resources: Object = {}
    for group in ("limits", "requests"):
        found = {n: config.get(f"{prefix}{n}_{group[:-1]}") for n in ("cpu", "memory")}
        if any(found.values()):
            resources[group] = {name: value for name, value in found.items() if value}
    return resources


def _volumes(config: Mapping[str, Any]) -> tuple[list[Object], list[Object]]:
    volumes: list[Object] = []
    mounts: list[Object] = []
    table = config.get("volumes") or {}
    for kind in ("host_path", "secret", "pvc", "config_map", "empty_dir"):
        for entry in table.get(kind) or []:
            name = entry["name"]
            items = [{"key": key, "path": path} for key, path in (entry.get("items") or {}).items()]
            source: Object = {
                "host_path": {
                    "hostPath": {"path": entry.get("host_path") or entry["mount_path"], "type": ""}
                },
                "secret": {"secret": {"secretName": name} | ({"items": items} if items else {})},
                "pvc": {"persistentVolumeClaim": {"claimName": name}},
                "config_map": {"configMap": {"name": name} | ({"items": items} if items else {})},
                "empty_dir": {"emptyDir": {"medium": entry["medium"]} if entry.get("medium") else {}},
            }[kind]
            if kind == "empty_dir" and entry.get("size_limit"):
                source["emptyDir"]["sizeLimit"] = entry["size_limit"]
            volumes.append({"name": name} | source)
            mount = {"name": name, "mountPath": entry["mount_path"]}
            mount |= {"subPath": entry["sub_path"]} if entry.get("sub_path") else {}
            mount |= {"readOnly": True} if entry.get("read_only") else {}
            mount |= (
                {"mountPropagation": entry["mount_propagation"]} if entry.get("mount_propagation") else {}
            )
            mounts.append(mount)
    return volumes, mounts
