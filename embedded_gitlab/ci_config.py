"""``.gitlab-ci.yml``: what is understood is checked and kept, what isn't is refused by name.

Understood: stages, variables, default; in a job image, services, variables, tags, stage, before_script,
script, after_script, allow_failure, when, timeout, rules (if, when, allow_failure, variables), only (branch
names, patterns, branches, tags, pushes, api, web). Errors are in GitLab's words where it has any.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

PRE, POST = ".pre", ".post"
DEFAULT_STAGES = ("build", "test", "deploy")
_SHARED_KEYS = ("image", "services", "before_script", "after_script")
_DEFAULT_KEYS = (*_SHARED_KEYS, "tags", "timeout")
_JOB_KEYS = (*_DEFAULT_KEYS, "script", "stage", "variables", "allow_failure", "when", "rules", "only")
_KNOWN_TO_GITLAB = frozenset(
    [
        "artifacts",
        "cache",
        "coverage",
        "dast_configuration",
        "dependencies",
        "environment",
        "except",
        "extends",
        "hooks",
        "id_tokens",
        "identity",
        "inherit",
        "interruptible",
        "manual_confirmation",
        "needs",
        "pages",
        "parallel",
        "publish",
        "release",
        "resource_group",
        "retry",
        "run",
        "secrets",
        "start_in",
        "trigger",
    ]
)
_GLOBAL_KNOWN_TO_GITLAB = frozenset(["include", "workflow", "spec", "cache", "types", "pages"])
_WHEN = ("on_success", "on_failure", "always", "manual", "never")
_MAX_BYTES, _MAX_JOBS, _MAX_DEPTH = 1024 * 1024, 500, 20
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_UNITS = {"": 1, "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600,
          "hour": 3600, "d": 86400, "day": 86400, "w": 604800, "week": 604800}  # fmt: skip


class ConfigError(ValueError):
    """The file is wrong; ``errors`` is what GitLab would show."""

    def __init__(self, *errors: str) -> None:
        super().__init__("; ".join(errors))
        self.errors = errors


@dataclass(frozen=True)
class JobDefinition:
    """One job of the file. ``timeout`` in seconds or None for the project's."""

    name: str
    stage: str
    script: list[str]
    before_script: list[str]
    after_script: list[str]
    image: dict[str, Any] | None
    services: list[dict[str, Any]]
    variables: dict[str, str]
    tags: list[str]
    when: str
    allow_failure: bool
    allow_failure_exit_codes: list[int]
    timeout: int | None
    rules: list[dict[str, Any]] | None
    only: list[str] | None


@dataclass(frozen=True)
class CiConfig:
    """A file that is valid."""

    stages: list[str]
    variables: dict[str, str]
    jobs: list[JobDefinition] = field(default_factory=list)


def parse(content: bytes) -> CiConfig:
    """Read a ``.gitlab-ci.yml``. Raises ConfigError naming every keyword that is wrong or not supported."""
    data = _load(content)
    errors: list[str] = []
    stages = [PRE, *_stages(data.get("stages", list(DEFAULT_STAGES))), POST]
    default = _defaults(data)
    variables = _variables(data.get("variables"), "variables")
    reserved = {"stages", "variables", "default", *_SHARED_KEYS}
    jobs: list[JobDefinition] = []
    for key, value in data.items():
        name = str(key)
        if key in reserved or (name.startswith(".") and isinstance(value, dict | list)):
            continue
        try:
            if name in _GLOBAL_KNOWN_TO_GITLAB:
                raise ConfigError(f"{name} is a keyword that this GitLab does not support")
            jobs.append(_job(name, value, default, stages))
        except ConfigError as error:
            errors += error.errors
    if not jobs and not errors:
        errors.append("jobs config should contain at least one visible job")
    if len(jobs) > _MAX_JOBS:
        errors.append(f"The number of jobs exceeds the limit of {_MAX_JOBS}")
    if errors:
        raise ConfigError(*errors)
    return CiConfig(stages, variables, jobs)


def duration(text: object) -> int:
    """Seconds of ``1h 30m``, ``90 minutes`` or a number, as ``timeout`` takes them. Raises ConfigError."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    cleaned = str(text).lower().replace(" and ", " ").strip()
    parts = _DURATION.findall(cleaned)
    total = 0.0
    for amount, unit in parts:
        scale = _UNITS.get(unit) or _UNITS.get(unit.rstrip("s"))
        if scale is None:
            raise ConfigError("timeout config should be a duration")
        total += float(amount) * scale
    if not parts or _DURATION.sub("", cleaned).strip(" ,") or total <= 0:
        raise ConfigError("timeout config should be a duration")
    return int(total)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as GitLab reads it; anchors are bounded by the size of the file."""


def _load(content: bytes) -> dict[Any, Any]:
    if len(content) > _MAX_BYTES:
        raise ConfigError("The parsed YAML is too big")
    try:
        text = content.decode()
        if text.count("*") > 100 and sum(1 for t in yaml.scan(text) if isinstance(t, yaml.AliasToken)) > 100:
            raise ConfigError("The parsed YAML is too big")
        data = yaml.load(text, _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"Invalid configuration format: {_yaml_problem(error)}") from None
    except RecursionError:
        raise ConfigError("The parsed YAML is too deep") from None
    if not isinstance(data, dict):
        raise ConfigError("Invalid configuration format")
    return data


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or error}{where}"


def _stages(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(stage, str) for stage in value):
        raise ConfigError("stages config should be an array of strings")
    return [stage for stage in dict.fromkeys(value) if stage not in (PRE, POST)]


def _defaults(data: Mapping[Any, Any]) -> dict[str, Any]:
    given = data.get("default") or {}
    if not isinstance(given, dict):
        raise ConfigError("default config should be a hash")
    _refuse_unknown("default", given, _DEFAULT_KEYS)
    top = {key: data[key] for key in _SHARED_KEYS if key in data}
    if both := sorted(set(top) & set(given)):
        raise ConfigError(f"{both[0]} is defined in top-level and `default:` entry")
    return {**top, **given}


def _refuse_unknown(where: str, given: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    unknown = [str(key) for key in given if key not in known]
    foreign = [key for key in unknown if key not in _KNOWN_TO_GITLAB]
    errors = []
    if foreign:
        errors.append(f"{where} config contains unknown keys: {', '.join(foreign)}")
    errors += [
        f"{where}:{key} is a keyword that this GitLab does not support"
        for key in unknown
        if key in _KNOWN_TO_GITLAB
    ]
    if errors:
        raise ConfigError(*errors)


def _job(name: str, value: object, default: Mapping[str, Any], stages: list[str]) -> JobDefinition:
    where = f"jobs:{name}"
    if not isinstance(value, dict):
        raise ConfigError(f"{where} config should implement the script:, run:, or trigger: keyword")
    _refuse_unknown(where, value, _JOB_KEYS)
    if "script" not in value:
        raise ConfigError(f"{where} config should implement the script:, run:, or trigger: keyword")
    job = {**default, **value}
    stage = job.get("stage", "test")
    if stage not in stages:
        raise ConfigError(
            f"{name} job: chosen stage {stage} does not exist; available stages are {', '.join(stages)}"
        )
    if "rules" in job and ("only" in job or "when" in value):
        other = "only" if "only" in job else "when"
        raise ConfigError(f"{where} config key may not be used with `rules`: {other}")
    when = job.get("when", "on_success")
    if when not in _WHEN:
        raise ConfigError(f"{where} when should be one of: {', '.join(_WHEN)}")
    allow, codes = _allow_failure(job.get("allow_failure", when == "manual" and "rules" not in job), where)
    return JobDefinition(
        name=name,
        stage=stage,
        script=_script(job["script"], f"{where}:script"),
        before_script=_script(job.get("before_script", []), f"{where}:before_script"),
        after_script=_script(job.get("after_script", []), f"{where}:after_script"),
        image=_image(job["image"], f"{where}:image") if job.get("image") is not None else None,
        services=_services(job.get("services") or [], f"{where}:services"),
        variables=_variables(job.get("variables"), f"{where}:variables"),
        tags=_strings(job.get("tags", []), f"{where}:tags"),
        when=when,
        allow_failure=allow,
        allow_failure_exit_codes=codes,
        timeout=duration(job["timeout"]) if job.get("timeout") is not None else None,
        rules=_rules(job["rules"], f"{where}:rules") if "rules" in job else None,
        only=_only(job["only"], f"{where}:only") if "only" in job else None,
    )


def _strings(value: object, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{where} config should be an array of strings")
    return list(value)


def _script(value: object, where: str, depth: int = 0) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or depth > _MAX_DEPTH:
        raise ConfigError(
            f"{where} config should be a string or a nested array of strings up to 10 levels deep"
        )
    lines: list[str] = []
    for item in value:
        lines += _script(item, where, depth + 1)
    return lines


def _variables(value: object, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where} config should be a hash of key value pairs")
    result: dict[str, str] = {}
    for key, entry in value.items():
        if isinstance(entry, dict):
            if unknown := sorted(set(map(str, entry)) - {"value", "description"}):
                raise ConfigError(f"{where}:{key} config uses invalid data keys: {', '.join(unknown)}")
            entry = entry.get("value", "")
        if isinstance(entry, list) or entry is None:
            raise ConfigError(f"{where} config should be a hash of key value pairs")
        result[str(key)] = str(entry).lower() if isinstance(entry, bool) else str(entry)
    return result


def _image(value: object, where: str) -> dict[str, Any]:
    entry = {"name": value} if isinstance(value, str) else value
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ConfigError(f"{where} config should be a hash or a string")
    if unknown := sorted(set(map(str, entry)) - {"name", "entrypoint", "pull_policy"}):
        raise ConfigError(f"{where} config contains unknown or unsupported keys: {', '.join(unknown)}")
    policy = entry.get("pull_policy")
    return {
        "name": entry["name"],
        "entrypoint": _strings(entry["entrypoint"], f"{where}:entrypoint")
        if entry.get("entrypoint")
        else None,
        "pull_policy": [policy] if isinstance(policy, str) else policy,
    }


def _services(value: object, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ConfigError(f"{where} config should be a array")
    services = []
    for entry in value:
        extra = entry if isinstance(entry, dict) else {}
        image = _image(
            {k: v for k, v in extra.items() if k not in ("alias", "command", "variables")} or entry, where
        )
        if extra.get("alias") is not None and not isinstance(extra["alias"], str):
            raise ConfigError(f"{where}:service alias should be a string")
        command = extra.get("command")
        services.append(
            {
                **image,
                "alias": extra.get("alias"),
                "command": _strings([command] if isinstance(command, str) else command, f"{where}:command")
                if command is not None
                else None,
                "variables": _variables(extra.get("variables"), f"{where}:variables"),
            }
        )
    return services


def _allow_failure(value: object, where: str) -> tuple[bool, list[int]]:
    if isinstance(value, bool):
        return value, []
    if isinstance(value, dict) and set(value) == {"exit_codes"}:
        codes = value["exit_codes"] if isinstance(value["exit_codes"], list) else [value["exit_codes"]]
        if all(isinstance(code, int) and not isinstance(code, bool) for code in codes):
            return False, codes
    raise ConfigError(f"{where} allow failure should be a boolean value or a hash of exit_codes")


def _rules(value: object, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ConfigError(f"{where} config should be an array of hashes")
    for rule in value:
        if not isinstance(rule, dict):
            raise ConfigError(f"{where}:rule config should be a hash")
        if unknown := [str(key) for key in rule if key not in ("if", "when", "allow_failure", "variables")]:
            raise ConfigError(
                f"{where}:rule config contains unknown or unsupported keys: {', '.join(unknown)}"
            )
        if rule.get("when", "on_success") not in _WHEN:
            raise ConfigError(f"{where}:rule when should be one of: {', '.join(_WHEN)}")
        if not isinstance(rule.get("allow_failure", False), bool):
            raise ConfigError(f"{where}:rule allow failure should be a boolean value")
        _variables(rule.get("variables"), f"{where}:rule:variables")
    return list(value)


def _only(value: object, where: str) -> list[str]:
    if isinstance(value, dict):
        if unknown := [str(key) for key in value if key != "refs"]:
            raise ConfigError(f"{where} config contains unknown or unsupported keys: {', '.join(unknown)}")
        value = value.get("refs", [])
    return _strings([value] if isinstance(value, str) else value, where)
