"""A Runner, as the how-to creates it: Secret with the token, optional config.toml, Runner resource."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from harness.diagnose import Scope, log_facts
from harness.diagnosis import Fact, Reason, classify
from harness.errors import SuiteDefect
from harness.gitlab.client import GitLabTarget
from harness.kube import Kube, Object
from harness.ownership import labels
from harness.redact import Secret
from harness.stack import StackContext
from harness.stack.common import (
    DEPLOYMENT,
    POD,
    deployment_hopeless,
    deployment_reason,
    rolled_out,
    tell,
)
from harness.wait import Watched, wait_for

NAME = "runner"
RUNNER_KIND = "apps.gitlab.com/v1beta2/Runner"
NAMESPACE = "default"
"""Where the how-to puts it. Not ``operators``: Pod Security baseline there refuses privileged build pods."""
RUNNER_NAME = "jh-gitlab-runner"
SECRET_NAME = "jh-gitlab-runner-secret"
CONFIG_NAME = "custom-config-toml"
HOW_TO = Path(__file__).with_name("how_to")
"""The how-to's YAML, to the letter."""

READY_TIMEOUT_S = 300
_COMPLAINT = re.compile(r"error|not found|fail", re.IGNORECASE)
_FORBIDDEN = re.compile(r"is forbidden: User ")
"""What a controller without a right says again and again, of a kind and not of a Runner; rights that it got
after its start are no longer among its last words."""


def create_runner(ctx: StackContext, namespace: str, manifests: Iterable[Object]) -> None:
    """Create the namespace, and in it what ``runner_manifests`` made.

    Raises SuiteDefect for the operator's own namespace.
    """
    if namespace == ctx.profile.operator.namespace:
        raise SuiteDefect(f"a Runner in {namespace} can't start privileged pods", "choose another namespace")
    ensure_namespace(ctx.kube, namespace, ctx.run_id)
    for manifest in manifests:
        manifest["metadata"]["labels"] = labels(ctx.run_id)
        ctx.kube.apply(manifest, namespace)


def runner_manifests(
    token: Mapping[str, Secret],
    target: GitLabTarget,
    *,
    config_toml: str | None = None,
    registry_ca: Path | None = None,
) -> list[Object]:
    """The how-to's YAML with the token and GitLab's address put in: Secret, where asked for more, Runner.

    ``token``: by the key that the operator reads. ``config_toml`` becomes ConfigMap
    ``custom-config-toml``, the runner's registration template;
    ``registry_ca`` Secret ``registry-ca``, for a template that mounts it; a CA of the target's Secret
    ``gitlab-ca``, which the Runner is told of.
    """
    secret = _load("gitlab-runner-secret.yml")
    secret["stringData"] = {key: secret_token.reveal() for key, secret_token in token.items()}
    runner = _load("gitlab-runner-with-config.yml" if config_toml is not None else "gitlab-runner.yml")
    runner["spec"]["gitlabUrl"] = target.url
    found = [secret]
    if config_toml is not None:
        found.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": CONFIG_NAME},
                "data": {"config.toml": config_toml},
            }
        )
    if registry_ca is not None:
        found.append(_secret("registry-ca", {"ca.crt": registry_ca.read_text()}))
    if target.ca_file is not None:
        found.append(_secret("gitlab-ca", {"tls.crt": target.ca_file.read_text()}))
        runner["spec"]["ca"] = "gitlab-ca"
    return [*found, runner]


def _secret(name: str, data: Mapping[str, str]) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": dict(data)}


def _load(name: str) -> Object:
    loaded: Object = yaml.safe_load((HOW_TO / name).read_text())
    return loaded


def checks_namespace(ctx: StackContext) -> str:
    """What the tests themselves put into the cluster is here, apart from what they look at.

    On somebody's cluster, where two runs may meet, each has one of its own.
    """
    return f"{ctx.run_id}-checks" if ctx.options.cluster == "existing" else "runner-conformance-checks"


def ensure_namespace(kube: Kube, namespace: str, run_id: str) -> None:
    """Create the namespace unless it is there; one that is there is not marked as ours."""
    if kube.get("v1/Namespace", namespace) is None:
        kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": namespace, "labels": labels(run_id)},
            }
        )


def wait_runner_pod(
    ctx: StackContext, name: str, namespace: str, timeout_s: float = READY_TIMEOUT_S
) -> Object:
    """Wait until the Runner's Deployment ``<name>-runner`` is rolled out.

    The Runner's own status.phase isn't asked: operator 1.15.1 may leave it Pending while the runner works.
    """
    deployment = f"{name}-runner"

    def hopeless(found: Object | None) -> Reason | None:
        if found is not None:
            return deployment_hopeless(ctx, found)
        return ignored_reason(ctx, name, namespace)

    found = wait_for(
        lambda: ctx.kube.get(DEPLOYMENT, deployment, namespace),
        ready=lambda it: it is not None and rolled_out(it) is None,
        hopeless=hopeless,
        what=f"runner {namespace}/{deployment}",
        timeout_s=timeout_s,
        kube=ctx.kube,
        watch=[
            Watched(DEPLOYMENT, namespace),
            Watched(POD, namespace),
            Watched(RUNNER_KIND, namespace),
        ],
        about=[Scope(namespace), Scope(ctx.profile.operator.namespace)],
        progress=tell(ctx, NAME),
        cancelled=ctx.cancelled,
    )
    assert found is not None  # ready() said so
    return found


def ignored_reason(ctx: StackContext, name: str, namespace: str) -> Reason | None:
    """Why the operator has made nothing of a Runner: its pods, or what its log says of that Runner."""
    operator = Scope(ctx.profile.operator.namespace)
    for deployment in ctx.kube.list(DEPLOYMENT, operator.namespace):
        if "gitlab-runner" in deployment["metadata"]["name"]:  # others may be there, and be broken
            broken = deployment_reason(ctx.kube, deployment)
            if broken is not None:
                return broken
    logs = [log_facts(ctx.kube, [pod], all_containers=True) for pod in ctx.kube.list(POD, operator.namespace)]
    last = [next((it for it in log if it.subject.endswith(" manager")), None) for log in logs]
    said = [it for log in logs for it in log if _complains(it, name)]
    said += [it for it in last if it is not None and _FORBIDDEN.search(it.text)]
    absent = Fact(
        "object", f"Runner {namespace}/{name}", f"the operator has made nothing of Runner {name} so far"
    )
    return classify([*said, absent])


def _complains(fact: Fact, name: str) -> bool:
    """Whether a line of the controller's log says what is wrong with this Runner."""
    return name in fact.text and bool(_COMPLAINT.search(fact.text)) and not _FORBIDDEN.search(fact.text)
