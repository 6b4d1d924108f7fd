"""Operator Lifecycle Manager, in the steps of its release's install.sh (how-to: "Install … OLM").

install.sh refuses a second installation, creates crds.yaml, waits for Established, creates olm.yaml, waits
for the rollout of olm-operator and catalog-operator, for the CSV ``packageserver`` to succeed and roll out.
Two layers, because a Subscription needs the controllers and a catalog but not the packageserver.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.diagnose import Scope, scope_reason
from harness.diagnosis import Fact, Reason, classify
from harness.errors import EnvironmentProblem
from harness.kube import Kube, Object
from harness.stack import Layer, StackContext
from harness.stack import csv as csv_says
from harness.stack.common import (
    DEPLOYMENT,
    POD,
    apply_all,
    deployment_hopeless,
    deployments_ready,
    load_manifests,
    tell,
    wait_deployment,
)
from harness.wait import Watched, wait_for

CONTROLLERS = "olm-controllers"
NAME = "olm"
NAMESPACE = "olm"
OPENSHIFT_NAMESPACE = "openshift-operator-lifecycle-manager"
CATALOG_SOURCE = "operators.coreos.com/v1alpha1/CatalogSource"
CSV = "operators.coreos.com/v1alpha1/ClusterServiceVersion"

PACKAGESERVER_TIMEOUT_S = 300
"""install.sh asks 30 times, 10 s apart."""
CATALOG_TIMEOUT_S = 300
"""The community catalog's image is large, and its gRPC connection backs off while it loads."""


def install_controllers(ctx: StackContext) -> None:
    """CRDs, then everything else, then both controllers rolled out. Raises where OLM is installed already."""
    refuse_second(ctx)
    apply_all(ctx, CONTROLLERS, load_manifests(ctx.artifacts.manifest("crds.yaml")))
    apply_all(ctx, CONTROLLERS, load_manifests(ctx.artifacts.manifest("olm.yaml")))
    for name in ("olm-operator", "catalog-operator"):
        wait_deployment(ctx, CONTROLLERS, NAMESPACE, name)


def refuse_second(ctx: StackContext) -> None:
    """Refuse as install.sh does: by the Deployment olm-operator, in either namespace."""
    for namespace in (OPENSHIFT_NAMESPACE, NAMESPACE):
        if ctx.kube.get(DEPLOYMENT, "olm-operator", namespace) is not None:
            raise EnvironmentProblem(
                f"OLM is already installed in namespace {namespace}",
                "use a cluster without it, or attach to the stack that installed it with --reuse",
            )


def install(ctx: StackContext) -> None:
    """The packageserver's CSV Succeeded, its Deployment rolled out, and the catalog READY."""
    wait_csv(ctx, NAME, NAMESPACE, "packageserver", PACKAGESERVER_TIMEOUT_S)
    wait_deployment(ctx, NAME, NAMESPACE, "packageserver")
    wait_catalog(ctx, NAME)


def wait_catalog(ctx: StackContext, layer: str) -> Object:
    """Wait until the profile's catalog is READY: a Subscription made before shows passing failures."""
    name = ctx.profile.operator.catalog

    def hopeless(catalog: Object | None) -> Reason | None:
        if catalog is None:  # olm.yaml, which was applied, makes it
            return why_no_catalog(ctx.kube, name, NAMESPACE)
        return scope_reason(ctx.kube, Scope(NAMESPACE, f"olm.catalogSource={name}"))

    found = wait_for(
        lambda: ctx.kube.get(CATALOG_SOURCE, name, NAMESPACE),
        ready=lambda it: catalog_state(it) == "READY",
        hopeless=hopeless,
        what=f"catalog {name} READY",
        timeout_s=CATALOG_TIMEOUT_S,
        kube=ctx.kube,
        watch=[Watched(CATALOG_SOURCE, NAMESPACE, name), Watched(POD, NAMESPACE)],
        describe=catalog_state,
        progress=tell(ctx, layer),
        cancelled=ctx.cancelled,
    )
    assert found is not None  # READY was read from it
    return found


def why_no_catalog(kube: Kube, name: str, namespace: str) -> Reason | None:
    """That a catalog is not there, and which are; None where it is."""
    there = [it["metadata"]["name"] for it in kube.list(CATALOG_SOURCE, namespace)]
    if name in there:
        return None
    others = f"only {', '.join(there)}" if there else "and no other either"
    text = f"CatalogSource {name} is not there, {others}"
    return classify([Fact("object", f"namespace {namespace}", text)])


def catalog_state(catalog: Object | None) -> str:
    """The gRPC connection's state: IDLE, CONNECTING, TRANSIENT_FAILURE, READY."""
    if catalog is None:
        return "not there"
    connection = catalog.get("status", {}).get("connectionState", {})
    return str(connection.get("lastObservedState", "no connection yet"))


def wait_csv(
    ctx: StackContext,
    layer: str,
    namespace: str,
    name: str,
    timeout_s: float,
    *,
    passing_failures: Sequence[str] = (),
) -> Object:
    """Wait until a CSV is Succeeded; Failed ends the wait, but for reasons named in ``passing_failures``."""

    def hopeless(csv: Object | None) -> Reason | None:
        status = (csv or {}).get("status", {})
        if (
            csv is not None
            and status.get("phase") == "Failed"
            and status.get("reason") not in passing_failures
        ):
            return csv_says.why_not_succeeded(csv)
        return _deployments_hopeless(ctx, namespace, csv)

    found = wait_for(
        lambda: ctx.kube.get(CSV, name, namespace),
        ready=lambda it: it is not None and _own(it) and it.get("status", {}).get("phase") == "Succeeded",
        hopeless=hopeless,
        what=f"CSV {namespace}/{name} Succeeded",
        timeout_s=timeout_s,
        kube=ctx.kube,
        watch=[Watched(CSV, namespace, name), Watched(POD, namespace)],
        progress=tell(ctx, layer),
        cancelled=ctx.cancelled,
    )
    assert found is not None  # ready() said so
    return found


def _own(csv: Object) -> bool:
    """No copy that OLM made of a CSV in another namespace: a copy installs nothing."""
    return "olm.copiedFrom" not in (csv["metadata"].get("labels") or {})


def _deployments_hopeless(ctx: StackContext, namespace: str, csv: Object | None) -> Reason | None:
    if csv is None:
        return None
    for wanted in csv["spec"].get("install", {}).get("spec", {}).get("deployments", ()):
        problem = deployment_hopeless(ctx, ctx.kube.get(DEPLOYMENT, wanted["name"], namespace))
        if problem is not None:
            return problem
    return None


def ready(ctx: StackContext) -> str | None:
    """One look at controllers, packageserver and catalog."""
    missing = deployments_ready(ctx, NAMESPACE, ("olm-operator", "catalog-operator", "packageserver"))
    if missing:
        return missing
    state = catalog_state(ctx.kube.get(CATALOG_SOURCE, ctx.profile.operator.catalog, NAMESPACE))
    return None if state == "READY" else f"catalog {ctx.profile.operator.catalog}: {state}"


_KINDS = (CSV, CATALOG_SOURCE, "batch/v1/Job", "apiregistration.k8s.io/v1/APIService")

CONTROLLERS_LAYER = Layer(
    name=CONTROLLERS,
    install=install_controllers,
    ready=lambda ctx: deployments_ready(ctx, NAMESPACE, ("olm-operator", "catalog-operator")),
    namespaces=(NAMESPACE,),
    kinds=_KINDS,
)
LAYER = Layer(
    name=NAME,
    install=install,
    needs=(CONTROLLERS,),
    ready=ready,
    namespaces=(NAMESPACE,),
    kinds=_KINDS,
)
