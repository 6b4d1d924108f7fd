"""config.toml: reading, writing it as gitlab-runner's encoder lays it out, system id, short tokens."""

import json
import os
import re
import secrets
import string
import sys
import tomllib
from collections.abc import Iterable
from datetime import date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from . import log, words

Table = dict[str, Any]

# Order of gitlab-runner's structs; the encoder writes simple values first, then sub-tables.
GLOBAL_ORDER = words(
    "listen_address concurrent check_interval log_level log_format user sentry_dsn connection_max_age "
    "shutdown_timeout session_server runners"
)
RUNNER_ORDER = words(
    "name limit output_limit request_concurrency unhealthy_requests_limit unhealthy_interval url id token "
    "token_obtained_at token_expires_at tls-ca-file tls-cert-file tls-key-file executor builds_dir cache_dir "
    "clone_url environment pre_build_script post_build_script debug_trace_disabled shell cache kubernetes"
)
KUBERNETES_TYPES: dict[str, type] = {
    "host": str, "cert_file": str, "key_file": str, "ca_file": str,
    "bearer_token_overwrite_allowed": bool, "bearer_token": str, "image": str, "namespace": str,
    "namespace_overwrite_allowed": str, "privileged": bool, "runtime_class_name": str,
    "allow_privilege_escalation": bool, "cpu_limit": str, "cpu_request": str, "memory_limit": str,
    "memory_request": str, "service_cpu_limit": str, "service_cpu_request": str, "service_memory_limit": str,
    "service_memory_request": str, "helper_cpu_limit": str, "helper_cpu_request": str,
    "helper_memory_limit": str, "helper_memory_request": str, "allowed_images": list,
    "allowed_pull_policies": list, "allowed_services": list, "pull_policy": list, "node_selector": dict,
    "node_selector_overwrite_allowed": str, "image_pull_secrets": list, "helper_image": str,
    "helper_image_flavor": str, "pod_termination_grace_period_seconds": int,
    "cleanup_grace_period_seconds": int, "poll_interval": int, "poll_timeout": int, "pod_labels": dict,
    "pod_labels_overwrite_allowed": str, "scheduler_name": str, "service_account": str,
    "service_account_overwrite_allowed": str, "pod_annotations": dict,
    "pod_annotations_overwrite_allowed": str,
    "pod_security_context": dict, "init_permissions_container_security_context": dict,
    "build_container_security_context": dict, "helper_container_security_context": dict,
    "service_container_security_context": dict, "volumes": dict, "dns_policy": str, "dns_config": dict,
    "priority_class_name": str,
}  # fmt: skip
# Written even when empty: fields without "omitempty", and structs that are no pointers.
KUBERNETES_ALWAYS = words(
    "host bearer_token_overwrite_allowed image namespace namespace_overwrite_allowed "
    "node_selector_overwrite_allowed pod_labels_overwrite_allowed service_account_overwrite_allowed "
    "pod_annotations_overwrite_allowed pod_security_context volumes dns_config"
)
SECURITY_CONTEXTS = [key for key in KUBERNETES_TYPES if key.endswith("_container_security_context")]
VOLUME_ORDER = words("host_path pvc config_map secret empty_dir csi")
VOLUME_FIELDS = words(
    "name mount_path sub_path host_path read_only mount_propagation medium size_limit items"
)

SCHEMA_NOTE = (
    "There might be a problem with your config based on jsonschema annotations in common/config.go "
    "(experimental feature):\njsonschema: '/runners/{index}/kubernetes/pull_policy' does not validate with "
    "https://gitlab.com/gitlab-org/gitlab-runner/common/config#/$ref/properties/runners/items/$ref/properties/"
    "kubernetes/$ref/properties/pull_policy/$ref/type: expected array, but got null\n"
)


def default_path() -> Path:
    """Where gitlab-runner looks without `--config`: /etc for root, else the home directory ("user-mode")."""
    if os.geteuid() == 0:
        return Path("/etc/gitlab-runner/config.toml")
    return Path(os.environ.get("HOME", "/")) / ".gitlab-runner/config.toml"


def load(path: Path) -> Table:
    """Read config.toml with the defaults that gitlab-runner fills in.

    Raises: FileNotFoundError; tomllib.TOMLDecodeError.
    """
    config = tomllib.loads(path.read_text())
    config.setdefault("concurrent", 1)
    config.setdefault("runners", [])
    for index, runner in enumerate(config["runners"]):
        short_token(runner.get("token", ""))
        if "kubernetes" in runner and "pull_policy" not in runner["kubernetes"]:
            log.info(SCHEMA_NOTE.format(index=index))
            break
    return config


def short_token(token: str) -> str:
    """The part of a token that logs and pod names show; a too short one ends the process, as there."""
    start, end = (
        (5, 14) if token.startswith("glrt-") else (0, 17) if token.startswith("GR1348941") else (0, 8)
    )
    if len(token) < 8:
        return token
    if len(token) < end:
        sys.stderr.write(
            f"panic: runtime error: slice bounds out of range [:{end}] with length {len(token)} "
            "[recovered, repanicked]\n\ngoroutine 1 [running]:\nmain.main.func1()\n"
        )
        sys.stderr.flush()
        os._exit(2)
    return token[start:end]


def system_id(config_path: Path) -> str:
    """Read or make the id beside config.toml: `s_` from the machine id, a random `r_` where there is none."""
    path = config_path.parent / ".runner_system_id"
    if path.exists() and re.fullmatch(r"[rs]_\w{12}", path.read_text()):
        return path.read_text()
    machine = Path("/etc/machine-id")
    machine_id = machine.read_text().strip() if machine.exists() else ""
    letters = string.ascii_letters + string.digits
    made = (
        "s_" + sha256(machine_id.encode()).hexdigest()[:12]
        if machine_id
        else "r_" + "".join(secrets.choice(letters) for _ in range(12))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(made)
    log.info("Created missing unique system ID", {"system_id": made})
    return made


def save(config: Table, path: Path) -> None:
    """Write config.toml; a new file gets mode 0600, an existing one keeps its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch(mode=0o600)
    path.write_text(dump(config))


def dump(config: Table) -> str:
    """The text of config.toml, line for line as gitlab-runner writes it."""
    whole = dict(config)
    for key in ("concurrent", "check_interval", "shutdown_timeout"):
        whole.setdefault(key, 0)
    whole["session_server"] = {"session_timeout": 1800, **config.get("session_server", {})}
    whole["runners"] = [_complete(runner) for runner in config.get("runners", [])]
    if not whole["runners"]:
        del whole["runners"]
    lines: list[str] = []
    _emit(lines, (), whole)
    return "\n".join(lines) + "\n"


def _complete(runner: Table) -> Table:
    runner = dict(runner)
    if "kubernetes" in runner:
        kubernetes = dict(runner["kubernetes"])
        for key in KUBERNETES_ALWAYS:
            kubernetes.setdefault(key, KUBERNETES_TYPES[key]())
        runner["kubernetes"] = kubernetes
    return runner


def _emit(lines: list[str], path: tuple[str, ...], table: Table) -> None:
    keys = list(_ordered(path, table))
    indent = "  " * len(path)
    for key in keys:
        if not _is_table(table[key]):
            lines.append(f"{indent}{key} = {_value(table[key])}")
    for key in keys:
        value, name = table[key], ".".join((*path, key))
        if isinstance(value, dict):
            lines += ([""] if not path else []) + [f"{indent}[{name}]"]
            _emit(lines, (*path, key), value)
        elif _is_table(value):
            for item in value:
                lines += ["", f"{indent}[[{name}]]"]
                _emit(lines, (*path, key), item)


def _ordered(path: tuple[str, ...], table: Table) -> Iterable[str]:
    known: Iterable[str] = {
        (): GLOBAL_ORDER,
        ("runners",): RUNNER_ORDER,
        ("runners", "kubernetes"): KUBERNETES_TYPES,
        ("runners", "kubernetes", "volumes"): VOLUME_ORDER,
    }.get(path, VOLUME_FIELDS)
    return [key for key in known if key in table] + [key for key in table if key not in known]


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime | date):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def merge(target: Table, template: Table) -> None:
    """Fill what is empty in `target` from `template`, table by table; a value that is set stays."""
    for key, value in template.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        elif not target.get(key):
            target[key] = value
