"""A job's variables: the runner's own, those of the payload, expansion, and who may see them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from . import REVISION, VERSION, words
from .config import short_token

# Feature flags of 16.0.1 in its own order; each job sees all of them.
_FLAGS_TRUE = {
    "FF_USE_DIRECT_DOWNLOAD",
    "FF_SKIP_NOOP_BUILD_STAGES",
    "FF_USE_WINDOWS_LEGACY_PROCESS_STRATEGY",
    "FF_RESOLVE_FULL_TLS_CHAIN",
    "FF_SET_PERMISSIONS_BEFORE_CLEANUP",
    "FF_SECRET_RESOLVING_FAILS_IF_MISSING",
}
_FLAGS = words(
    "CMD_DISABLE_DELAYED_ERROR_LEVEL_EXPANSION NETWORK_PER_BUILD USE_LEGACY_KUBERNETES_EXECUTION_STRATEGY "
    "USE_DIRECT_DOWNLOAD SKIP_NOOP_BUILD_STAGES USE_FASTZIP DISABLE_UMASK_FOR_DOCKER_EXECUTOR "
    "ENABLE_BASH_EXIT_CODE_CHECK USE_WINDOWS_LEGACY_PROCESS_STRATEGY USE_NEW_BASH_EVAL_STRATEGY "
    "USE_POWERSHELL_PATH_RESOLVER USE_DYNAMIC_TRACE_FORCE_SEND_INTERVAL SCRIPT_SECTIONS USE_NEW_SHELL_ESCAPE "
    "ENABLE_JOB_CLEANUP KUBERNETES_HONOR_ENTRYPOINT POSIXLY_CORRECT_ESCAPES USE_IMPROVED_URL_MASKING "
    "RESOLVE_FULL_TLS_CHAIN DISABLE_POWERSHELL_STDIN USE_POD_ACTIVE_DEADLINE_SECONDS "
    "USE_ADVANCED_POD_SPEC_CONFIGURATION SET_PERMISSIONS_BEFORE_CLEANUP SECRET_RESOLVING_FAILS_IF_MISSING"
)
_REFERENCE = re.compile(r"\$(?:(\$)|\{(\w+)\}|(\w+))")
DEFAULT_TIMEOUT_S = 7200


@dataclass(frozen=True)
class Variable:
    """One variable; `public` ones go into the pod's environment, the others only into scripts."""

    key: str
    value: str
    public: bool = False
    masked: bool = False
    file: bool = False
    raw: bool = False


class Variables:
    """All variables of one job, in order; of a key given twice the last value is seen."""

    def __init__(self, items: list[Variable]) -> None:
        self._plain = {item.key: item for item in items}
        self.items = [self._expanded(item) for item in items]
        self._values = {item.key: item.value for item in self.items}

    def _expanded(self, item: Variable) -> Variable:
        if item.raw or "$" not in item.value:
            return item
        return replace(item, value=expand(item.value, {key: v.value for key, v in self._plain.items()}))

    def get(self, key: str, default: str = "") -> str:
        """A value after expansion."""
        return self._values.get(key, default)

    def expand(self, text: str) -> str:
        """Replace $NAME and ${NAME}, also inside the values that are put in."""
        return expand(text, self._values)

    def overwritten(self, key: str, value: str) -> list[Variable]:
        """The items with another value for a key, in the first that has it: as OverwriteKey does there."""
        place = next((n for n, item in enumerate(self.items) if item.key == key), len(self.items))
        return [replace(item, value=value) if n == place else item for n, item in enumerate(self.items)]

    @property
    def masked(self) -> list[str]:
        """Values that must not show in the log."""
        return [item.value for item in self.items if item.masked]


def expand(text: str, values: Mapping[str, str]) -> str:
    """One pass of $NAME, ${NAME} and $$ as gitlab-runner does it; unknown names become empty."""
    return _REFERENCE.sub(lambda m: "$" if m[1] else values.get(m[2] or m[3], ""), text)


def timeout_s(job: Mapping[str, Any]) -> int:
    """The job's time limit in seconds."""
    return int((job.get("runner_info") or {}).get("timeout") or DEFAULT_TIMEOUT_S)


def project_dir(job: Mapping[str, Any], builds_dir: str = "/builds") -> str:
    """Where the repository is checked out: the path of its URL below the builds directory."""
    path = urlsplit(job["git_info"]["repo_url"]).path
    return builds_dir + "/" + path.strip("/").removesuffix(".git")


def job_variables(
    job: Mapping[str, Any], runner: Mapping[str, Any], slot: int, project_slot: int, image: str
) -> Variables:
    """Everything a job sees, in the order of the real pod's environment."""
    directory = project_dir(job, runner.get("builds_dir") or "/builds")

    def public(key: str, value: object) -> Variable:
        return Variable(key, str(value), public=True)

    flags = [public(f"FF_{name}", str(f"FF_{name}" in _FLAGS_TRUE).lower()) for name in _FLAGS]
    own = [public("CI_JOB_IMAGE", image)] if image else []
    own += [
        public("CI_RUNNER_SHORT_TOKEN", short_token(runner["token"])),
        public("CI_BUILDS_DIR", runner.get("builds_dir") or "/builds"),
        public("CI_PROJECT_DIR", directory),
        public("CI_CONCURRENT_ID", slot),
        public("CI_CONCURRENT_PROJECT_ID", project_slot),
        public("CI_SERVER", "yes"),
        public("CI_JOB_STATUS", "running"),
        public("CI_JOB_TIMEOUT", timeout_s(job)),
    ]
    configured = [public(*entry.partition("=")[::2]) for entry in runner.get("environment") or []]
    given = [
        Variable(
            v["key"], str(v.get("value", "")), *(bool(v.get(k)) for k in ("public", "masked", "file", "raw"))
        )
        for v in job.get("variables") or []
    ]
    tail = [
        public("CI_DISPOSABLE_ENVIRONMENT", "true"),
        public("CI_RUNNER_VERSION", VERSION),
        public("CI_RUNNER_REVISION", REVISION),
        public("CI_RUNNER_EXECUTABLE_ARCH", "linux/amd64"),
        public("RUNNER_TEMP_PROJECT_DIR", directory + ".tmp"),
    ]
    return Variables(flags + own + configured + given + tail)
