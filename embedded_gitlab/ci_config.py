"""``.gitlab-ci.yml``: what is understood is checked and kept, what isn't is refused by name (ci_keywords).

Errors are in GitLab's words where it has any. Limits are GitLab's or smaller, so that no file takes long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from embedded_gitlab.ci_expression import ExpressionError, Pattern, check
from embedded_gitlab.ci_keywords import HANDLED, sorted_out

PRE, POST = ".pre", ".post"
DEFAULT_STAGES = ("build", "test", "deploy")
_WHEN = ("on_success", "on_failure", "always", "manual")
_MAX_BYTES, _MAX_YAML_DEPTH, _MAX_ALIASES, _MAX_MERGED = 128 * 1024, 100, 100, 5000
"""GitLab's are 2 MiB (max_yaml_size_bytes) and 100 levels (max_yaml_depth)."""
_MAX_JOBS, _MAX_NESTED, _MAX_LINES, _MAX_NAME_CHARS = 200, 10, 5000, 255
MAX_TIMEOUT_S = 2629746
"""A month, as GitLab counts it (Project::MAX_BUILD_TIMEOUT)."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)
_UNITS = {"": 1, "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600,
          "hour": 3600, "d": 86400, "day": 86400, "w": 604800, "week": 604800}  # fmt: skip
_NO_JOB = "config should implement the script:, run:, or trigger: keyword"


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
    errors = [_unsupported(name) for name in sorted_out("", list(data))[0]]
    stages = [PRE, *_stages(data.get("stages", list(DEFAULT_STAGES))), POST]
    default = _defaults(data)
    variables = _variables(data.get("variables", {}), "variables")
    jobs: list[JobDefinition] = []
    for name, value in data.items():
        if name in HANDLED[""].split() or (name.startswith(".") and isinstance(value, dict | list)):
            continue
        if not sorted_out("", [name])[0]:
            try:
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
    cleaned = str(text)[:_MAX_NAME_CHARS].lower().replace(" and ", " ").strip()
    parts = _DURATION.findall(cleaned)
    scales = [_UNITS.get(unit) or _UNITS.get(unit.rstrip("s")) for _, unit in parts]
    total = sum(float(amount) * (scale or 0) for (amount, _), scale in zip(parts, scales, strict=True))
    if None in scales or _DURATION.sub("", cleaned).strip(" ,") or total <= 0:
        raise ConfigError("timeout config should be a duration")
    if total > MAX_TIMEOUT_S:
        raise ConfigError("timeout config should not exceed the limit")
    return int(total)


class _Loader(yaml.CSafeLoader):
    """YAML 1.1 as GitLab reads it."""

    merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge keys copy: without a limit a few lines of them would fill the memory."""
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > _MAX_MERGED + _MAX_BYTES // 4:
            raise ConfigError("The parsed YAML is too big")


def _reference(_: _Loader, __: yaml.Node) -> object:
    raise ConfigError(_unsupported("!reference"))


_Loader.add_constructor("!reference", _reference)


def _load(content: bytes) -> dict[str, Any]:
    try:
        text = content.decode()
        _measure(text)
        documents = list(yaml.load_all(text, _Loader))
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"Invalid configuration format: {_yaml_problem(error)}") from None
    if documents and isinstance(documents[0], dict) and "spec" in documents[0]:
        raise ConfigError(_unsupported("spec"))
    if len(documents) > 1:
        raise ConfigError("a second YAML document is not supported by this GitLab")
    if not documents or not isinstance(documents[0], dict):
        raise ConfigError("Invalid configuration format")
    return {str(key).lower() if isinstance(key, bool) else str(key): v for key, v in documents[0].items()}


def _measure(text: str) -> None:
    """Refuse what would take long or deep, before anything is built: events cost little and don't nest."""
    if len(text) > _MAX_BYTES:
        raise ConfigError("The parsed YAML is too big")
    depth = aliases = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > _MAX_YAML_DEPTH:
            raise ConfigError("The parsed YAML is too deep")
        if aliases > _MAX_ALIASES:
            raise ConfigError("The parsed YAML is too big")


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or error}{where}"


def _unsupported(where: str) -> str:
    return f"{where} is a keyword that this GitLab does not support"


def _check_keys(where: str, given: Mapping[Any, Any], place: str) -> None:
    refused, unknown = sorted_out(place, [str(key) for key in given])
    errors = [f"{where} config contains unknown keys: {', '.join(unknown)}"] if unknown else []
    errors += [_unsupported(f"{where}:{key}") for key in refused]
    if errors:
        raise ConfigError(*errors)


def _stages(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(stage, str) for stage in value):
        raise ConfigError("stages config should be an array of strings")
    return [stage for stage in dict.fromkeys(value) if stage not in (PRE, POST)]


def _defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    given = data.get("default") or {}
    if not isinstance(given, dict):
        raise ConfigError("default config should be a hash")
    _check_keys("default", given, "default")
    top = {key: data[key] for key in HANDLED["default"].split() if key in data and key in HANDLED[""].split()}
    if both := sorted(set(top) & set(given)):
        raise ConfigError(f"{both[0]} is defined in top-level and `default:` entry")
    return {**top, **given}


def _job(name: str, value: object, default: Mapping[str, Any], stages: list[str]) -> JobDefinition:
    where = f"jobs:{name[:_MAX_NAME_CHARS]}"
    if not isinstance(value, dict):
        raise ConfigError(f"{where} {_NO_JOB}")
    _check_keys(where, value, "job")
    if "script" not in value:
        raise ConfigError(f"{where} {_NO_JOB}")
    if not name or len(name) > _MAX_NAME_CHARS:
        problem = f"is too long (maximum is {_MAX_NAME_CHARS} characters)" if name else "can't be blank"
        raise ConfigError(f"{where} name {problem}")
    job = {**default, **value}
    if not (script := _script(job["script"], f"{where}:script")):
        raise ConfigError(f"{where} script can't be blank")
    stage = job.get("stage", "test")
    if not isinstance(stage, str) or stage not in stages:
        raise ConfigError(
            f"{name} job: chosen stage {stage} does not exist; available stages are {', '.join(stages)}"
        )
    if "rules" in job and "only" in job:
        raise ConfigError(f"{where} config key may not be used with `rules`: only")
    when = _when(job.get("when", "on_success"), where, _WHEN)
    allow, codes = _allow_failure(job.get("allow_failure", when == "manual" and "rules" not in job), where)
    return JobDefinition(
        name=name,
        stage=stage,
        script=script,
        before_script=_script(job.get("before_script", []), f"{where}:before_script"),
        after_script=_script(job.get("after_script", []), f"{where}:after_script"),
        image=_image(job["image"], f"{where}:image") if job.get("image") is not None else None,
        services=_services(job.get("services") or [], f"{where}:services"),
        variables=_variables(job.get("variables", {}), f"{where}:variables"),
        tags=_strings(job.get("tags", []), f"{where}:tags"),
        when=when,
        allow_failure=allow,
        allow_failure_exit_codes=codes,
        timeout=duration(job["timeout"]) if job.get("timeout") is not None else None,
        rules=_rules(job["rules"], where, when) if "rules" in job else None,
        only=_only(job["only"], f"{where}:only") if "only" in job else None,
    )


def _when(value: object, where: str, allowed: tuple[str, ...]) -> str:
    if value == "delayed":
        raise ConfigError(_unsupported(f"{where}:when:delayed"))
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"{where} when should be one of: {', '.join(allowed)}")
    return value


def _strings(value: object, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{where} config should be an array of strings")
    return list(value)


def _script(value: object, where: str) -> list[str]:
    return [value] if isinstance(value, str) and value else _flat(value, where, str, "strings")


def _flat(value: object, where: str, kind: type, what: str, depth: int = 1) -> list[Any]:
    """A list of ``kind`` in which lists may be nested, as YAML anchors make them."""
    if not isinstance(value, list) or depth > _MAX_NESTED:
        raise ConfigError(
            f"{where} config should be a string or a nested array of {what} up to 10 levels deep"
        )
    flat: list[Any] = []
    for item in value:
        flat += [item] if isinstance(item, kind) else _flat(item, where, kind, what, depth + 1)
        if len(flat) > _MAX_LINES:
            raise ConfigError(f"{where} config is too big")
    return flat


def _variables(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} config should be a hash of key value pairs")
    result: dict[str, str] = {}
    for key, entry in value.items():
        if isinstance(entry, dict):
            refused, unknown = sorted_out("variables", [str(k) for k in entry])
            if refused:
                raise ConfigError(*(_unsupported(f"{where}:{key}:{name}") for name in refused))
            if unknown or (":" in where and "description" in entry):
                extra = ", ".join([*unknown, *(k for k in entry if k == "description" and ":" in where)])
                raise ConfigError(f"{where}:{key} config uses invalid data keys: {extra}")
            entry = entry.get("value") if entry.get("value") is not None else ""
        if isinstance(entry, bool) or not isinstance(entry, str | int | float):
            raise ConfigError(f"{where}:{key} variable definition must be either a string or a hash")
        result[str(key)] = str(entry)
    return result


def _image(value: object, where: str, place: str = "image") -> dict[str, Any]:
    entry = {"name": value} if isinstance(value, str) else value
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} config should be a hash or a string")
    _check_keys(where, entry, place)
    if not isinstance(entry.get("name"), str) or not entry["name"]:
        raise ConfigError(f"{where} name should be a string")
    policy, entrypoint = entry.get("pull_policy"), entry.get("entrypoint")
    policies = [policy] if isinstance(policy, str) else policy
    known = ("always", "never", "if-not-present")
    if policies is not None and not (policies and all(one in known for one in _strings(policies, where))):
        raise ConfigError(f"{where} pull policy should be one of: {', '.join(known)}")
    return {
        "name": entry["name"],
        "entrypoint": _strings(entrypoint, f"{where}:entrypoint") if entrypoint is not None else None,
        "pull_policy": policies,
    }


def _services(value: object, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ConfigError(f"{where} config should be a array")
    services = []
    for entry in value:
        extra = entry if isinstance(entry, dict) else {}
        alias, command = extra.get("alias"), extra.get("command")
        if alias is not None and not isinstance(alias, str):
            raise ConfigError(f"{where}:service alias should be a string")
        services.append(
            {
                **_image(entry, where, "services"),
                "alias": alias,
                "command": None if command is None else _strings(command, f"{where}:command"),
                "variables": _variables(extra.get("variables", {}), f"{where}:variables"),
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


def _rules(value: object, where: str, default_when: str) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = []
    for rule in _flat(value, f"{where}:rules", dict, "hashes"):
        _check_keys(f"{where}:rules:rule", rule, "rules")
        try:
            if rule.get("if") is not None:
                check(rule["if"] if isinstance(rule["if"], str) else "")
        except ExpressionError as error:
            raise ConfigError(f"{where}:rules:rule if {error}") from None
        allow = rule.get("allow_failure")
        if allow is not None and not isinstance(allow, bool):
            raise ConfigError(f"{where}:rules:rule allow failure should be a boolean value")
        rules.append(
            {
                "if": rule.get("if"),
                "when": _when(rule.get("when") or default_when, f"{where}:rules:rule", (*_WHEN, "never")),
                "allow_failure": allow,
                "variables": _variables(rule.get("variables", {}), f"{where}:rules:rule:variables"),
            }
        )
    if not rules:
        raise ConfigError(f"{where}:rules config can't be blank")
    return rules


def _only(value: object, where: str) -> list[str]:
    if isinstance(value, dict):
        _check_keys(where, value, "only")
        value = value.get("refs", [])
    entries = _strings([value] if isinstance(value, str) else value, where)
    for entry in entries:
        if entry.startswith("/"):
            try:
                Pattern(entry)
            except ExpressionError:
                raise ConfigError(
                    f"{where} config should be an array of strings or regular expressions"
                ) from None
    return entries
