"""How-to, "Installing Operator Lifecycle Manager": install.sh v0.26.0."""

from __future__ import annotations

import pytest

from fixtures import expect
from fixtures.cluster import refused_with
from fixtures.olm import CATALOG_SOURCE, CSV, assert_succeeded, crds
from fixtures.plugin.outcomes import NotApplicable
from fixtures.stack import Reached
from fixtures.workloads import assert_rolled_out
from harness.artifacts import Artifacts
from harness.diagnose import Scope
from harness.errors import EnvironmentProblem
from harness.kube import Kube
from harness.profile import Profile
from harness.stack import StackContext
from harness.stack.common import load_manifests
from harness.stack.olm import refuse_second, why_no_catalog
from harness.stack.packages import PACKAGE_MANIFEST, why_not_offered
from harness.stack.places import Places
from harness.wait import wait_for

LISTED_TIMEOUT_S = 60
"""The package server asks the catalog for its packages once both are ready."""


@pytest.mark.outcome("olm/crds", needs=["cluster/node-ready"])
def test_its_kinds_are_served(olm: Kube, profile: Profile) -> None:
    """OLM's CRDs, eight from v0.20 on, are there and Established.

    How-to, "Installing OLM": "catalogsources.operators.coreos.com created, clusterserviceversions … created".
    """
    for name in crds(profile):
        crd = olm.get("apiextensions.k8s.io/v1/CustomResourceDefinition", name)
        expect.fields(crd, {"status.conditions[type=Established].status": "True"}, f"CRD {name}")


@pytest.mark.outcome("olm/rolled-out", needs=["olm/crds", "cluster/pod-runs"])
def test_both_operators_are_rolled_out(olm: Kube, places: Places) -> None:
    """olm-operator and catalog-operator are rolled out.

    How-to, "Installing OLM": "deployment "olm-operator" successfully rolled out, deployment
    "catalog-operator" successfully rolled out".
    """
    assert_rolled_out(olm, places.olm, "olm-operator")
    assert_rolled_out(olm, places.olm, "catalog-operator")


@pytest.mark.outcome("olm/packageserver", needs=["olm/rolled-out"])
def test_the_package_server_has_succeeded(olm: Kube, places: Places, reached: Reached) -> None:
    """The CSV packageserver has Succeeded, its Deployment is rolled out, and it is of the version asked for.

    How-to, "Installing OLM": "Package server phase: Succeeded, deployment "packageserver" successfully rolled
    out"; `bash -s v0.26.0`.
    """
    csv = assert_succeeded(olm.get(CSV, "packageserver", places.olm), "CSV packageserver")
    assert_rolled_out(olm, places.olm, "packageserver")
    reached("olm", f"v{csv['spec']['version']}")


@pytest.mark.outcome("olm/catalog", needs=["olm/rolled-out"])
def test_the_catalog_is_ready(olm: Kube, through_olm: object, places: Places, profile: Profile) -> None:
    """The community catalog is connected to.

    How-to, "Install Operator": the Subscription finds gitlab-runner-operator in OperatorHub.io's catalog.
    """
    catalog = olm.get(CATALOG_SOURCE, profile.operator.catalog, places.catalog)
    expect.fields(catalog, {"status.connectionState.lastObservedState": "READY"}, "the CatalogSource")


@pytest.mark.outcome("olm/package", needs=["olm/catalog", "olm/packageserver"])
def test_the_operator_is_on_offer(
    olm: Kube, through_olm: StackContext, places: Places, profile: Profile
) -> None:
    """The package is on offer, with the channel that the Subscription names and the CSV asked for in it.

    How-to, "Install Operator": operatorhub.io/install/stable/gitlab-runner-operator.yaml.
    """
    wish = profile.operator
    package = wait_for(
        lambda: olm.get(PACKAGE_MANIFEST, wish.package, wish.namespace),
        ready=lambda it: it is not None,
        what=f"PackageManifest {wish.package} is there",
        timeout_s=LISTED_TIMEOUT_S,
        kube=olm,
        hopeless=lambda _: why_no_catalog(olm, wish.catalog, places.catalog),
        about=[Scope(places.olm)],
    )
    assert package is not None  # ready() said so
    named = {"status.catalogSource": wish.catalog, "status.defaultChannel": wish.channel}
    if through_olm.found is not None:  # somebody may have chosen another channel than the default
        del named["status.defaultChannel"]
    expect.fields(package, named)
    why = why_not_offered(package, wish)
    assert not why, why


@pytest.mark.outcome("olm/installed-once", needs=["olm/rolled-out"])
def test_a_second_installation_is_refused(
    olm: Kube, places: Places, stack: StackContext, artifacts: Artifacts
) -> None:
    """Installing OLM again is refused, as install.sh refuses it, and changes nothing.

    How-to, "Installing OLM": install.sh; it looks for the Deployment olm-operator, and creates (not applies).
    """
    if stack.found is not None:
        raise NotApplicable("an acceptance installs nothing, so that nothing can be refused")
    before = assert_rolled_out(olm, places.olm, "olm-operator")
    with pytest.raises(EnvironmentProblem, match="OLM is already installed in namespace olm"):
        refuse_second(stack)
    for manifest in load_manifests(artifacts.manifest("crds.yaml")):
        message = refused_with(409, lambda manifest=manifest: olm.create(manifest, dry_run=True))
        assert "already exists" in message, message
    after = assert_rolled_out(olm, places.olm, "olm-operator")
    assert after["metadata"]["generation"] == before["metadata"]["generation"], "olm-operator was changed"
