"""A pytest plugin: the real tests against a cluster and a GitLab that hold nothing at all.

Every step claims to have succeeded, no outcome blocks another, no wait is longer than a moment.
What passes here can't fail.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness.wait as waiting

_real_wait_for = waiting.wait_for


@functools.wraps(_real_wait_for)
def _short_wait_for(*args: Any, **kwargs: Any) -> Any:
    return _real_wait_for(*args, **{**kwargs, "timeout_s": 0.05, "poll_s": 0.02, "kube": None, "watch": ()})


waiting.wait_for = _short_wait_for  # before any module takes it by name

import pytest  # noqa: E402
import tenacity  # noqa: E402

import fixtures.second_cluster  # noqa: E402
import fixtures.stack  # noqa: E402
import harness.gitlab.patient  # noqa: E402
from fixtures.plugin.conformance import RECORD  # noqa: E402
from fixtures.plugin.outcomes import OutcomeRecord  # noqa: E402
from fixtures.steps import second_cluster as second  # noqa: E402
from fixtures.steps.runner_setups import MadeRunner, jobs_on, runner_setups  # noqa: E402
from harness.graph import Step  # noqa: E402
from harness.kube import ExecResult, KindUnknown  # noqa: E402
from harness.kube_errors import ApiError  # noqa: E402
from harness.options import ProvisionOptions  # noqa: E402
from harness.plan import Subject  # noqa: E402
from harness.profile import load_profile  # noqa: E402
from harness.stack.catalogue import LAYERS  # noqa: E402

harness.gitlab.patient._Stop = lambda patient: tenacity.stop_after_attempt(1)
HERE = Path(tempfile.mkdtemp(prefix="empty-provisioning-"))
TOKEN = HERE / "token"
TOKEN.write_text("glpat-of-nobody-at-all")
RUN_ID = f"rc-{os.getpid():08x}"
NOWHERE = "http://127.0.0.1:9"


class EmptyKube:
    """An API server that has nothing, accepts nothing and runs nothing."""

    kubeconfig = HERE / "kubeconfig"
    context = None

    def get(self, *args: Any, **kwargs: Any) -> None:
        return None

    def list(self, *args: Any, **kwargs: Any) -> list[Any]:
        return []

    def request(self, method: str, path: str, **kwargs: Any) -> Any:
        return {"gitVersion": "v0.0.0"} if path == "/version" else {}

    def refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise ApiError(503, "ServiceUnavailable", "nothing is here", doing="asking an empty cluster")

    apply = create = patch = logs = refuse

    def delete(self, *args: Any, **kwargs: Any) -> bool:
        return False

    def exec(self, *args: Any, **kwargs: Any) -> ExecResult:
        return ExecResult("", "no such container", 1)

    def kind(self, name: str) -> Any:
        raise KindUnknown(f"the cluster serves no {name}")


class EmptyArtifacts:
    """Artifacts that promise the profile's versions."""

    source, rehearsal, versions, stands_for = "nowhere", (), {}, {}

    def manifest(self, name: str) -> Path:
        path = HERE / name
        path.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n")
        return path

    def images(self) -> tuple[str, ...]:
        return ()


def _empty_context(name: str) -> Any:
    options = ProvisionOptions(gitlab_url=NOWHERE, gitlab_token_file=TOKEN)
    cluster = SimpleNamespace(
        abilities=frozenset({"node-shell", "docker"}),
        node_shell=lambda argv, timeout_s=30: SimpleNamespace(returncode=0, stdout="\n\n", stderr=""),
    )
    return SimpleNamespace(
        run_id=RUN_ID,
        options=options,
        profile=load_profile("seed"),
        artifacts=EmptyArtifacts(),
        cluster=cluster,
        kube=EmptyKube(),
        state_dir=HERE,
        results={},
        found=None,
        cancelled=None,
        progress=lambda layer, text: None,
    )


fixtures.stack.attach = _empty_context
fixtures.second_cluster.attach = _empty_context

_SECOND: dict[str, object] = {
    second.CLUSTER.name: second.Started("empty-b"),
    second.OLM.name: second.InstalledOffline([], []),
    second.PULL_FAILS.name: second.PullFailed({}, "", "", "none", []),
    second.REPLACED.name: second.Replaced({}, {}),
    second.REINSTALLED: None,
    second.OPERATOR: None,
}


def _made(pipelines: Iterable[str]) -> MadeRunner:
    return MadeRunner(
        namespace="default",
        project_id=1,
        project="nobody/nothing",
        runner_id=1,
        tag="jh",
        image="127.0.0.1:9/nobody/nothing",
        pipelines=dict.fromkeys(pipelines, 1),
    )


def _given(result: object) -> object:
    return result


class EmptyProvisioning:
    """Everything was made, it says."""

    name, run_id = "empty", RUN_ID
    steps_dir = HERE / "steps"

    def subject(self) -> Subject:
        return Subject("seed", "nothing", "nothing", "nothing", ())

    def plan(self, steps: Any) -> list[str]:
        return []

    def steps(self) -> dict[str, Step[Any]]:
        made: dict[str, object] = dict.fromkeys(("cluster", *LAYERS)) | _SECOND
        made |= {
            setup.step.name: _made(setup.pipelines)
            for setup in runner_setups(jobs_on(load_profile("seed"), EmptyArtifacts())).values()
        }
        return {name: Step(name, functools.partial(_given, result)) for name, result in made.items()}

    def cancel(self) -> None:
        pass

    def evidence(self, step: str, directory: Path) -> None:
        pass

    def notes(self) -> list[str]:
        return []

    def close(self, *, cancel: bool) -> list[str]:
        return []


@pytest.hookimpl(tryfirst=True)
def pytest_conformance_provisioning(options: Any) -> EmptyProvisioning:
    return EmptyProvisioning()


@pytest.hookimpl(tryfirst=True)
def pytest_conformance_evidence(item: Any, section: str, directory: Any) -> tuple[str, list[Path]]:
    return "nothing is here", []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    for item in items:  # each for itself: being blocked would prove nothing
        record = item.stash[RECORD]
        item.stash[RECORD] = OutcomeRecord(replace(record.spec, needs=()))


os.environ["NO_PROXY"] = "*"
