"""Who is beside the runs that are killed: a kept stack, and a living run in its cluster and its GitLab.

Both are in the state home of those that are killed: each `reap` has them before it and must spare them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.attach import attach
from harness.gitlab.client import GitLabSession, GitLabTarget, connect
from harness.given import Given
from harness.journal import GITLAB_PLACE
from harness.kube import KindUnknown, Kube
from harness.options import provision_options
from harness.ownership import HOME_VARIABLE
from harness.provision import Provisioner
from harness.stack.runner import ensure_namespace

ROOT = Path(__file__).parents[2]
_STACK = "theirs"
_KINDS = (
    "v1/Namespace",
    "apps.gitlab.com/v1beta2/Runner",
    "rbac.authorization.k8s.io/v1/ClusterRole",
    "rbac.authorization.k8s.io/v1/ClusterRoleBinding",
)


@dataclass(frozen=True)
class Neighbours:
    """The kept stack, reached as its user reaches it, and what the living run has made on it."""

    kube: Kube
    target: GitLabTarget
    options: tuple[str, ...]
    living: Provisioner

    def inventory(self) -> frozenset[str]:
        """What runs make in a cluster and a GitLab that outlive them, by name."""
        found = set()
        for kind in _KINDS:
            try:
                found |= {_path(kind, it["metadata"]) for it in self.kube.list(kind)}
            except KindUnknown:
                continue
        gitlab = connect(self.target)
        found |= {f"project {it.path_with_namespace}" for it in gitlab.projects.list(get_all=True)}
        found |= {f"runner {it.description}" for it in gitlab.runners_all.list(get_all=True)}
        return frozenset(found)


@contextmanager
def neighbours(top: Path, bundle: Path) -> Iterator[Neighbours]:
    """Make both in ``top/home``, from now on this process's state home; take both down at the end."""
    before = os.environ.get(HOME_VARIABLE)
    os.environ[HOME_VARIABLE] = str(top / "home")
    if code := _cli("up", "--keep", "--name", _STACK, "--artifacts", str(bundle)):
        raise SystemExit(f"the stack beside could not be made: exit {code}")
    living: Provisioner | None = None
    try:
        kept = attach(_STACK)
        target: GitLabTarget = kept.results["gitlab"]
        token = top / "token"
        token.touch(mode=0o600)
        token.write_text(target.token.reveal())
        where = {
            "cluster": "existing",
            "kubeconfig": kept.cluster.kubeconfig,
            "context": "default",
            "gitlab_url": target.url,
            "gitlab_token_file": token,
            "gitlab_ca_file": target.registry_ca,
        }
        living = Provisioner(provision_options(Given({**where, "artifacts": str(bundle)})))
        _make_something(living, target)
        options = tuple(f"--{name.replace('_', '-')}={value}" for name, value in where.items())
        options = ("--make-runners", *options)
        yield Neighbours(kept.kube, target, options, living)
    finally:
        left = living.down() if living is not None else []
        code = _cli("status", _STACK) or _cli("down", _STACK)  # every layer is as ready as it was
        del os.environ[HOME_VARIABLE]
        if before is not None:
            os.environ[HOME_VARIABLE] = before
        if left or code:
            raise SystemExit(f"the neighbours left something: {left}, exit {code}")


def _make_something(living: Provisioner, target: GitLabTarget) -> None:
    context = living.start()
    ensure_namespace(context.kube, f"{living.run_id}-beside", living.run_id)
    session = GitLabSession(
        target, living.run_id, will_make=lambda kind, name: context.will_make(kind, name, GITLAB_PLACE)
    )
    session.gl.auth()
    session.create_runner(tags=["beside"], description="beside")


def _path(kind: str, metadata: dict[str, str]) -> str:
    return f"{kind} {metadata.get('namespace', '')}/{metadata['name']}"


def _cli(*words: str) -> int:
    command = [sys.executable, "-m", "harness.cli", *words]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        print(f"{' '.join(words)}: exit {done.returncode}: {done.stderr[-2000:]}", file=sys.stderr)
    return done.returncode
