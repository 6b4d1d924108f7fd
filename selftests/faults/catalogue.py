"""The fault catalogue: every way in which we break a bundle, a run's options or a running stack, as data.

A fault names the outcome (or `provision/<layer>`) that must turn red, and what its reason must say. If
nothing turns red, or something else does, or for another reason, the suite has a defect. Nothing here knows a
stand-in from the real program.

    python -m selftests.faults.catalogue list
    python -m selftests.faults.catalogue break runner-image-withheld BUNDLE OUT  # a broken copy
    python -m selftests.faults.catalogue profile wrong-channel seed.toml OUT  # a changed copy
    python -m selftests.faults.catalogue strike coredns-stopped STATE_DIR  # the k3s of that state
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from harness.cluster import K3sCluster
from harness.errors import Blame
from harness.kube import Kube
from selftests.faults.damaged import DAMAGED_BUNDLES, RUNNER
from selftests.faults.fault import Fault
from selftests.faults.steps import (
    SUBSTITUTES,
    Corrupt,
    Create,
    Edit,
    FaultError,
    OnNode,
    Patch,
    Shows,
    Stack,
    StopRegistry,
    Withhold,
    copy_bundle,
)
from selftests.faults.struck import STRUCK

NOT_PULLED = r"ErrImagePull|ImagePullBackOff"
OPERATOR = "registry.gitlab.com/gitlab-org/gl-openshift/gitlab-runner-operator/gitlab-runner-operator"
DEPLOYMENT = "apps/v1/Deployment"


@dataclass(frozen=True)
class FaultTarget:
    """What a fault is injected into: a bundle or a profile, and where the broken copy goes; or a stack."""

    bundle: Path | None = None
    profile: Path | None = None
    out: Path = Path()
    stack: Stack | None = None


def inject(fault: Fault, target: FaultTarget) -> None:
    """Do to the target what the fault says. Raises FaultError when it finds nothing to break.

    A bundle is left alone; its broken copy appears as a whole or not at all.
    """
    if target.profile:
        document = tomlkit.parse(target.profile.read_text())
        for name, value in fault.profile.items():
            table, key = name.split(".")
            document[table][key] = value
        target.out.write_text(tomlkit.dumps(document))
    if target.bundle:
        partial = target.out.with_name(target.out.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        copy_bundle(target.bundle, partial)
        try:
            for step in fault.bundle:
                step.damage(partial)
        except BaseException:
            shutil.rmtree(partial)
            raise
        partial.rename(target.out)
    if target.stack:
        for blow in fault.stack:
            blow.strike(target.stack)


def _withheld(
    name: str,
    refs: str | tuple[str, ...],
    red: str,
    reason: str = NOT_PULLED,
    blame: Blame = Blame.PRODUCT,
) -> Fault:
    """An upstream image that is gone, with all that may stand in its place: the registry itself answers."""
    gone = (refs,) if isinstance(refs, str) else refs
    what = f"{' and '.join(gone)} {'is' if len(gone) == 1 else 'are'} in no registry"
    return Fault(name, what, red, reason, blame, bundle=tuple(map(Withhold, gone)))


_CLUSTER = (
    Fault(
        "k3s-is-no-k3s",
        "files/k3s is a program that knows no `server`",
        "provision/cluster",
        r"k3s",
        bundle=(Edit("files/k3s", "", "#!/bin/sh\necho 'unknown command' >&2\nexit 1\n"),),
    ),
    _withheld("pause-image-withheld", "docker.io/rancher/mirrored-pause:3.6", "cluster/pod-runs", "pause"),
    _withheld(
        "coredns-withheld",
        "docker.io/rancher/mirrored-coredns-coredns:1.10.1",
        "cluster/dns",
        rf"cluster DNS has an endpoint: .*({NOT_PULLED})",
    ),
    Fault(
        "coredns-stopped",
        "CoreDNS has no pod",
        "cluster/dns",
        r"cluster DNS has an endpoint: failed .*Deployment kube-system/coredns\b.* 0 replicas",
        Blame.PRODUCT,
        stack=(
            Patch(
                DEPLOYMENT,
                {"spec": {"replicas": 0}},
                namespace="kube-system",
                label="k8s-app=kube-dns",
                within_s=30,
            ),
        ),
        after="cluster",
    ),
    Fault(
        "layer-corrupt",
        "a layer of cert-manager's controller has another digest than its manifest says",
        "cert-manager/deployments",
        NOT_PULLED,
        bundle=(Corrupt("quay.io/jetstack/cert-manager-controller:v1.7.1"),),
    ),
    Fault(
        "registry-down",
        "the registry that the node pulls from has ended",
        "cert-manager/deployments",
        rf"connection refused|{NOT_PULLED}",
        stack=(StopRegistry(),),
        after="cluster",
    ),
)

_CERT_MANAGER = (
    _withheld(
        "cert-manager-webhook-withheld",
        "quay.io/jetstack/cert-manager-webhook:v1.7.1",
        "cert-manager/deployments",
    ),
    _withheld(
        "cainjector-withheld",
        "quay.io/jetstack/cert-manager-cainjector:v1.7.1",
        "cert-manager/deployments",
    ),
    Fault(
        "cert-manager-webhook-untrusted",
        "nobody puts a CA into cert-manager's webhook configurations",
        "cert-manager/webhook-answers",
        r"x509: certificate signed by unknown authority",
        Blame.PRODUCT,
        bundle=(
            Edit(
                "files/cert-manager.yaml", "cert-manager.io/inject-ca-from-secret", "example.org/no-injection"
            ),
        ),
    ),
)

_OLM = (
    _withheld("olm-image-withheld", "quay.io/operator-framework/olm:v0.26.0", "olm/rolled-out"),
    _withheld("catalog-withheld", "quay.io/operatorhubio/catalog:latest", "olm/catalog"),
    Fault(
        "catalog-renamed",
        "the CatalogSource has another name than Subscriptions ask for",
        "olm/catalog",
        r"CatalogSource",
        Blame.PRODUCT,
        bundle=(Edit("files/olm.yaml", "name: operatorhubio-catalog", "name: another-catalog"),),
    ),
    Fault(
        "olm-crd-missing",
        "crds.yaml lacks OperatorGroups",
        "olm/crds",
        r"operatorgroups\.operators\.coreos\.com",
        Blame.PRODUCT,
        bundle=(
            Edit(
                "files/crds.yaml",
                "operatorgroups.operators.coreos.com",
                "operatorgroups.operators.example.org",
            ),
        ),
    ),
)

_OPERATOR = (
    _withheld(
        "bundle-image-withheld",
        "quay.io/operatorhubio/gitlab-runner-operator:v1.15.1",
        "provision/operator",
        r"BundleUnpack|DeadlineExceeded|ErrImagePull|ImagePullBackOff",
    ),
    _withheld("manager-withheld", f"{OPERATOR}:v1.15.1", "operator/controller"),
    _withheld(
        "proxy-substitutes-withheld",
        SUBSTITUTES,
        "operator/controller",
        r"the bundle \S+ has no image docker\.io/kubesphere/kube-rbac-proxy",
        Blame.ENVIRONMENT,
    ),
    Fault(
        "wrong-channel",
        "the Subscription asks for a channel that the package has not",
        "provision/operator",
        r"no operators found in channel beta",
        Blame.PRODUCT,
        profile={"operator.channel": "beta"},
    ),
    Fault(
        "wrong-catalog",
        "the Subscription names a catalog that is not there",
        "provision/operator",
        r"no-such-catalog",
        Blame.PRODUCT,
        profile={"operator.catalog": "no-such-catalog"},
    ),
    Fault(
        "two-operator-groups",
        "namespace operators has a second OperatorGroup",
        "operator/csv-succeeded",
        r"TooManyOperatorGroups",
        Blame.ENVIRONMENT,
        stack=(
            Create(
                {
                    "apiVersion": "operators.coreos.com/v1",
                    "kind": "OperatorGroup",
                    "metadata": {"name": "second", "namespace": "operators"},
                    "spec": {},
                }
            ),
            Shows(
                "operators.coreos.com/v1alpha1/ClusterServiceVersion",
                "gitlab-runner-operator.v1.15.1",
                "operators",
                "reason",
                "TooManyOperatorGroups",
            ),
        ),
        after="operator",
        rule="olm/many-operator-groups",
    ),
    Fault(
        "metrics-for-everyone",
        "every service account may read metrics",
        "operator/metrics",
        r"no permission: HTTP 200",
        Blame.PRODUCT,
        stack=(
            Create(
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "ClusterRoleBinding",
                    "metadata": {"name": "metrics-for-everyone"},
                    "roleRef": {
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "ClusterRole",
                        "name": "gitlab-runner-metrics-reader",
                    },
                    "subjects": [
                        {
                            "apiGroup": "rbac.authorization.k8s.io",
                            "kind": "Group",
                            "name": "system:serviceaccounts",
                        }
                    ],
                }
            ),
        ),
        after="operator",
    ),
)

_RUNNER_AND_JOBS = (
    Fault(
        "operator-webhook-untrusted",
        "the API server has another CA than the operator's webhook",
        "provision/runner-how-to",
        r"x509|certificate",
        Blame.PRODUCT,
        stack=(
            Patch(
                "admissionregistration.k8s.io/v1/MutatingWebhookConfiguration",
                [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}],
                label="olm.webhook-description-generate-name=mrunner.kb.io",
            ),
        ),
        after="operator",
    ),
    _withheld("runner-image-withheld", f"{RUNNER}/gitlab-runner-ocp:v16.0.1", "runner/pod"),
    _withheld(
        "helper-image-withheld",
        f"{RUNNER}/gitlab-runner-helper-ocp:v16.0.1",
        "pipeline/dind/succeeds",
        r"helper",
    ),
    _withheld(
        "dind-image-withheld",
        "docker.io/library/docker:20.10.7-dind",
        "pipeline/dind/succeeds",
        r"docker:20\.10\.7-dind",
    ),
    _withheld(
        "docker-images-withheld",
        ("docker.io/library/docker:25.0.0", "docker.io/library/docker:latest"),
        "pipeline/dind/succeeds",
        r"docker:latest",
    ),
    _withheld(
        "builders-withheld",
        (
            "gcr.io/kaniko-project/executor:v1.23.2-debug",
            "gcr.io/kaniko-project/executor:debug",
            "quay.io/buildah/stable:latest",
        ),
        "daemonless/build/succeeds",
        r"buildah",
    ),
    _withheld("registry-image-withheld", "docker.io/library/registry:2", "provision/registry"),
    Fault(
        "job-rights-missing",
        "the runner's Role allows nothing",
        "pipeline/dind/succeeds",
        r"(secrets|pods) is forbidden",
        Blame.ENVIRONMENT,
        stack=(
            Patch(
                "rbac.authorization.k8s.io/v1/Role",
                [{"op": "replace", "path": "/rules", "value": []}],
                label="app.kubernetes.io/managed-by=gitlab-runner-operator",
                within_s=20,
            ),
        ),
        after="runner-dind",
    ),
    Fault(
        "docker-stopped",
        "the Docker engine on the node has ended, its socket is left",
        "docker-sock/build/succeeds",
        # Without a daemon the client itself logs in, and does not know the CA of the lab's registry.
        r"is failed: .*x509: certificate signed by unknown authority",
        Blame.ENVIRONMENT,
        stack=(OnNode("kill -9 $(cat /run/docker.pid)"),),
        after="cluster",
    ),
)

FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for group in (DAMAGED_BUNDLES, _CLUSTER, _CERT_MANAGER, _OLM, _OPERATOR, _RUNNER_AND_JOBS, STRUCK)
    for fault in group
}


def _target(words: argparse.Namespace) -> FaultTarget:
    if words.command == "break":
        return FaultTarget(bundle=words.bundle, out=words.out)
    if words.command == "profile":
        return FaultTarget(profile=words.profile, out=words.out)
    cluster = K3sCluster.attach(words.state_dir)
    return FaultTarget(stack=Stack(Kube(cluster.kubeconfig), cluster))


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit code: 0 done, 2 usage, 10 nothing to break."""
    parser = argparse.ArgumentParser(
        prog="python -m selftests.faults.catalogue", description="Break things on purpose."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every fault: what it breaks, and what must turn red")
    for name, where in (
        ("break", ("bundle", "out")),
        ("profile", ("profile", "out")),
        ("strike", ("state_dir",)),
    ):
        command = commands.add_parser(name)
        command.add_argument("fault", choices=FAULTS, metavar="FAULT")
        for argument in where:
            command.add_argument(argument, type=Path)
    words = parser.parse_args(arguments)
    if words.command == "list":
        for fault in FAULTS.values():
            print(f"{fault.name:32} {fault.red:32} {fault.what}")
        return 0
    try:
        inject(FAULTS[words.fault], _target(words))
    except FaultError as error:
        print(error, file=sys.stderr)
        return 10
    return 0


if __name__ == "__main__":
    sys.exit(main())
