"""Write the operator's bundles (registry+v1) and its file-based catalog.

    python generate.py OUTDIR VALUES.json

VALUES.json: {"variables": {"operators": "1.15.0 1.15.1", "runner": "16.0.1"}, "digests": {reference: digest}}
The catalog's channel has those versions, its head last. Versions of one generation differ in version, images
and ``replaces`` only, so all of them come from one directory. Output, the same bytes for the same input:

    OUTDIR/v<version>/manifests/*.yaml
    OUTDIR/v<version>/metadata/annotations.yaml
    OUTDIR/catalog/gitlab-runner-operator/catalog.yaml
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

PACKAGE = "gitlab-runner-operator"
CHANNEL = "stable"
VERSIONS = {  # version: (the version its CSV replaces, creation date, templates)
    "1.15.0": ("1.14.0", "2023-05-22T10:06:50Z", "bundle"),
    "1.15.1": ("1.15.0", "2023-05-25T19:26:49Z", "bundle"),
    "1.20.0": ("1.15.1", "2023-12-22T11:18:20Z", "bundle"),
    "1.53.0": ("1.52.2", "2026-09-17T05:21:24Z", "bundle-1.53"),
}
OPERATOR = "registry.gitlab.com/gitlab-org/gl-openshift/gitlab-runner-operator/"
RUNNER = "registry.gitlab.com/gitlab-org/ci-cd/gitlab-runner-ubi-images/"
BUNDLE_IMAGE = "quay.io/operatorhubio/gitlab-runner-operator:v{}"
PREFIX = "operators.operatorframework.io.bundle."
BUNDLE_LABELS = {
    PREFIX + "mediatype.v1": "registry+v1",
    PREFIX + "manifests.v1": "manifests/",
    PREFIX + "metadata.v1": "metadata/",
    PREFIX + "package.v1": PACKAGE,
    PREFIX + "channels.v1": CHANNEL,
    PREFIX + "channel.default.v1": CHANNEL,
}
HERE = Path(__file__).parent
Object = dict[str, Any]


class PlainDumper(yaml.SafeDumper):
    """YAML without anchors: not every reader of bundles and catalogs knows them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def manifests(version: str, runner: str = "", digests: Mapping[str, str] = {}) -> dict[str, Object]:
    """File name → object of the bundle's ``manifests/`` for one version.

    ``runner``: the version of gitlab-runner that goes with it. Images with a digest are named by that.
    """
    replaces, created, templates = VERSIONS[version]
    values = {"{version}": version, "{replaces}": replaces, "{created}": created, "{runner_version}": runner}
    for name, ref in images(version, runner).items():
        repository, digest = ref.rpartition(":")[0], digests.get(ref)
        values[f"{{{name}}}"] = f"{repository}@{digest}" if digest else ref
    found = {}
    for template in sorted((HERE / templates).glob("*.yaml")):
        text = template.read_text()
        for name, value in values.items():
            text = text.replace(name, value)
        found[template.name] = yaml.safe_load(text)
    return found


def images(version: str, runner: str) -> dict[str, str]:
    """The images that a CSV names, by tag."""
    return {
        "operator": f"{OPERATOR}gitlab-runner-operator:v{version}",
        "proxy": f"{OPERATOR}openshift4/ose-kube-rbac-proxy:lab",
        "runner": f"{RUNNER}gitlab-runner-ocp:v{runner}",
        "helper": f"{RUNNER}gitlab-runner-helper-ocp:v{runner}",
    }


def catalog(bundles: Mapping[str, Mapping[str, Object]]) -> list[Object]:
    """The package in the form that ``opm render`` (operator-registry 1.30 and newer) gives.

    ``bundles``: version → its manifests, the channel's head last.
    """
    entries: list[Object] = []
    for version in bundles:
        replaces = VERSIONS[version][0]
        entry = {"name": f"{PACKAGE}.v{version}"}
        if replaces in bundles:
            entry["replaces"] = f"{PACKAGE}.v{replaces}"
        entries.append(entry)
    return [
        {"schema": "olm.package", "name": PACKAGE, "defaultChannel": CHANNEL},
        {"schema": "olm.channel", "package": PACKAGE, "name": CHANNEL, "entries": entries},
        *(catalog_bundle(version, found) for version, found in bundles.items()),
    ]


def catalog_bundle(version: str, found: Mapping[str, Object]) -> Object:
    """The catalog's blob for one bundle: what it provides, and as much of its CSV as a catalog shows."""
    csv = found[f"{PACKAGE}.clusterserviceversion.yaml"]
    spec = csv["spec"]
    shown = "description displayName installModes keywords links maintainers maturity minKubeVersion provider"
    metadata = {
        "annotations": csv["metadata"]["annotations"],
        "labels": csv["metadata"]["labels"],
        "apiServiceDefinitions": spec["apiservicedefinitions"],
        "crdDescriptions": spec["customresourcedefinitions"],
        **{key: spec[key] for key in shown.split()},
    }
    gvk = {"group": "apps.gitlab.com", "kind": "Runner", "version": "v1beta2"}
    bundle = BUNDLE_IMAGE.format(version)
    (deployment,) = spec["install"]["spec"]["deployments"]
    named = {c["image"] for c in deployment["spec"]["template"]["spec"]["containers"]}
    named |= {entry["image"] for entry in spec.get("relatedImages", ())}
    return {
        "schema": "olm.bundle",
        "name": csv["metadata"]["name"],
        "package": PACKAGE,
        "image": bundle,
        "properties": [
            {"type": "olm.gvk", "value": gvk},
            {"type": "olm.package", "value": {"packageName": PACKAGE, "version": version}},
            {"type": "olm.csv.metadata", "value": metadata},
        ],
        "relatedImages": [{"name": "", "image": image} for image in sorted({bundle, *named})],
    }


def render(out: Path, values: Mapping[str, Mapping[str, str]]) -> None:
    """Write bundles and catalog below ``out``; ``values`` is VALUES.json."""
    variables, digests = values["variables"], values["digests"]
    bundles = {v: manifests(v, variables["runner"], digests) for v in variables["operators"].split()}

    def write(path: Path, *documents: Object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.dump_all(documents, Dumper=PlainDumper, sort_keys=False, width=200))

    for version, found in bundles.items():
        for name, document in found.items():
            write(out / f"v{version}" / "manifests" / name, document)
        write(out / f"v{version}" / "metadata" / "annotations.yaml", {"annotations": BUNDLE_LABELS})
    write(out / "catalog" / PACKAGE / "catalog.yaml", *catalog(bundles))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    render(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
