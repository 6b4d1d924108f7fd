"""Credentials in GitLab's forms, random for each run, kept as digests where GitLab keeps digests."""

from __future__ import annotations

import hashlib
import secrets

_LENGTH_CHARS = 20
_AMBIGUOUS = str.maketrans("lIO0", "sxyz")
"""GitLab leaves out characters that are easily confused."""


def _random() -> str:
    return secrets.token_urlsafe(_LENGTH_CHARS)[:_LENGTH_CHARS].translate(_AMBIGUOUS)


def personal_access_token() -> str:
    """``glpat-`` and 20 characters."""
    return f"glpat-{_random()}"


def runner_token() -> str:
    """``glrt-`` and 20 characters: a runner made in GitLab. gitlab-runner 16.0.1 needs 14 or more in all."""
    return f"glrt-{_random()}"


def registered_runner_token() -> str:
    """20 characters without a prefix: a runner that registered itself with a registration token."""
    token = _random()
    # A leading '-' would be read as an option by `gitlab-runner register --token`.
    return "t" + token[1:] if token[0] == "-" else token


def registration_token() -> str:
    """``GR1348941`` and 20 characters: the legacy registration token of a project."""
    return f"GR1348941{_random()}"


def job_token() -> str:
    """``glcbt-64_`` and 20 characters."""
    return f"glcbt-64_{_random()}"


def digest(token: str) -> str:
    """What is stored and looked up instead of the token."""
    return hashlib.sha256(token.encode()).hexdigest()


def short_sha(token: str) -> str:
    """The first characters by which GitLab and gitlab-runner show a runner's token."""
    return token.removeprefix("glrt-")[:9]
