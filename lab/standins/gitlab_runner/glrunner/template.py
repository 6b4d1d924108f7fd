"""The registration template: what of it is taken, and what ends `register`, as Go's TOML decoder decides it.

A key that the configuration has not is dropped without a word; so is anything but a table where a table of
free keys is wanted (`[[…pod_annotations]]`). A value of another type is an error
(BurntSushi/toml, decode.go).
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from . import RELEASE, words
from .config import KUBERNETES_TYPES, Table

_NAMES = {str: "string", bool: "boolean", int: "integer", list: "strings", dict: "map"}
_GO_TYPES = {str: "string", bool: "bool", int: "int64", float: "float64", dict: "map[string]interface {}"}


def _each(kind: str, names: str) -> dict[str, Any]:
    return dict.fromkeys(words(names), kind)


# A schema gives each key a type: a word, a table's own schema, or [schema] for a list of tables.
_MOUNT = _each("string", "name mount_path sub_path mount_propagation") | {"read_only": "boolean"}
_ITEMS = _MOUNT | {"items": "map"}
_VOLUMES = {
    "host_path": [_MOUNT | {"host_path": "string"}],
    "pvc": [_MOUNT],
    "config_map": [_ITEMS],
    "secret": [_ITEMS],
    "empty_dir": [_MOUNT | _each("string", "medium size_limit")],
    "csi": [_MOUNT | _each("string", "driver fs_type") | {"volume_attributes": "map"}],
}
_IDS = _each("integer", "run_as_user run_as_group") | {"run_as_non_root": "boolean"}
_CONTAINER_SECURITY = (
    _IDS
    | _each("boolean", "privileged read_only_root_filesystem allow_privilege_escalation")
    | _each("string", "proc_mount")
    | {"capabilities": _each("strings", "add drop")}
)
_PAIR = _each("string", "name value")
_KUBERNETES = {
    **{key: _NAMES[kind] for key, kind in KUBERNETES_TYPES.items()},
    **_each("strings", "cap_add cap_drop allowed_users allowed_groups"),
    **_each("map", "node_tolerations"),
    **{key: _CONTAINER_SECURITY for key in KUBERNETES_TYPES if key.endswith("_container_security_context")},
    "pull_policy": "string or list",
    "pod_security_context": _IDS | {"fs_group": "integer", "supplemental_groups": "integers"},
    "volumes": _VOLUMES,
    "dns_config": _each("strings", "nameservers searches") | {"options": [_PAIR]},
    "host_aliases": [{"ip": "string", "hostnames": "strings"}],
    "services": [_each("string", "name alias") | _each("strings", "command entrypoint environment")],
    "automount_service_account_token": "boolean",
}
_RUNNER = {
    **_each("integer", "limit output_limit request_concurrency unhealthy_requests_limit"),
    **_each(
        "string", "name url tls-ca-file tls-cert-file tls-key-file executor builds_dir cache_dir clone_url"
    ),
    **_each("string", "pre_get_sources_script pre_build_script post_build_script shell unhealthy_interval"),
    **_each("strings", "environment"),
    "debug_trace_disabled": "boolean",
    "feature_flags": "booleans by name",
    "cache": "table",
    "kubernetes": _KUBERNETES,
}


_NOT_LOADED = "couldn't load configuration template file: "
if RELEASE.at_least(17):
    _NOT_LOADED += "decoding configuration file: "


class TemplateError(Exception):
    """What ends `register`; the message is the decoder's."""


def read(path: str) -> Table:
    """The one `[[runners]]` entry of a template, as far as gitlab-runner knows its keys.

    A file that is missing is an empty one. Raises TemplateError.
    """
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        text = ""
    except OSError as error:
        raise TemplateError(f"couldn't load configuration template file: {error}") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TemplateError(f"{_NOT_LOADED}toml: {error}") from error
    decoded = _Decoder(text)
    runners = document.get("runners") or []
    if not isinstance(runners, list):
        decoded.mistake(("runners",), runners, "slice")
    entries = [decoded.table(entry, _RUNNER, ("runners",)) for entry in runners]
    if len(entries) != 1:
        raise TemplateError("configuration template must contain exactly one [[runners]] entry")
    return entries[0]  # its token, if it has one, is no key of the schema: the real one empties it


class _Decoder:
    """Decodes by schema; keeps the text, to say in which line a value stands."""

    def __init__(self, text: str) -> None:
        self._text = text

    def table(self, given: object, schema: Mapping[str, Any], path: tuple[str, ...]) -> Table:
        """A table by its schema; Raises TemplateError."""
        if not isinstance(given, dict):
            name = "Config" if path[-1] == "kubernetes" else path[-1].title().replace("_", "")
            self._fail(
                path, f"type mismatch for common.Kubernetes{name}: expected table but found {_go_type(given)}"
            )
        found: Table = {}
        for key, value in given.items():
            if key in schema and (taken := self._value(value, schema[key], (*path, key))) is not None:
                found[key] = taken
        return found

    def _value(self, value: object, kind: Any, path: tuple[str, ...]) -> object:
        if isinstance(kind, dict):
            return self.table(value, kind, path)
        if isinstance(kind, list):
            return [self.table(item, kind[0], path) for item in self._list(value, path)]
        if kind in ("map", "booleans by name"):
            item = "string" if kind == "map" else "boolean"
            if not isinstance(value, dict):
                return None
            return {name: self._plain(it, item, (*path, name)) for name, it in value.items()}
        if kind == "string or list":
            items = [value] if isinstance(value, str) else self._list(value, path)
            return [self._plain(item, "string", path) for item in items]
        if kind in ("strings", "integers"):
            return [self._plain(item, kind.removesuffix("s"), path) for item in self._list(value, path)]
        return value if kind == "table" else self._plain(value, kind, path)

    def _list(self, value: object, path: tuple[str, ...]) -> list[Any]:
        if not isinstance(value, list):
            self.mistake(path, value, "slice")
        return value

    def _plain(self, value: object, kind: str, path: tuple[str, ...]) -> object:
        wanted = {"string": str, "boolean": bool, "integer": int}[kind]
        if type(value) is not wanted:  # a boolean is an integer to Python alone
            self.mistake(path, value, kind)
        return value

    def mistake(self, path: tuple[str, ...], value: object, wanted: str) -> NoReturn:
        """A value of a type that its place cannot take."""
        found = _go_type(value)
        self._fail(path, f"incompatible types: TOML value has type {found}; destination has type {wanted}")

    def _fail(self, path: tuple[str, ...], what: str) -> NoReturn:
        line, key = _line(self._text, path), ".".join(path)
        raise TemplateError(f'{_NOT_LOADED}toml: line {line} (last key "{key}"): {what}')


def _go_type(value: object) -> str:
    if isinstance(value, list):
        return "[]map[string]interface {}" if value and isinstance(value[0], dict) else "[]interface {}"
    return _GO_TYPES.get(type(value), "time.Time")


def _line(text: str, path: tuple[str, ...]) -> int:
    """The line that sets a key: in its table, or with the table's own header."""
    dotted, header = ".".join(path), ""
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*\[\[?\s*([^]]+?)\s*\]", line):
            header = found[1].replace('"', "").replace(" ", "")
            if header == dotted:
                return number
        elif (found := re.match(r'\s*"?([\w.-]+)"?\s*=', line)) and f"{header}.{found[1]}" == dotted:
            return number
    return 1
