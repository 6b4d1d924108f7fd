"""GitLab Runner Operator through OLM (how-to: Install Operator), held at the version asked for.

The how-to's Subscription alone gives today's head of the channel. So: ``startingCSV`` with Manual approval,
and only the InstallPlan whose ``clusterServiceVersionNames`` is the CSV asked for is approved; the plan for
the next version shows up while the first one is still installing.

An image is substituted in the CSV *and* in the Deployment: while the CSV is Installing, OLM notices a patched
CSV only after its 5-minute install timeout; a Deployment that alone was edited it overwrites when it next
reinstalls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.diagnosis import Fact, Reason, classify
from harness.errors import SuiteDefect
from harness.kube import ApiError, Kube, Object
from harness.ownership import labels
from harness.profile import Profile
from harness.stack import Layer, StackContext
from harness.stack import olm as olm_layer
from harness.stack.common import DEPLOYMENT, POD, load_manifests, tell, wait_deployment
from harness.wait import Watched, wait_for

NAME = "operator"
CSV = olm_layer.CSV
SUBSCRIPTION = "operators.coreos.com/v1alpha1/Subscription"
INSTALL_PLAN = "operators.coreos.com/v1alpha1/InstallPlan"
OPERATOR_GROUP = "operators.coreos.com/v1/OperatorGroup"
RUNNER = "apps.gitlab.com/v1beta2/Runner"

PLAN_TIMEOUT_S = 660
"""OLM gives a bundle 10 minutes to unpack and then says BundleUnpackFailed; its words beat ours."""
CSV_TIMEOUT_S = 330
"""OLM's own install timeout is 5 minutes."""

PASSING_FAILURES = ("ComponentUnhealthy",)
"""A CSV says so for a moment whenever its Deployment is edited, and OLM then goes on by itself."""


def install(ctx: StackContext) -> None:
    """Subscribe, approve, substitute images, wait for Succeeded and for webhooks that answer."""
    olm_layer.wait_catalog(ctx, NAME)
    subscribe(ctx)
    approve_plan(ctx)
    wish = ctx.profile.operator
    if ctx.options.substitute_images and ctx.profile.image_substitutions:
        substitute_images(ctx, ctx.profile.image_substitutions)
    if not ctx.options.wait_for_operator:
        return
    csv = olm_layer.wait_csv(
        ctx, NAME, wish.namespace, wish.csv, CSV_TIMEOUT_S, passing_failures=PASSING_FAILURES
    )
    for deployment in csv_deployments(csv):
        wait_deployment(ctx, NAME, wish.namespace, deployment["name"])
    wait_webhooks(ctx)


def subscription(ctx: StackContext) -> Object:
    """The Subscription of the manifest, with channel, startingCSV and approval as the profile wishes."""
    wish = ctx.profile.operator
    documents = load_manifests(ctx.artifacts.manifest("gitlab-runner-operator.yaml"))
    found = [it for it in documents if it["kind"] == "Subscription"]
    if len(found) != 1:
        raise SuiteDefect(f"gitlab-runner-operator.yaml holds {len(found)} Subscriptions instead of one")
    metadata = {**found[0]["metadata"], "name": wish.subscription_name, "namespace": wish.namespace}
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels(ctx.run_id)}
    spec = {
        **found[0]["spec"],
        "name": wish.package,
        "channel": wish.channel,
        "source": wish.catalog,
        "startingCSV": wish.csv,
        "installPlanApproval": wish.approval,
    }
    return {**found[0], "metadata": metadata, "spec": spec}


def subscribe(ctx: StackContext) -> Object:
    """Apply the Subscription."""
    applied = ctx.kube.apply(subscription(ctx))
    ctx.progress(NAME, f"subscribed to {ctx.profile.operator.csv}")
    return applied


def approve_plan(ctx: StackContext, timeout_s: float = PLAN_TIMEOUT_S) -> Object:
    """Wait for the InstallPlan of the CSV asked for, and approve that one only; the plan.

    OLM creates a plan and writes its status in a second request. Approved between the two, that status is
    refused as outdated and the plan stays without a phase for ever: hence the wait for the phase.
    """
    kube, wish = ctx.kube, ctx.profile.operator
    plan = wait_for(
        lambda: find_plan(kube, ctx.profile),
        ready=lambda it: it is not None and bool(it.get("status", {}).get("phase")),
        hopeless=lambda it: subscription_hopeless(kube, ctx.profile),
        what=f"InstallPlan for {wish.csv}",
        timeout_s=timeout_s,
        kube=kube,
        watch=[
            Watched(INSTALL_PLAN, wish.namespace),
            Watched(SUBSCRIPTION, wish.namespace),
            Watched("batch/v1/Job", olm_layer.NAMESPACE),
        ],
        describe=lambda it: _unpacking(kube, ctx.profile) if it is None else it["metadata"]["name"],
        progress=tell(ctx, NAME),
        cancelled=ctx.cancelled,
    )
    assert plan is not None  # ready() said so
    name = plan["metadata"]["name"]
    if not plan["spec"].get("approved"):
        kube.patch(INSTALL_PLAN, name, wish.namespace, {"spec": {"approved": True}})
        ctx.progress(NAME, f"approved {name}")
    return plan


def find_plan(kube: Kube, profile: Profile) -> Object | None:
    """The InstallPlan for exactly the CSV asked for; of several the newest."""
    plans = [
        plan
        for plan in kube.list(INSTALL_PLAN, profile.operator.namespace)
        if plan["spec"].get("clusterServiceVersionNames") == [profile.operator.csv]
    ]
    return max(plans, key=lambda plan: plan["spec"].get("generation", 0), default=None)


def _plan_state(kube: Kube, profile: Profile) -> str:
    """What its InstallPlan says while the CSV is not there."""
    plan = find_plan(kube, profile)
    if plan is None:
        return "no InstallPlan"
    said = [it.get("message", "") for it in plan.get("status", {}).get("conditions", ())]
    phase = plan.get("status", {}).get("phase") or "without a phase"
    return " ".join([f"InstallPlan {plan['metadata']['name']} is {phase}", *filter(None, said)])


def subscription_hopeless(kube: Kube, profile: Profile) -> Reason | None:
    """What the Subscription says, and its namespace's OperatorGroups, that waiting won't mend."""
    wish = profile.operator
    where = f"Subscription {wish.namespace}/{wish.subscription_name}"
    found = kube.get(SUBSCRIPTION, wish.subscription_name, wish.namespace) or {}
    ours = (wish.subscription_name, wish.package, wish.catalog, wish.csv)
    facts = [
        Fact(
            "condition",
            where,
            f"{it['type']}: {it.get('reason', '')}: {it.get('message', '')}",
            subject=f"{where} {it['type']}",
            seen={**found, "ours": ours},
        )
        for it in found.get("status", {}).get("conditions", ())
        if it["status"] == "True" and it["type"] in ("ResolutionFailed", "BundleUnpackFailed")
    ]
    return classify([*facts, *operator_group_facts(kube, wish.namespace)])


def operator_group_facts(kube: Kube, namespace: str) -> list[Fact]:
    """OLM installs nothing, and says nothing, in a namespace without exactly one OperatorGroup."""
    names = [it["metadata"]["name"] for it in kube.list(OPERATOR_GROUP, namespace)]
    if len(names) == 1:
        return []
    text = f"{len(names)} OperatorGroups: {', '.join(names)}" if names else "no OperatorGroup"
    return [Fact("object", f"namespace {namespace}", text, subject=f"{namespace} groups")]


def _unpacking(kube: Kube, profile: Profile) -> str:
    """What can be seen before there is a plan: the Subscription's conditions."""
    wish = profile.operator
    found = kube.get(SUBSCRIPTION, wish.subscription_name, wish.namespace)
    conditions = (found or {}).get("status", {}).get("conditions", ())
    return ", ".join(it["type"] for it in conditions if it["status"] == "True") or "no plan yet"


def csv_deployments(csv: Mapping[str, Any]) -> list[Object]:
    """The Deployments that a CSV asks for: name and spec."""
    return list(csv["spec"]["install"]["spec"].get("deployments", ()))


def substitute_images(ctx: StackContext, substitutions: Mapping[str, str]) -> int:
    """Replace images in the CSV and in its Deployments; how many containers were changed in the CSV."""
    wish = ctx.profile.operator
    csv = wait_for(
        lambda: ctx.kube.get(CSV, wish.csv, wish.namespace),
        ready=lambda it: it is not None,
        what=f"CSV {wish.csv} exists",
        timeout_s=PLAN_TIMEOUT_S,  # OLM before v0.23 unpacks the bundle after its plan is approved
        kube=ctx.kube,
        watch=[Watched(CSV, wish.namespace, wish.csv), Watched(INSTALL_PLAN, wish.namespace)],
        describe=lambda it: _plan_state(ctx.kube, ctx.profile) if it is None else "there",
        progress=lambda text: None,
        cancelled=ctx.cancelled,
    )
    assert csv is not None  # ready() said so
    patch = [
        operation
        for index, deployment in enumerate(csv_deployments(csv))
        for operation in _replace(
            deployment["spec"]["template"],
            f"/spec/install/spec/deployments/{index}/spec/template",
            substitutions,
        )
    ]
    if patch:
        ctx.kube.patch(CSV, wish.csv, wish.namespace, patch)
        ctx.progress(NAME, f"{len(patch) // 2} image(s) replaced in the CSV")
    for deployment in csv_deployments(csv):
        _substitute_in_deployment(ctx, deployment["name"], substitutions)
    return len(patch) // 2


def _substitute_in_deployment(ctx: StackContext, name: str, substitutions: Mapping[str, str]) -> None:
    namespace = ctx.profile.operator.namespace
    deployment = wait_for(
        lambda: ctx.kube.get(DEPLOYMENT, name, namespace),
        ready=lambda it: it is not None,
        what=f"deployment {namespace}/{name} exists",
        timeout_s=120,
        kube=ctx.kube,
        watch=[Watched(DEPLOYMENT, namespace), Watched(CSV, namespace)],
        progress=lambda text: None,
        cancelled=ctx.cancelled,
    )
    assert deployment is not None  # ready() said so
    patch = _replace(deployment["spec"]["template"], "/spec/template", substitutions)
    if patch:  # it was made from the CSV as it was before
        ctx.kube.patch(DEPLOYMENT, name, namespace, patch)
        ctx.progress(NAME, f"{len(patch) // 2} image(s) replaced in deployment {name}")


def _replace(template: Mapping[str, Any], path: str, substitutions: Mapping[str, str]) -> list[Object]:
    """A JSON patch that tests each image before it replaces it: someone else may have been there."""
    patch: list[Object] = []
    for index, container in enumerate(template["spec"]["containers"]):
        wanted = substitutions.get(container["image"])
        if wanted:
            where = f"{path}/spec/containers/{index}/image"
            patch.append({"op": "test", "path": where, "value": container["image"]})
            patch.append({"op": "replace", "path": where, "value": wanted})
    return patch


def wait_webhooks(ctx: StackContext, timeout_s: float = 60) -> None:
    """Wait until a Runner passes the operator's webhooks in a dry run."""
    wait_for(
        lambda: webhook_answer(ctx.kube),
        ready=lambda answer: answer == "",
        what="the operator's webhooks answer",
        timeout_s=timeout_s,
        kube=ctx.kube,
        watch=[Watched(POD, ctx.profile.operator.namespace)],
        poll_s=0.25,
        describe=str,
        progress=tell(ctx, NAME),
        cancelled=ctx.cancelled,
    )


def webhook_answer(kube: Kube) -> str:
    """Empty when a Runner is admitted or refused on its merits, else why nobody answered."""
    probe: Object = {
        "apiVersion": "apps.gitlab.com/v1beta2",
        "kind": "Runner",
        "metadata": {"name": "runner-conformance-probe", "namespace": "default"},
        "spec": {"gitlabUrl": "https://gitlab.example.com", "buildImage": "alpine", "token": "none"},
    }
    try:
        kube.apply(probe, dry_run=True)
    except ApiError as error:
        if error.status == 500 or error.status == 404:
            return error.api_message
        if error.transient:
            raise
    return ""


def ready(ctx: StackContext) -> str | None:
    """One look: the CSV asked for is Succeeded."""
    wish = ctx.profile.operator
    csv = ctx.kube.get(CSV, wish.csv, wish.namespace)
    if csv is None:
        return f"CSV {wish.csv} is not there"
    phase = csv.get("status", {}).get("phase")
    return None if phase == "Succeeded" else f"CSV {wish.csv} is {phase}"


LAYER = Layer(
    name=NAME,
    install=install,
    needs=(olm_layer.CONTROLLERS,),
    ready=ready,
    namespaces=("operators", olm_layer.NAMESPACE),
    kinds=(
        SUBSCRIPTION,
        INSTALL_PLAN,
        CSV,
        OPERATOR_GROUP,
        DEPLOYMENT,
        "batch/v1/Job",
    ),
)
