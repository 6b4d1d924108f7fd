"""What is there is found, not assumed: by kinds, labels, images and owners, whatever it is called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from harness.acceptance.border import MissingPermission
from harness.acceptance.found import (
    HELM,
    MANIFEST,
    OLM,
    Found,
    FoundCertManager,
    FoundOperator,
    FoundRunner,
)
from harness.acceptance.reader import ReadingKube
from harness.errors import UsageError
from harness.kube import ApiError, KindUnknown, Object
from harness.stack.cert_manager import DEPLOYMENTS
from harness.stack.common import DEPLOYMENT

CSV = "operators.coreos.com/v1alpha1/ClusterServiceVersion"
SUBSCRIPTION = "operators.coreos.com/v1alpha1/Subscription"
RUNNER = "runners.apps.gitlab.com"
PACKAGE = "gitlab-runner-operator"
COPIED = "olm.copiedFrom"
COMPONENT, NAME = "app.kubernetes.io/component", "app.kubernetes.io/name"
CERT_MANAGER_COMPONENTS = ("controller", "cainjector", "webhook")
_VERSION = re.compile(r"v?(\d+\.\d+\.\d+[\w.-]*)$")


def discover(kube: ReadingKube, operator_namespace: str | None = None) -> Found:
    """Everything of a stack that is there. ``operator_namespace``: which of several operators is meant.

    Raises UsageError where several are there and nothing says which is meant, ApiError when the cluster does
    not answer.
    """
    look = _Look(kube)
    version = kube.request("GET", "/version")["gitVersion"]
    nodes = look.all("v1/Node")
    deployments = look.all(DEPLOYMENT)
    csvs = [it for it in look.all(CSV) if COPIED not in _labels(it)]
    olm = _olm(look, deployments, csvs)
    return Found(
        kubernetes=version,
        node=", ".join(sorted({it["status"]["nodeInfo"]["kubeletVersion"] for it in nodes})),
        cert_manager=_cert_manager(look, deployments),
        olm_namespace=olm[0],
        olm_version=olm[1],
        operator=_operator(look, deployments, csvs, operator_namespace),
        runners=tuple(_runner(look, it, deployments) for it in look.all(RUNNER)),
        unseen=tuple(look.unseen),
        sources=look.sources,
    )


class _Look:
    """Lists, of which a kind that is not served is empty and a missing right is noted once."""

    def __init__(self, kube: ReadingKube) -> None:
        self._kube = kube
        self.unseen: list[str] = []
        self.sources: dict[str, str] = {}

    def all(self, kind: str) -> list[Object]:
        try:
            return self._kube.list(kind)
        except KindUnknown:
            return []
        except MissingPermission as error:
            if error.why not in self.unseen:
                self.unseen.append(error.why)
            return []
        except ApiError as error:
            if error.behind or error.status == 404:
                return []  # a kind whose own server does not answer
            raise

    def read(self, what: str, source: Object) -> None:
        self.sources[what] = _ref(source)


def _ref(it: Object) -> str:
    where = f"{it['metadata'].get('namespace', '')}/{it['metadata']['name']}".lstrip("/")
    return f"{it.get('kind', 'object')} {where}"


def _labels(it: Object) -> dict[str, str]:
    return it["metadata"].get("labels") or {}


def _containers(deployment: Object) -> list[Object]:
    return list(deployment["spec"]["template"]["spec"]["containers"])


def repository(image: str) -> str:
    """An image's name without registry host, tag and digest: ``gitlab-runner-operator``."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def tag_version(image: str) -> str:
    """``1.15.1`` of ``…:v1.15.1``; empty for a digest and for what is no version."""
    named = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    match = _VERSION.match(named)
    return match[1] if match else ""


def _one(what: str, choices: Iterable[str], option: str) -> str:
    """The one of several. Raises UsageError that asks back with the option that ends it."""
    several = sorted(set(choices))
    if len(several) == 1:
        return several[0]
    ends = f"name the one that is meant: {option} {several[0]}" if option else "remove all but one"
    raise UsageError(f"{len(several)} {what} are there, in namespaces {', '.join(several)}", ends)


# -- cert-manager -----------------------------------------------------------------------------------------


def _cert_manager(look: _Look, deployments: list[Object]) -> FoundCertManager | None:
    found = {
        component: [it for it in deployments if _is_cert_manager(it, component)]
        for component in CERT_MANAGER_COMPONENTS
    }
    everything = [it for members in found.values() for it in members]
    if not everything:
        return None
    namespace = _one("cert-managers", (it["metadata"]["namespace"] for it in everything), "")
    names = tuple(
        next((it["metadata"]["name"] for it in members), default)
        for members, default in zip(found.values(), DEPLOYMENTS, strict=True)
    )
    first = (found["controller"] or everything)[0]
    look.read("cert-manager", first)
    version = next((f"v{tag}" for c in _containers(first) if (tag := tag_version(c["image"]))), "")
    return FoundCertManager(namespace, version or _labels(first).get("app.kubernetes.io/version", ""), names)


def _is_cert_manager(deployment: Object, component: str) -> bool:
    """By its labels, which manifest and Helm chart share, or by its image."""
    images = {repository(it["image"]) for it in _containers(deployment)}
    if f"cert-manager-{component}" in images:
        return True
    labels = _labels(deployment)
    named = {"controller": "cert-manager"}.get(component, component)
    return (
        labels.get(COMPONENT) == component and labels.get(NAME) == named and _names_cert_manager(deployment)
    )


def _names_cert_manager(deployment: Object) -> bool:
    return any("cert-manager" in it["image"] for it in _containers(deployment))


# -- OLM --------------------------------------------------------------------------------------------------


def _olm(look: _Look, deployments: list[Object], csvs: list[Object]) -> tuple[str, str]:
    """Namespace and version, by its package server's CSV; where that is gone, the namespace alone."""
    server = next((it for it in csvs if it["metadata"]["name"] == "packageserver"), None)
    if server is not None:
        look.read("OLM", server)
        return server["metadata"]["namespace"], f"v{server['spec'].get('version', '')}".rstrip("v")
    for it in deployments:
        if it["metadata"]["name"] in ("olm-operator", "catalog-operator"):
            look.read("OLM", it)
            return it["metadata"]["namespace"], ""
    return "", ""


# -- the operator -----------------------------------------------------------------------------------------


def _operator(
    look: _Look, deployments: list[Object], csvs: list[Object], wanted: str | None
) -> FoundOperator | None:
    ours = [it for it in csvs if it["metadata"]["name"].startswith(f"{PACKAGE}.v")]
    controllers = [it for it in deployments if _is_controller(it)]
    spaces = {it["metadata"]["namespace"] for it in (*ours, *controllers)}
    if not spaces:
        return None
    if wanted is not None and wanted not in spaces:
        raise UsageError(
            f"--operator-namespace {wanted}: no operator is there", f"there are: {', '.join(sorted(spaces))}"
        )
    space = wanted or _one("GitLab Runner Operators", spaces, "--operator-namespace")
    here = [it for it in ours if it["metadata"]["namespace"] == space]
    controller = next((it for it in controllers if it["metadata"]["namespace"] == space), None)
    if here:
        return _by_olm(look, _present(here), look.all(SUBSCRIPTION))
    assert controller is not None  # its namespace is among the spaces
    look.read("operator", controller)
    return FoundOperator(
        how=HELM if _by_helm(controller) else MANIFEST,
        version=_controller_version(controller),
        namespace=space,
        deployment=controller["metadata"]["name"],
    )


def _is_controller(deployment: Object) -> bool:
    return any(repository(it["image"]) == PACKAGE for it in _containers(deployment))


def _present(csvs: list[Object]) -> Object:
    """While OLM upgrades two are there: the one that nobody replaces."""
    replaced = {it["spec"].get("replaces") for it in csvs}
    return next((it for it in csvs if it["metadata"]["name"] not in replaced), csvs[0])


def _by_olm(look: _Look, csv: Object, subscriptions: list[Object]) -> FoundOperator:
    look.read("operator", csv)
    name, space = csv["metadata"]["name"], csv["metadata"]["namespace"]
    deployments = csv["spec"].get("install", {}).get("spec", {}).get("deployments") or [{}]
    mine = [it for it in subscriptions if _subscribes(it, name, space)]
    spec: dict[str, Any] = mine[0]["spec"] if mine else {}
    if mine:
        look.read("subscription", mine[0])
    return FoundOperator(
        how=OLM,
        version=str(csv["spec"].get("version") or name.rpartition(".v")[2]),
        namespace=space,
        deployment=deployments[0].get("name", ""),
        csv=name,
        package=spec.get("name", PACKAGE),
        subscription=mine[0]["metadata"]["name"] if mine else "",
        channel=spec.get("channel", ""),
        catalog=spec.get("source", ""),
        catalog_namespace=spec.get("sourceNamespace", ""),
        approval=spec.get("installPlanApproval", "Automatic"),
    )


def _subscribes(subscription: Object, csv: str, namespace: str) -> bool:
    status = subscription.get("status") or {}
    named = csv in (status.get("installedCSV"), status.get("currentCSV"))
    return subscription["metadata"]["namespace"] == namespace and (
        named or subscription["spec"].get("name") == PACKAGE
    )


def _by_helm(deployment: Object) -> bool:
    annotations = deployment["metadata"].get("annotations") or {}
    managed = _labels(deployment).get("app.kubernetes.io/managed-by") == "Helm"
    return managed or "meta.helm.sh/release-name" in annotations


def _controller_version(deployment: Object) -> str:
    tags = (tag_version(it["image"]) for it in _containers(deployment) if repository(it["image"]) == PACKAGE)
    return next(filter(None, tags), _labels(deployment).get("app.kubernetes.io/version", "").lstrip("v"))


# -- Runners ----------------------------------------------------------------------------------------------


def _runner(look: _Look, it: Object, deployments: list[Object]) -> FoundRunner:
    look.read(f"Runner {it['metadata']['namespace']}/{it['metadata']['name']}", it)
    spec = it.get("spec") or {}
    mine = [d for d in deployments if owned_by_runner(d, it)]
    image = next((c["image"] for d in mine for c in _containers(d) if c["name"] == "runner"), "")
    return FoundRunner(
        namespace=it["metadata"]["namespace"],
        name=it["metadata"]["name"],
        secret=str(spec.get("token", "")),
        config=str(spec.get("config", "")),
        url=str(spec.get("gitlabUrl", "")),
        image=image,
        version=tag_version(image),
    )


def owned_by_runner(made: Object, runner: Object) -> bool:
    """Whether the operator made an object for this Runner."""
    same = made["metadata"].get("namespace") == runner["metadata"]["namespace"]
    owners = made["metadata"].get("ownerReferences") or ()
    return same and any(it.get("uid") == runner["metadata"].get("uid") for it in owners)
