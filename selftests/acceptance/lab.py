"""A stack that a person installed with the how-to's commands, and the GitLab beside it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.acceptance.rights import Depth, cluster_role
from harness.artifacts.bundle import Bundle
from harness.cluster import K3sCluster
from harness.gitlab.client import GitLabTarget, connect
from harness.gitlab.embedded import EmbeddedGitLab
from harness.kube import Kube
from harness.ownership import new_run_id
from harness.stack.registry import DEPLOYMENT, NAMESPACE, make_manifests
from selftests.e2e import by_hand
from selftests.e2e.by_hand import Shell
from selftests.e2e.nodes import options

RUNNER = "gitlab-runner"
TAG = "jh"
PROJECT = "root/hello"
ACCOUNT = "auditor"
USER = f"system:serviceaccount:default:{ACCOUNT}"
READY_TIMEOUT_S = 180
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True)
class Lab:
    """Where it is; the same for every process that uses it."""

    directory: Path
    bundle: Path
    gitlab_url: str

    @property
    def cluster(self) -> K3sCluster:
        """The node, attached to."""
        return K3sCluster.attach(self.directory / "cluster")

    @property
    def kube(self) -> Kube:
        """Its administrator's access."""
        return Kube(self.cluster.kubeconfig)

    @property
    def shell(self) -> Shell:
        """A shell on its node, in the directory of the bundle's files."""
        return Shell(self.cluster, Bundle.read(self.bundle).path / "files")

    @property
    def csv(self) -> str:
        """The CSV of the operator that the bundle holds."""
        return f"gitlab-runner-operator.v{Bundle.read(self.bundle).components['operator'].version}"

    @property
    def token_file(self) -> Path:
        """A token of the GitLab's administrator."""
        return self.directory / "token"

    @property
    def gl(self) -> Any:
        """The GitLab, as its administrator sees it."""
        embedded = EmbeddedGitLab.attach(self.directory / "gitlab")
        client = connect(GitLabTarget(self.gitlab_url, embedded.token))
        client.auth()
        return client

    @property
    def kubeconfig(self) -> Path:
        """That of a person with the smallest role and no other right."""
        return self.directory / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        """What the API server wrote of every request."""
        return self.directory / "audit.log"

    @property
    def runner_id(self) -> int:
        """GitLab's number of Runner ``gitlab-runner``."""
        return int((self.directory / "runner-id").read_text())

    @property
    def registry_ca(self) -> Path:
        """The CA of the GitLab's registry, once that runs."""
        return self.directory / "registry" / "ca.crt"

    @classmethod
    def at(cls, directory: Path, bundle: Path) -> Lab:
        """One that another process installed."""
        return cls(directory, bundle, EmbeddedGitLab.attach(directory / "gitlab").url)

    def requests(self, since: int = 0) -> list[dict[str, Any]]:
        """What the person's user has asked, from a size of the log on."""
        with self.audit_log.open("rb") as log:
            log.seek(since)
            events = [json.loads(line) for line in log if line.endswith(b"\n")]
        return [it for it in events if it["user"].get("username") == USER]


def install(directory: Path, bundle: Path) -> Lab:
    """Cluster, GitLab, and by hand the how-to's stack with Runner ``gitlab-runner`` in ``default``."""
    directory.mkdir(parents=True, exist_ok=True)
    policy = directory / "audit-policy.yaml"
    policy.write_text(yaml.safe_dump(AUDIT_POLICY))
    audited = (
        f"--kube-apiserver-arg=audit-policy-file={policy}",
        f"--kube-apiserver-arg=audit-log-path={directory / 'audit.log'}",
    )
    cluster = K3sCluster(options(bundle, directory / "cluster", by_hand.NODE, extra_args=audited, keep=True))
    cluster.start()
    gitlab = EmbeddedGitLab(
        cluster.host_ip,
        directory / "gitlab",
        registry_host=cluster.node_ip,
        registry_ca=directory / "registry" / "ca.crt",
        keep=True,
    )
    gitlab.start()
    lab = Lab(directory, bundle, gitlab.url)
    lab.token_file.touch(mode=0o600)
    lab.token_file.write_text(gitlab.token.reveal())
    shell = lab.shell
    by_hand.cert_manager(shell)
    by_hand.operator_lifecycle_manager(shell)
    by_hand.operator(shell, lab.csv)
    phase = f"kubectl get csv -n operators {lab.csv} -o jsonpath='{{.status.phase}}'"
    shell.until(phase, lambda out: out == "Succeeded")
    number = make_runner(lab, "default", RUNNER)
    (directory / "runner-id").write_text(str(number))
    return lab


def run_registry(lab: Lab) -> None:
    """The container registry of the GitLab, which is no part of what is accepted."""
    cluster = lab.cluster
    manifests = make_manifests(
        cluster.node_ip,
        lab.gitlab_url,
        (lab.directory / "gitlab/registry-token.crt").read_text(),
        new_run_id(),
        lab.registry_ca,
    )
    text = shlex.quote(yaml.safe_dump_all(manifests))
    lab.shell.types(f"printf %s {text} | kubectl apply -f -")
    await_ready(lab, NAMESPACE, DEPLOYMENT)


@contextmanager
def installed(directory: Path, bundle: Path) -> Iterator[Lab]:
    """Such a stack, whose user has the role that --show-rbac prints; node and GitLab end with it."""
    try:
        lab = install(directory, bundle)
        make_person(lab, cluster_role(Depth()))
        yield lab
    finally:
        remove(directory)


def remove(directory: Path) -> None:
    """End node and GitLab, as far as they were begun."""
    EmbeddedGitLab.stop_at(directory / "gitlab")
    if (directory / "cluster").exists():
        K3sCluster.attach(directory / "cluster").stop()


def project_of(lab: Lab) -> Any:
    """The project that the Runners are for, made at the first call."""
    gl = lab.gl
    for project in gl.projects.list(get_all=True):
        if project.path_with_namespace == PROJECT:
            return gl.projects.get(project.id)
    return gl.projects.create({"name": "hello", "path": "hello", "initialize_with_readme": True})


def make_runner(
    lab: Lab,
    namespace: str,
    name: str,
    *,
    config: str = "",
    tag: str = TAG,
    key: str = "runner-registration-token",
) -> int:
    """What the article's reader does: New project runner, Secret, Runner; the runner's number in GitLab."""
    wanted = {
        "runner_type": "project_type",
        "project_id": project_of(lab).id,
        "description": name,
        "tag_list": [tag],
        "run_untagged": False,
    }
    made = lab.gl.user.runners.create(wanted)
    shell = lab.shell
    secret = f"{name}-secret"
    create = f"kubectl -n {namespace} create"
    token = lab.directory / f"{namespace}-{name}.token"  # in a file, so that no session shows it
    token.touch(mode=0o600)
    token.write_text(made.token)
    shell.types(f"{create} secret generic {secret} --from-file={key}={token}")
    spec = {"gitlabUrl": lab.gitlab_url, "buildImage": "alpine", "token": secret}
    if config:
        shell.types(f"{create} configmap custom-config-toml --from-literal=config.toml={shlex.quote(config)}")
        spec["config"] = "custom-config-toml"
    manifest = {
        "apiVersion": "apps.gitlab.com/v1beta2",
        "kind": "Runner",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
    text = shlex.quote(json.dumps(manifest))
    shell.until(f"printf %s {text} | kubectl apply -f -", lambda out: "runner.apps.gitlab.com/" in out)
    await_ready(lab, namespace, f"{name}-runner")
    return int(made.id)


@contextmanager
def second_runner(lab: Lab, namespace: str, name: str, *, config: str = "") -> Iterator[int]:
    """A Runner in a namespace and with a tag of its own, as its number in GitLab; at the end all is gone."""
    lab.shell.types(f"kubectl create namespace {namespace}")
    number = make_runner(lab, namespace, name, config=config, tag=name)
    try:
        yield number
    finally:
        lab.shell.types(f"kubectl -n {namespace} delete runner {name} --wait=true")
        lab.shell.types(f"kubectl delete namespace {namespace} --wait=true")
        lab.gl.runners.delete(number)


def await_ready(lab: Lab, namespace: str, deployment: str) -> None:
    """Wait until a Deployment is there and available."""
    wait = f"kubectl -n {namespace} rollout status deployment/{deployment} --timeout={READY_TIMEOUT_S}s"
    lab.shell.until(f"kubectl -n {namespace} get deployment {deployment}", bool)
    lab.shell.types(wait, timeout_s=READY_TIMEOUT_S + 10)


def make_person(lab: Lab, role: str) -> None:
    """A user with a ClusterRole of the text ``role`` and nothing else, and a kubeconfig for it."""
    shell = lab.shell
    shell.types(f"printf %s {shlex.quote(role)} | kubectl apply -f -")
    name = yaml.safe_load(role)["metadata"]["name"]
    create = "kubectl create --dry-run=client -o yaml"
    shell.types(f"{create} serviceaccount {ACCOUNT} | kubectl apply -f -")
    bound = f"clusterrolebinding {ACCOUNT} --clusterrole={name} --serviceaccount=default:{ACCOUNT}"
    shell.types(f"{create} {bound} | kubectl apply -f -")
    token = shell.types(f"kubectl create token {ACCOUNT} --duration=24h").strip()
    document = yaml.safe_load(lab.cluster.kubeconfig.read_text())
    document["users"] = [{"name": "person", "user": {"token": token}}]
    cluster = document["clusters"][0]["name"]
    document["contexts"] = [{"name": "theirs", "context": {"cluster": cluster, "user": "person"}}]
    document["current-context"] = "theirs"
    lab.kubeconfig.touch(mode=0o600)
    lab.kubeconfig.write_text(yaml.safe_dump(document))
