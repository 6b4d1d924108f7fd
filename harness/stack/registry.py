"""The container registry of the embedded GitLab: the real one (distribution), in the cluster.

It listens on the node's own address, port 443, so that host, pods, node and docker all know it by one name
without a port: docker looks for its CA in ``/etc/docker/certs.d/<name>/``, and a ``:`` can't be mounted.
"""

from __future__ import annotations

import base64
import secrets
import ssl
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.errors import HarnessError, ProductFailure
from harness.gitlab.certificates import issue
from harness.gitlab.client import GitLabTarget
from harness.kube import Object
from harness.patience import patience
from harness.stack import Layer, StackContext, gitlab
from harness.stack.common import apply_all, deployments_ready, wait_deployment

NAME = "registry"
NAMESPACE = "gitlab-registry"
DEPLOYMENT = "registry"
IMAGE = "docker.io/library/registry:2"
PORT = 443
ISSUER, SERVICE = "gitlab-issuer", "container_registry"
"""What GitLab's tokens for a registry say of themselves: its defaults (`registry_issuer`, and the service of
/jwt/auth), which a registry beside it must expect."""
_STORAGE_LIMIT = "8Gi"
_ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class RegistryInfo:
    """``host`` is what images are named by (CI_REGISTRY); ``ca_file`` is what clients must trust."""

    host: str
    ca_file: Path

    @property
    def url(self) -> str:
        """The address of its API."""
        return f"https://{self.host}"


def install(ctx: StackContext) -> RegistryInfo | None:
    """Run the registry and wait until it asks for GitLab's tokens; None where GitLab brings its own."""
    target: GitLabTarget = ctx.results[gitlab.NAME]
    if not target.embedded or target.registry_host is None:
        return None
    info = RegistryInfo(target.registry_host, gitlab.authority_file(ctx))
    manifests = make_manifests(
        target.registry_host, target.url, gitlab.token_certificate(ctx).read_text(), ctx.run_id, info.ca_file
    )
    apply_all(ctx, NAME, manifests)
    wait_deployment(ctx, NAME, NAMESPACE, DEPLOYMENT)
    check_challenge(info, target.url)
    trust_on_node(ctx, info)
    return info


def make_manifests(
    host: str, gitlab_url: str, token_certificate: str, run_id: str, ca_file: Path
) -> list[Object]:
    """Namespace, Secret and Deployment; the new CA is written to ``ca_file``.

    A plain function: it needs no cluster, and the address may be any that the pod's host has.
    """
    certificate = issue(host, run_id)
    ca_file.parent.mkdir(parents=True, exist_ok=True)
    ca_file.write_text(certificate.authority)
    files = {
        "config.yml": yaml.safe_dump(configuration(f"{host}:{PORT}", gitlab_url, "/registry")),
        "tls.crt": certificate.certificate,
        "tls.key": certificate.key,
        "token.crt": token_certificate,
    }
    namespaced = {"namespace": NAMESPACE}
    labels = {"app.kubernetes.io/name": "registry", "app.kubernetes.io/part-of": "gitlab"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            # A pod with the node's network is refused by the stricter Pod Security levels.
            "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "registry", **namespaced},
            "type": "Opaque",
            "data": {name: base64.b64encode(text.encode()).decode() for name, text in files.items()},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": DEPLOYMENT, "labels": labels, **namespaced},
            "spec": {
                "replicas": 1,
                "strategy": {"type": "Recreate"},  # two can't have one port of the node
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": _pod(host)},
            },
        },
    ]


def configuration(address: str, gitlab_url: str, directory: str) -> dict[str, object]:
    """The registry's configuration, understood by distribution 2 and 3 alike."""
    return {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {
            "filesystem": {"rootdirectory": "/var/lib/registry"},
            "delete": {"enabled": True},
            "cache": {"blobdescriptor": "inmemory"},
        },
        "http": {
            "addr": address,
            "secret": secrets.token_hex(16),
            "tls": {"certificate": f"{directory}/tls.crt", "key": f"{directory}/tls.key"},
        },
        "auth": {
            "token": {
                "realm": f"{gitlab_url}/jwt/auth",
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": f"{directory}/token.crt",
            }
        },
    }


def _pod(host: str) -> Object:
    return {
        "hostNetwork": True,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # REGISTRY_* variables would be read as configuration
        "terminationGracePeriodSeconds": 2,
        "containers": [
            {
                "name": "registry",
                "image": IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "args": ["/registry/config.yml"],
                "ports": [{"name": "https", "containerPort": PORT, "hostPort": PORT}],
                "readinessProbe": {"tcpSocket": {"port": PORT, "host": host}, "periodSeconds": 1},
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
                "volumeMounts": [
                    {"name": "registry", "mountPath": "/registry", "readOnly": True},
                    {"name": "storage", "mountPath": "/var/lib/registry"},
                ],
            }
        ],
        "volumes": [
            {"name": "registry", "secret": {"secretName": "registry"}},
            {"name": "storage", "emptyDir": {"sizeLimit": _STORAGE_LIMIT}},
        ],
    }


def check_challenge(info: RegistryInfo, gitlab_url: str) -> None:
    """See from the host that the registry answers with our certificate and sends clients to our GitLab."""
    import httpx  # not with the module: a kept stack has been checked

    trust = ssl.create_default_context(cafile=str(info.ca_file))
    try:
        answer = httpx.get(
            f"{info.url}/v2/", verify=trust, timeout=_ANSWER_TIMEOUT_S * patience(), trust_env=False
        )
    except httpx.HTTPError as error:
        raise ProductFailure(
            f"the registry at {info.url} runs, but does not answer the host", evidence=str(error)
        ) from None
    challenge = answer.headers.get("www-authenticate", "")
    if answer.status_code != 401 or f'realm="{gitlab_url}/jwt/auth"' not in challenge:
        raise ProductFailure(
            f"the registry at {info.url} does not ask for tokens of {gitlab_url} ({answer.status_code})",
            evidence=challenge or answer.text[:500],
        )


def trust_on_node(ctx: StackContext, info: RegistryInfo) -> None:
    """Give the CA to a docker engine on the node, where there is one; only ever on a node of our own."""
    if not {"docker", "node-shell"} <= ctx.cluster.abilities:
        return
    write = 'mkdir -p "$1" && printf %s "$2" >"$1/ca.crt"'
    folder = f"/etc/docker/certs.d/{info.host}"
    done = ctx.cluster.node_shell(["sh", "-c", write, "sh", folder, info.ca_file.read_text()])
    if done.returncode:
        raise HarnessError(
            f"the registry's CA could not be written to {folder} on the node", evidence=done.stderr
        )


def attach(ctx: StackContext) -> RegistryInfo | None:
    """The registry again, in another process."""
    target: GitLabTarget = ctx.results[gitlab.NAME]
    if not target.embedded or target.registry_host is None:
        return None
    return RegistryInfo(target.registry_host, gitlab.authority_file(ctx))


def ready(ctx: StackContext) -> str | None:
    """One look at the Deployment."""
    if ctx.options.gitlab_url:
        return None
    return deployments_ready(ctx, NAMESPACE, [DEPLOYMENT])


LAYER = Layer(
    name=NAME,
    install=install,
    needs=(gitlab.NAME,),
    ready=ready,
    attach=attach,
    namespaces=(NAMESPACE,),
    kinds=("apps/v1/Deployment", "v1/Pod"),
)
