"""The GitLab that the runner registers with: the user's, or the embedded one beside the cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from harness.errors import EnvironmentProblem, UsageError
from harness.gitlab.client import GitLabTarget
from harness.gitlab.embedded import EmbeddedGitLab
from harness.gitlab.target import check
from harness.inputs import gitlab_url, token_in
from harness.journal import GITLAB_PLACE
from harness.options import ProvisionOptions
from harness.stack import Layer, StackContext

NAME = "gitlab"
_RECORD = "gitlab.json"


def install(ctx: StackContext) -> GitLabTarget:
    """Check the user's GitLab, or start an embedded one that pods reach at ``host_ip``."""
    if ctx.options.gitlab_url:
        target = external(ctx.options)
        check(target)
        return target
    if not ctx.cluster.host_ip:
        raise EnvironmentProblem(
            "the pods of this cluster can't reach a GitLab that is embedded here",
            "name one that they reach: --gitlab-url and --gitlab-token-file",
        )
    host = ctx.cluster.node_ip
    process = EmbeddedGitLab(
        ctx.cluster.host_ip,
        _state(ctx),
        registry_host=host,
        registry_ca=authority_file(ctx),
        keep=ctx.options.keep,
    )
    process.start()
    (ctx.state_dir / _RECORD).write_text(json.dumps({"registry_host": host}))
    return _embedded(ctx, process)


def external(options: ProvisionOptions) -> GitLabTarget:
    """The target that the options name. Raises UsageError where the token is missing."""
    if options.gitlab_token_file is None:
        raise UsageError(
            "a GitLab is given without a token", "give --gitlab-token-file: a file with a token of scope api"
        )
    return GitLabTarget(
        gitlab_url(options.gitlab_url or ""),
        token_in(options.gitlab_token_file),
        options.gitlab_ca_file,
        options.gitlab_project,
    )


def place(options: ProvisionOptions) -> dict[str, str]:
    """How to reach the user's GitLab, for a journal: addresses and paths, no secret."""
    return {
        "url": gitlab_url(options.gitlab_url or ""),
        "token_file": str(options.gitlab_token_file.absolute()) if options.gitlab_token_file else "",
        "ca_file": str(options.gitlab_ca_file.absolute()) if options.gitlab_ca_file else "",
        "project": options.gitlab_project or "",
    }


def written_down(ctx: StackContext, target: GitLabTarget) -> Callable[[str, str], None]:
    """What a GitLabSession calls before it makes something; the embedded GitLab goes as a whole."""
    if target.embedded:
        return lambda kind, name: None
    return lambda kind, name: ctx.will_make(kind, name, GITLAB_PLACE)


def attach(ctx: StackContext) -> GitLabTarget:
    """The target again, in another process."""
    if ctx.options.gitlab_url:
        return external(ctx.options)
    return _embedded(ctx, EmbeddedGitLab.attach(_state(ctx)))


def remove(ctx: StackContext) -> None:
    """Stop the embedded GitLab, also one that another process started."""
    if not ctx.options.gitlab_url and (_state(ctx) / "process.json").exists():
        EmbeddedGitLab.stop_at(_state(ctx))


def ready(ctx: StackContext) -> str | None:
    """One look at whether it answers."""
    if ctx.options.gitlab_url:
        return None
    if not (_state(ctx) / "process.json").exists():
        return "no GitLab was named, and the embedded one has not been started"
    return None if EmbeddedGitLab.attach(_state(ctx)).healthy() else "the embedded GitLab does not answer"


def authority_file(ctx: StackContext) -> Path:
    """Where the CA of the registry in the cluster is, once that registry is installed."""
    return ctx.state_dir / "registry" / "ca.crt"


def token_certificate(ctx: StackContext) -> Path:
    """The certificate that a registry must trust for tokens of the embedded GitLab."""
    return _state(ctx) / "registry-token.crt"


def _state(ctx: StackContext) -> Path:
    return ctx.state_dir / "gitlab"


def _embedded(ctx: StackContext, process: EmbeddedGitLab) -> GitLabTarget:
    host = json.loads((ctx.state_dir / _RECORD).read_text())["registry_host"]
    return GitLabTarget(
        process.url, process.token, registry_host=host, registry_ca=authority_file(ctx), embedded=True
    )


def abandon(state_dir: Path) -> None:
    """Stop the embedded GitLab of a run that was killed."""
    EmbeddedGitLab.stop_at(state_dir / "gitlab")


LAYER = Layer(name=NAME, install=install, attach=attach, remove=remove, abandon=abandon, ready=ready)
