"""The Runner that `runner-conformance up` leaves running: the how-to's, with its tag, online in GitLab."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from harness.files import write_whole
from harness.gitlab.client import GitLabSession, GitLabTarget, Made
from harness.stack import Layer, StackContext, gitlab, operator
from harness.stack.common import DEPLOYMENT, rolled_out, tell
from harness.stack.runner import (
    NAMESPACE,
    RUNNER_KIND,
    RUNNER_NAME,
    create_runner,
    runner_manifests,
    wait_runner_pod,
)
from harness.versions import facts
from harness.wait import wait_for

NAME = "runner"
TAG = "jh"
ONLINE_TIMEOUT_S = 60
_RECORD = "made-in-gitlab.json"


@dataclass(frozen=True)
class DefaultRunner:
    """Where the Runner is: in the cluster, and in GitLab."""

    name: str
    namespace: str
    runner_id: int


def install(ctx: StackContext) -> DefaultRunner:
    """Make a project runner, its Secret and Runner resource; wait for the pod, and for GitLab to see it."""
    target: GitLabTarget = ctx.results[gitlab.NAME]
    session = GitLabSession(
        target,
        ctx.run_id,
        save=lambda made: _save(ctx.state_dir, made),
        will_make=gitlab.written_down(ctx, target),
    )
    session.gl.auth()
    token = session.create_runner(tags=[TAG], description=RUNNER_NAME)
    key, *_ = facts.TOKEN_KEYS.at(ctx.profile.operator.version)
    create_runner(ctx, NAMESPACE, runner_manifests({key: token.token}, target))
    wait_runner_pod(ctx, RUNNER_NAME, NAMESPACE)
    wait_for(
        lambda: session.runner_status(token.id),
        ready=lambda status: status == "online",
        what=f"runner {token.id} online in GitLab",
        timeout_s=ONLINE_TIMEOUT_S,
        progress=tell(ctx, NAME),
        cancelled=ctx.cancelled,
    )
    return DefaultRunner(RUNNER_NAME, NAMESPACE, token.id)


def attach(ctx: StackContext) -> DefaultRunner | None:
    """The same in another process."""
    made = _load(ctx.state_dir)
    return DefaultRunner(RUNNER_NAME, NAMESPACE, made.runners[0]) if made and made.runners else None


def remove(ctx: StackContext) -> None:
    """Remove what was made in the user's GitLab; the embedded one goes as a whole."""
    made = _load(ctx.state_dir)
    if made is not None and ctx.options.gitlab_url:
        target = gitlab.external(ctx.options)
        GitLabSession(target, ctx.run_id, made=made, save=lambda it: _save(ctx.state_dir, it)).remove()


def ready(ctx: StackContext) -> str | None:
    """One look at its Deployment."""
    deployment = ctx.kube.get(DEPLOYMENT, f"{RUNNER_NAME}-runner", NAMESPACE)
    return "its Deployment is not there" if deployment is None else rolled_out(deployment)


def _save(state_dir: Path, made: Made) -> None:
    write_whole(state_dir / _RECORD, json.dumps(dataclasses.asdict(made)))


def _load(state_dir: Path) -> Made | None:
    path = state_dir / _RECORD
    return Made(**json.loads(path.read_text())) if path.exists() else None


LAYER = Layer(
    name=NAME,
    install=install,
    needs=(operator.NAME, gitlab.NAME),
    ready=ready,
    attach=attach,
    remove=remove,
    namespaces=(NAMESPACE,),
    kinds=(RUNNER_KIND,),
)
