"""cert-manager, as `kubectl apply -f …/cert-manager.yaml` installs it (how-to: Install cert-manager)."""

from __future__ import annotations

from harness.kube import ApiError, Object
from harness.stack import Layer, StackContext
from harness.stack.common import apply_all, deployments_ready, load_manifests, tell, wait_deployment
from harness.wait import wait_for

NAME = "cert-manager"
NAMESPACE = "cert-manager"
DEPLOYMENTS = ("cert-manager", "cert-manager-cainjector", "cert-manager-webhook")

_PROBE: Object = {
    "apiVersion": "cert-manager.io/v1",
    "kind": "Issuer",
    "metadata": {"name": "runner-conformance-probe", "namespace": "default"},
    "spec": {"selfSigned": {}},
}


def install(ctx: StackContext) -> None:
    """Apply the release's manifest, wait for the three Deployments and for a webhook that answers."""
    count = apply_all(ctx, NAME, load_manifests(ctx.artifacts.manifest("cert-manager.yaml")))
    ctx.progress(NAME, f"{count} objects applied")
    for name in DEPLOYMENTS:
        wait_deployment(ctx, NAME, NAMESPACE, name)
    wait_webhook(ctx)


def wait_webhook(ctx: StackContext, timeout_s: float = 60) -> None:
    """Wait until the webhook admits an object: Available comes before its CA has been injected."""
    wait_for(
        lambda: webhook_answer(ctx),
        ready=lambda answer: answer == "",
        what="cert-manager's webhook answers",
        timeout_s=timeout_s,
        kube=ctx.kube,
        poll_s=0.25,
        describe=str,
        progress=tell(ctx, NAME),
        cancelled=ctx.cancelled,
    )


def webhook_answer(ctx: StackContext) -> str:
    """Empty when an Issuer passes the webhook in a dry run, else what the API server says."""
    try:
        ctx.kube.apply(_PROBE, dry_run=True)
    except ApiError as error:
        if error.status == 0:
            raise
        return error.api_message
    return ""


LAYER = Layer(
    name=NAME,
    install=install,
    ready=lambda ctx: deployments_ready(ctx, NAMESPACE, DEPLOYMENTS),
    namespaces=(NAMESPACE,),
    kinds=("cert-manager.io/v1/Certificate", "cert-manager.io/v1/Issuer"),
)
