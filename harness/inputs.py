"""What a user names, looked at before anything is made: what is wrong with it is a usage error."""

from __future__ import annotations

import ipaddress
import re
import resource
from pathlib import Path
from tempfile import NamedTemporaryFile
from urllib.parse import urlsplit

from harness.errors import EnvironmentProblem, UsageError
from harness.files import clipped, read_text
from harness.options import ProvisionOptions
from harness.redact import Secret, register, register_environment, register_url

_MAX_TOKEN_BYTES = 10_000
_MAX_URL_CHARS = 2000
_OPEN_FILES = 256
"""Enough for a run of pytest with two workers; k3s has a limit of its own."""
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
"""RFC 1123; with the underscore, which internal names have and resolvers take."""


def check_inputs(options: ProvisionOptions) -> None:
    """Look at everything that the options name, over the network too; nothing is changed.

    Raises UsageError for what is wrong, EnvironmentProblem for what does not answer.
    """
    from harness.artifacts.auto import check_choice

    register_environment()
    check_choice(options.artifacts)
    if options.cluster == "existing" and options.kubeconfig is not None:
        from harness.cluster import ExistingCluster
        from harness.cluster.rights import check_rights
        from harness.kube import Kube

        ExistingCluster(options.kubeconfig, options.context).start()
        if not options.accept:  # by reading alone: what is missing is said of the outcomes that need it
            user = f"the user of context {options.context!r} in {options.kubeconfig}"
            check_rights(Kube(options.kubeconfig, options.context), user)
    if options.gitlab_url is not None and options.gitlab_token_file is not None:
        from harness.gitlab.client import GitLabTarget, check

        url, token = gitlab_url(options.gitlab_url), token_in(options.gitlab_token_file)
        target = GitLabTarget(url, token, options.gitlab_ca_file, options.gitlab_project)
        check(target, patient=False)


def gitlab_url(text: str) -> str:
    """A GitLab's URL, without the last slash. Raises UsageError, without repeating what may be a secret."""
    if register_url(text):
        raise UsageError(
            "--gitlab-url holds credentials, which would be shown wherever the address is",
            "leave them out of the URL, and put a token into a file for --gitlab-token-file",
        )
    hint = "give it as https://gitlab.example.com"
    if len(text) > _MAX_URL_CHARS or not text.isprintable() or any(char.isspace() for char in text):
        raise UsageError("--gitlab-url is no URL of a GitLab", hint)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--gitlab-url {clipped(text)!r} is no URL: {clipped(str(error))}", hint) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"--gitlab-url {clipped(text)!r} is no URL of a GitLab", hint)
    if port == 0 or not _is_host(parts.hostname):
        raise UsageError(f"--gitlab-url {clipped(text)!r}: that can be no host", hint)
    return text.rstrip("/")


def _is_host(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        encoded = name.encode("idna").decode() if not name.isascii() else name
    except UnicodeError:
        return False
    labels = encoded.removesuffix(".").split(".")
    return len(encoded) <= 253 and all(_LABEL.fullmatch(label) for label in labels)


def token_in(file: Path) -> Secret:
    """The token that a file holds. Raises UsageError; nothing of the file's content is repeated."""
    hint = "write one access token with scope api into it, nothing else"

    def complain(sentence: str) -> UsageError:
        return UsageError(f"--gitlab-token-file: {sentence}", hint)

    try:
        token = read_text(file, complain, max_bytes=_MAX_TOKEN_BYTES).strip()
    except FileNotFoundError:
        raise complain(f"there is no file {file}") from None
    if not token:
        raise complain(f"{file} is empty")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise complain(f"{file} does not hold one token")
    return register(token)


def check_report_dir(directory: Path) -> None:
    """Make the directory for reports and try it. Raises UsageError: nothing has been begun by then."""
    try:
        _try(directory, 0o777)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"no report can be written into {directory}: {why}",
            "name a directory that can be written, with room left: --report-dir",
        ) from None


def check_open_files() -> None:
    """Raises EnvironmentProblem where this process may open so few files that a run would end anywhere."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _OPEN_FILES:
        raise EnvironmentProblem(
            f"this process may have {soft} files open at once; a run needs {_OPEN_FILES}",
            "ulimit -n 1024, or LimitNOFILE= of the service that starts it",
        )


def check_state_home(home: Path) -> None:
    """Raises EnvironmentProblem when runs can't keep their state."""
    try:
        _try(home, 0o700)
    except OSError as error:
        raise EnvironmentProblem(
            f"{home}, where runs keep their state, can't be written: {error.strerror}",
            "make room there or name another directory with RUNNER_CONFORMANCE_HOME",
        ) from None


def _try(directory: Path, mode: int) -> None:
    """Make a directory and write into it; raises OSError. Runs that begin at once don't meet in the trial."""
    directory.mkdir(parents=True, exist_ok=True, mode=mode)
    with NamedTemporaryFile(dir=directory, prefix=".writable-") as trial:
        trial.write(b"\0" * 4096)
