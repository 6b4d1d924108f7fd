"""How-to, "GitHub can't be reached": the files that install.sh downloads, from local copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures import expect
from fixtures.olm import CATALOG_SOURCE, CSV, crds
from fixtures.steps.second_cluster import InstalledOffline
from fixtures.workloads import assert_rolled_out
from harness.stack import StackContext
from harness.stack.common import load_manifests
from harness.stack.olm import NAMESPACE


@pytest.mark.outcome("offline/olm", needs=["olm/packageserver"])
def test_olm_is_installed_from_local_copies(
    offline_olm: InstalledOffline, second_stack: StackContext
) -> None:
    """With GitHub out of reach, the same OLM is installed from local copies of crds.yaml and olm.yaml.

    How-to, "GitHub can't be reached": "get the files that can't be fetched (install.sh, crds.yaml, olm.yaml)
    to your machine somehow, and run them locally; it doesn't affect the installation".
    """
    assert not offline_olm.asked, f"it was looked up all the same: {offline_olm.asked}"
    copied = [manifest for path in offline_olm.copies for manifest in load_manifests(Path(path))]
    kube = second_stack.kube
    for name in crds(second_stack.profile):
        crd = kube.get("apiextensions.k8s.io/v1/CustomResourceDefinition", name)
        expect.fields(crd, {"status.conditions[type=Established].status": "True"}, f"CRD {name}")
    for name in ("olm-operator", "catalog-operator", "packageserver"):
        assert_rolled_out(kube, NAMESPACE, name)
    csv = expect.there(kube.get(CSV, "packageserver", NAMESPACE), "CSV packageserver")
    wanted = next(m for m in copied if m["kind"] == "ClusterServiceVersion")
    expect.fields(csv, {"status.phase": "Succeeded", "spec.version": wanted["spec"]["version"]})
    catalog = kube.get(CATALOG_SOURCE, second_stack.profile.operator.catalog, NAMESPACE)
    expect.fields(catalog, {"status.connectionState.lastObservedState": "READY"}, "the CatalogSource")
