"""The how-to's commands, typed in its order at the shell of a node of the bundle; compared with its listings.

Nothing of harness/stack takes part: the commands are the article's, with the bundle's files in place of its
addresses. Where the article is silent, what a person must do is said beside the command. Ages, hashes and the
node's version differ from day to day; all else is compared as printed.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from harness.cluster import K3sCluster

NODE = "vm-0-12-ubuntu"  # the article's
CSV = "gitlab-runner-operator.v1.15.1"
DEPLOYMENT = "gitlab-runner-controller-manager"
REFUSED = "gcr.io/kubebuilder/kube-rbac-proxy:v0.8.0"
SUBSTITUTE = "kubesphere/kube-rbac-proxy:v0.8.0"
#: The article's own output, to the letter.
CSV_TABLE = """\
NAME                             DISPLAY         VERSION   REPLACES                         PHASE
gitlab-runner-operator.v1.15.1   GitLab Runner   1.15.1    gitlab-runner-operator.v1.15.0   Succeeded
"""
CERTIFICATE = """\
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: self-signed, namespace: default}
spec: {selfSigned: {}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: by-hand, namespace: default}
spec: {secretName: by-hand, dnsNames: [by-hand.example.com], issuerRef: {name: self-signed}}
"""
POLL_S = 0.5


class Shell:
    """A shell on the node, in the directory of the bundle's files."""

    def __init__(self, cluster: K3sCluster, files: Path) -> None:
        self._cluster, self._files = cluster, files

    def types(self, command: str, *, timeout_s: float = 120) -> str:
        """What a command prints, which must succeed; the session is pytest's captured output."""
        code, out, err = self._run(command, timeout_s)
        print(f"$ {command}\n{out}{err}")
        assert code == 0, f"{command}\n{out}{err}"
        return out

    def until(self, command: str, seen: Callable[[str], object], *, timeout_s: float = 120) -> str:
        """Type a command again and again until its output is as awaited; that output."""
        end = time.monotonic() + timeout_s
        while True:
            code, out, err = self._run(command, 30)
            if code == 0 and seen(out):
                print(f"$ {command}\n{out}{err}")
                return out
            assert time.monotonic() < end, f"{command}\n{out}{err}"
            time.sleep(POLL_S)

    def _run(self, command: str, timeout_s: float) -> tuple[int, str, str]:
        done = self._cluster.node_shell(
            ["sh", "-c", f"cd {shlex.quote(str(self._files))} && {command}"], timeout_s=timeout_s
        )
        return done.returncode, done.stdout, done.stderr


def k3s(shell: Shell) -> None:
    version = r"v1\.28\.\d+\+\w+"
    printed = shell.types("k3s --version")
    assert re.fullmatch(rf"k3s version {version} \([0-9a-f]{{8}}\)\ngo version go1\.\d+(\.\d+)?\n", printed)
    header, row = (line.split() for line in shell.types("kubectl get nodes").splitlines())
    assert header == ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    assert row[:3] == [NODE, "Ready", "control-plane,master"]
    assert re.fullmatch(r"\d+s", row[3])
    assert re.fullmatch(version, row[4])
    assert row[4] in printed


def cert_manager(shell: Shell) -> None:
    printed = shell.types("kubectl apply -f cert-manager.yaml").splitlines()
    resource = "customresourcedefinition.apiextensions.k8s.io/"
    assert [it for it in printed if it.startswith(resource)][:3] == [
        f"{resource}certificaterequests.cert-manager.io created",
        f"{resource}certificates.cert-manager.io created",
        f"{resource}challenges.acme.cert-manager.io created",
    ]
    assert printed[-2:] == [
        "mutatingwebhookconfiguration.admissionregistration.k8s.io/cert-manager-webhook created",
        "validatingwebhookconfiguration.admissionregistration.k8s.io/cert-manager-webhook created",
    ]
    # the article only goes on; cert-manager's documentation says to look at the pods and to try a certificate
    shell.types("kubectl -n cert-manager wait --for=condition=Available --timeout=110s deployment --all")
    assert pods(shell.types("kubectl -n cert-manager get pods")) == [("1/1", "Running", "0")] * 3
    document = f"printf %s {shlex.quote(CERTIFICATE)}"
    shell.until(f"{document} | kubectl apply --dry-run=server -f -", lambda out: "created" in out)
    shell.types(f"{document} | kubectl apply -f -")
    shell.types("kubectl wait --for=condition=Ready --timeout=60s certificate/by-hand")
    issued = shell.types(r"kubectl get secret by-hand -o jsonpath='{.data.tls\.crt}' | base64 -d")
    found = x509.load_pem_x509_certificate(issued.encode())
    found.verify_directly_issued_by(found)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["by-hand.example.com"]


def operator_lifecycle_manager(shell: Shell) -> None:
    """The commands of the release's install.sh, which the article pipes into bash, and its words."""
    printed = shell.types("kubectl create -f crds.yaml").splitlines()
    resource = "customresourcedefinition.apiextensions.k8s.io/"
    assert printed[:2] == [
        f"{resource}catalogsources.operators.coreos.com created",
        f"{resource}clusterserviceversions.operators.coreos.com created",
    ]
    shell.types("kubectl wait --for=condition=Established --timeout=60s -f crds.yaml")
    shell.types("kubectl create -f olm.yaml")
    rollout = shell.types("kubectl rollout status -w deployment/olm-operator --namespace=olm")
    assert rollout == (
        'Waiting for deployment "olm-operator" rollout to finish: '
        "0 of 1 updated replicas are available...\n"
        'deployment "olm-operator" successfully rolled out\n'
    )
    rollout = shell.types("kubectl rollout status -w deployment/catalog-operator --namespace=olm")
    assert rollout.endswith('deployment "catalog-operator" successfully rolled out\n')
    packageserver = "kubectl get csv -n olm packageserver -o jsonpath="
    shell.until(packageserver + "'{.status.phase}'", lambda phase: phase == "Succeeded")
    # the script looks every 10 s and so prints Installing or not; OLM's own history always has it
    history = shell.types(packageserver + "'{.status.conditions[*].phase}'").split()
    assert list(dict.fromkeys(history))[-2:] == ["Installing", "Succeeded"]
    rollout = shell.types("kubectl rollout status -w deployment/packageserver --namespace=olm")
    assert rollout.endswith('deployment "packageserver" successfully rolled out\n')


def operator(shell: Shell, csv: str = CSV) -> None:
    """The head of the channel has moved on since the article: its version must be named, and held.

    With startingCSV and automatic approval OLM would go straight on to the head; with manual approval a
    person approves the plan of the version named and leaves the next one waiting.
    """
    spec = f"  startingCSV: {csv}\n  installPlanApproval: Manual\n"
    printed = shell.types(
        f"(cat gitlab-runner-operator.yaml; printf %s {shlex.quote(spec)}) | kubectl create -f -"
    )
    assert printed == "subscription.operators.coreos.com/my-gitlab-runner-operator created\n"
    columns = r"{.metadata.name} {.spec.clusterServiceVersionNames}{'\n'}"
    plans = shell.until(
        f'kubectl -n operators get installplan -o jsonpath="{{range .items[*]}}{columns}{{end}}"',
        lambda out: f'["{csv}"]' in out,
    )
    (plan,) = (line.split()[0] for line in plans.splitlines() if f'["{csv}"]' in line)
    approve = f"kubectl -n operators patch installplan {plan} --type merge -p"
    shell.types(approve + """ '{"spec":{"approved":true}}'""")


def trouble_with_gcr_io(shell: Shell) -> None:
    """The article's first trouble and its cure: another image, in the CSV and in the Deployment made from it.

    It doesn't say where it replaces the image. A Deployment alone is written over when OLM next reinstalls;
    the CSV alone is not looked at while it is Installing.
    """
    refused = {"ErrImagePull", "ImagePullBackOff"}
    shell.until(
        "kubectl -n operators get pods",
        lambda out: any(ready == "1/2" and status in refused for ready, status, _ in pods(out)),
    )
    events = shell.until("kubectl -n operators describe pods", lambda out: "Back-off pulling" in out)
    for said in (
        rf'Warning +Failed +.* kubelet +Failed to pull image "{REFUSED}": .*failed to pull and unpack image '
        rf'"{REFUSED}": failed to resolve reference "{REFUSED}": failed to do request: Head "http',
        r"Warning +Failed +.* kubelet +Error: ErrImagePull",
        r"Normal +Created +.* kubelet +Created container manager",
        r"Normal +Started +.* kubelet +Started container manager",
        rf'Normal +BackOff +.* kubelet +Back-off pulling image "{REFUSED}"',
        r"Warning +Failed +.* kubelet +Error: ImagePullBackOff",
        rf'Normal +Pulling +.* kubelet +Pulling image "{REFUSED}"',
    ):
        assert re.search(said, events), said
    assert "Succeeded" not in shell.types("kubectl get csv -n operators")

    path = "/spec/install/spec/deployments/0/spec/template/spec/containers/0/image"
    first = "jsonpath='{.spec.install.spec.deployments[0].spec.template.spec.containers[0].image}'"
    assert shell.types(f"kubectl -n operators get csv {CSV} -o {first}") == REFUSED
    patch = f'[{{"op": "replace", "path": "{path}", "value": "{SUBSTITUTE}"}}]'
    shell.types(f"kubectl -n operators patch csv {CSV} --type json -p {shlex.quote(patch)}")
    shell.types(f"kubectl -n operators set image deployment/{DEPLOYMENT} kube-rbac-proxy={SUBSTITUTE}")
    shell.until("kubectl get csv -n operators", lambda out: out == CSV_TABLE)
    shell.until("kubectl -n operators get pods", lambda out: len(pods(out)) == 1)


def pods(table: str) -> list[tuple[str, str, str]]:
    """READY, STATUS and RESTARTS of kubectl's table of pods."""
    header, *rows = (line.split() for line in table.splitlines() or [""])
    assert not rows or header == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    return [(row[1], row[2], row[3]) for row in rows]
