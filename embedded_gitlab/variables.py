"""Predefined ``CI_*`` variables, as GitLab documents them, and those of project, file and pipeline.

The runner adds none of the project's by itself: everything a job sees comes in its payload.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from embedded_gitlab.context import Context
from embedded_gitlab.expansion import ExpansionError, Variable, expanded
from embedded_gitlab.git_storage import ZERO_SHA
from embedded_gitlab.store import Row, iso

VERSION = "17.11.0"
"""The version of GitLab whose behaviour is followed."""


def variable(
    key: str,
    value: object,
    *,
    public: bool = True,
    masked: bool = False,
    file: bool = False,
    raw: bool = False,
) -> Variable:
    """A variable as the job payload carries it."""
    shown = "" if value is None else str(value)
    return {"key": key, "value": shown, "public": public, "masked": masked, "file": file, "raw": raw}


@dataclass(frozen=True)
class VariableScope:
    """What all jobs of a pipeline have in common, in the order of GitLab's Variables::Builder."""

    predefined: Sequence[Variable]
    user: Sequence[Variable]
    project: Sequence[Variable]
    given: Sequence[Variable]

    def of_job(self, definition: Mapping[str, Any], runner: Row | None = None) -> list[Variable]:
        """Variables of one job for ``rules``, ``if`` and the job alike: of duplicates the last one counts."""
        taker = [] if runner is None else [
            variable("CI_RUNNER_ID", runner["id"]),
            variable("CI_RUNNER_DESCRIPTION", runner["description"]),
            variable("CI_RUNNER_TAGS", runner["tag_list"]),
        ]  # fmt: skip
        return [
            variable("CI_JOB_NAME", definition["name"]),
            variable("CI_JOB_NAME_SLUG", slug(definition["name"])),
            variable("CI_JOB_STAGE", definition["stage"]),
            variable("CI_NODE_TOTAL", 1),
            *self.predefined,
            *taker,
            *(variable(key, value) for key, value in definition["variables"].items()),
            *self.user,
            *self.project,
            *self.given,
        ]


def scope(context: Context, project: Row, pipeline: Row, user: Row | None) -> VariableScope:
    """The variables of a pipeline that ``user`` started."""
    names = {"GITLAB_USER_ID": "id", "GITLAB_USER_EMAIL": "email", "GITLAB_USER_LOGIN": "username",
             "GITLAB_USER_NAME": "name"}  # fmt: skip
    return VariableScope(
        of_pipeline(context, project, pipeline),
        [variable(key, user[column]) for key, column in names.items()] if user else [],
        of_project(context, project, pipeline),
        json.loads(pipeline["variables"]),
    )


def values(variables: Sequence[Variable]) -> dict[str, str]:
    """Key → value; of duplicates the last one counts."""
    return {v["key"]: v["value"] for v in variables}


def of_pipeline(context: Context, project: Row, pipeline: Row) -> list[Variable]:
    """Variables known when the pipeline is made; ``rules`` are decided with these and the file's."""
    settings, namespace = context.settings, project["full_path"].rpartition("/")[0]
    commit = context.git.commit_info(project["id"], pipeline["sha"])
    ref, tag = pipeline["ref"], bool(pipeline["tag"])
    url = context.url(project["full_path"])
    major, minor, patch = VERSION.split(".")
    pairs: list[tuple[str, object]] = [
        ("CI", "true"), ("GITLAB_CI", "true"), ("CI_SERVER", "yes"), ("CI_SERVER_NAME", "GitLab"),
        ("CI_PIPELINE_IID", pipeline["iid"]), ("CI_PIPELINE_SOURCE", pipeline["source"]),
        ("CI_SERVER_URL", settings.external_url), ("CI_SERVER_HOST", settings.host),
        ("CI_SERVER_FQDN", urlsplit(settings.external_url).netloc), ("CI_SERVER_PORT", settings.port),
        ("CI_SERVER_PROTOCOL", settings.scheme), ("CI_SERVER_VERSION", VERSION),
        ("CI_SERVER_VERSION_MAJOR", major), ("CI_SERVER_VERSION_MINOR", minor),
        ("CI_SERVER_VERSION_PATCH", patch), ("CI_API_V4_URL", context.url("api/v4")),
        ("CI_PROJECT_ID", project["id"]), ("CI_PROJECT_NAME", project["path"]),
        ("CI_PROJECT_TITLE", project["name"]), ("CI_PROJECT_PATH", project["full_path"]),
        ("CI_PROJECT_PATH_SLUG", slug(project["full_path"])), ("CI_PROJECT_NAMESPACE", namespace),
        ("CI_PROJECT_ROOT_NAMESPACE", namespace.split("/")[0]), ("CI_PROJECT_URL", url),
        ("CI_PROJECT_VISIBILITY", project["visibility"]), ("CI_DEFAULT_BRANCH", project["default_branch"]),
        ("CI_CONFIG_PATH", ".gitlab-ci.yml"), ("CI_COMMIT_SHA", pipeline["sha"]),
        ("CI_COMMIT_SHORT_SHA", pipeline["sha"][:8]), ("CI_COMMIT_REF_NAME", ref),
        ("CI_COMMIT_BEFORE_SHA", pipeline["before_sha"] or ZERO_SHA), ("CI_COMMIT_REF_SLUG", slug(ref)),
        ("CI_COMMIT_TAG" if tag else "CI_COMMIT_BRANCH", ref),
        ("CI_COMMIT_REF_PROTECTED", str(ref == project["default_branch"]).lower()),
    ]  # fmt: skip
    if commit is not None:
        stamp = (iso(commit.at) or "")[:19] + "+00:00"
        pairs += [
            ("CI_COMMIT_MESSAGE", commit.message),
            ("CI_COMMIT_TITLE", commit.title),
            ("CI_COMMIT_DESCRIPTION", commit.message.partition("\n")[2].strip()),
            ("CI_COMMIT_AUTHOR", f"{commit.author_name} <{commit.author_email}>"),
            ("CI_COMMIT_TIMESTAMP", stamp),
        ]
    if settings.registry_host:
        pairs.append(("CI_REGISTRY", settings.registry_host))
        pairs.append(("CI_REGISTRY_IMAGE", registry_image(context, project)))
    return [variable(key, value) for key, value in pairs]


def registry_image(context: Context, project: Row) -> str:
    """``CI_REGISTRY_IMAGE``: repository names are lower case."""
    return f"{context.settings.registry_host}/{project['full_path'].lower()}"


def of_project(context: Context, project: Row, pipeline: Row) -> list[Variable]:
    """Variables set in the project; protected ones only for the default branch, which GitLab protects."""
    protected = not pipeline["tag"] and pipeline["ref"] == project["default_branch"]
    rows = context.store.all("SELECT * FROM project_variables WHERE project_id = ?", project["id"])
    return [
        variable(
            row["key"],
            row["value"],
            public=False,
            masked=bool(row["masked"]),
            file=row["variable_type"] == "file",
            raw=bool(row["raw"]),
        )
        for row in rows
        if protected or not row["protected"]
    ]


def of_job(context: Context, project: Row, pipeline: Row, job: Row, runner: Row) -> list[Variable]:
    """All variables of a job as its runner gets them.

    Those that exist only once the job does come first and are in no ``rules``: "persisted variables".
    """
    token, user = job["token"], context.store.one("SELECT * FROM users WHERE id = ?", job["user_id"])
    url = context.url(project["full_path"])
    persisted = [
        variable("CI_PIPELINE_ID", pipeline["id"]),
        variable("CI_PIPELINE_URL", f"{url}/-/pipelines/{pipeline['id']}"),
        variable("CI_PIPELINE_CREATED_AT", (iso(pipeline["created_at"]) or "")[:19] + "Z"),
        variable("CI_JOB_ID", job["id"]),
        variable("CI_JOB_URL", f"{url}/-/jobs/{job['id']}"),
        variable("CI_JOB_TOKEN", token, public=False, masked=True),
        variable("CI_JOB_STARTED_AT", (iso(job["started_at"]) or "")[:19] + "Z"),
        variable("CI_JOB_TIMEOUT", job["timeout"]),
        variable("CI_REPOSITORY_URL", repository_url(context, project, token), public=False),
        variable("CI_DEPENDENCY_PROXY_USER", "gitlab-ci-token"),
    ]
    if context.settings.registry_host:
        persisted.append(variable("CI_REGISTRY_USER", "gitlab-ci-token"))
        persisted.append(variable("CI_REGISTRY_PASSWORD", token, public=False, masked=True))
    common = scope(context, project, pipeline, user)
    whole = [*persisted, *common.of_job(json.loads(job["definition"]), runner)]
    try:
        return expanded(whole)
    except ExpansionError:
        return whole  # the project's variables have changed since the pipeline was made


def repository_url(context: Context, project: Row, token: str) -> str:
    """Where the runner clones from, with the job's credentials."""
    scheme, _, rest = context.settings.external_url.partition("://")
    return f"{scheme}://gitlab-ci-token:{token}@{rest}/{project['full_path']}.git"


def slug(text: str) -> str:
    """GitLab's slug: lower case, at most 63 characters, nothing but ``a-z0-9-``."""
    return re.sub(r"[^a-z0-9]", "-", text.lower())[:63].strip("-")
