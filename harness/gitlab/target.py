"""A GitLab by its address and token, and whether the run can do its work there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import gitlab

from harness.errors import EnvironmentProblem, UsageError
from harness.gitlab.errors import gitlab_errors
from harness.gitlab.patient import PatientGitlab
from harness.redact import Secret

SCOPE = "api"
"""Covers projects, runners, pipelines, git and the registry; nothing less covers all of them."""
_MAINTAINER = 40


@dataclass(frozen=True)
class GitLabTarget:
    """Where GitLab is and who we are there. ``project``: use this one instead of making one.

    ``registry_host`` and ``registry_ca`` are known beforehand for the embedded GitLab only; anywhere else the
    project says where its registry is.
    """

    url: str
    token: Secret
    ca_file: Path | None = None
    project: str | None = None
    registry_host: str | None = None
    registry_ca: Path | None = None
    embedded: bool = False


def connect(target: GitLabTarget, *, patient: bool = True) -> PatientGitlab:
    """A client for ``target``. Makes no request."""
    verify: bool | str = str(target.ca_file) if target.ca_file else True
    return PatientGitlab(target.url, target.token.reveal(), verify, patient=patient)


def check(target: GitLabTarget, *, patient: bool = True) -> PatientGitlab:
    """Find out, without changing anything, whether the run can do its work there.

    Not ``patient``: a GitLab that refuses connections or answers 5xx is told within seconds.

    Raises UsageError (token refused, scope missing by name, project missing, rights too low) or
    EnvironmentProblem (unreachable, not a GitLab).
    """
    if not re.match(r"https?://[^/]+", target.url):
        raise UsageError(f"{target.url!r} is no URL of a GitLab", "give it as https://gitlab.example.com")
    client = connect(target, patient=patient)
    with gitlab_errors("asking GitLab who we are", target.url):
        client.auth()
    if client.user is None:
        raise EnvironmentProblem(
            f"{target.url} does not answer as a GitLab does", "is it the address of a GitLab?"
        )
    _check_scopes(client)
    if target.project:
        _check_rights(client, target.project, target.url)
    elif getattr(client.user, "can_create_project", True) is False:
        raise UsageError(
            f"user {client.user.username} may not create projects in {target.url}",
            "name a project that exists (--gitlab-project)",
        )
    return client


def _check_scopes(client: PatientGitlab) -> None:
    try:
        scopes = client.personal_access_tokens.get("self").scopes
    except gitlab.GitlabError:
        return  # an OAuth token, or a GitLab before 15.5: the first refused call will tell
    if SCOPE not in scopes:
        raise UsageError(
            f"the GitLab token lacks the scope {SCOPE!r} (it has: {', '.join(scopes) or 'none'})",
            f"make a personal access token with scope {SCOPE}",
        )


def _check_rights(client: PatientGitlab, path: str, url: str) -> None:
    with gitlab_errors(f"looking for project {path}", url):
        permissions = client.projects.get(path).attributes.get("permissions") or {}
    granted = [entry["access_level"] for entry in permissions.values() if entry]
    if granted and max(granted) < _MAINTAINER and not getattr(client.user, "is_admin", False):
        raise UsageError(
            f"the token's user is not a Maintainer of {path}: a project runner can't be made there",
            "use a token of a Maintainer, or let the run make a project of its own",
        )
