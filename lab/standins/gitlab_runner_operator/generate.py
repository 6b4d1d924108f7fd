"""Write the operator's bundles (registry+v1) and its file-based catalog: ``python generate.py OUTDIR``.

The versions differ in version, image tag and ``replaces`` only, so all of them come from ``bundle/``.
Output, the same bytes for the same input:

    OUTDIR/v<version>/manifests/*.yaml
    OUTDIR/v<version>/metadata/annotations.yaml
    OUTDIR/catalog/gitlab-runner-operator/catalog.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

PACKAGE = "gitlab-runner-operator"
CHANNEL = "stable"
VERSIONS = {  # version: (the version its CSV replaces, creation date)
    "1.15.0": ("1.14.0", "2023-05-22T10:06:50Z"),
    "1.15.1": ("1.15.0", "2023-05-25T19:26:49Z"),
    "1.20.0": ("1.15.1", "2023-12-22T11:18:20Z"),
}
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
TEMPLATES = Path(__file__).parent / "bundle"
Object = dict[str, Any]


class PlainDumper(yaml.SafeDumper):
    """YAML without anchors: not every reader of bundles and catalogs knows them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def manifests(version: str) -> dict[str, Object]:
    """File name → object of the bundle's ``manifests/`` for one version."""
    replaces, created = VERSIONS[version]
    values = {"{version}": version, "{replaces}": replaces, "{created}": created}
    found = {}
    for template in sorted(TEMPLATES.glob("*.yaml")):
        text = template.read_text()
        for name, value in values.items():
            text = text.replace(name, value)
        found[template.name] = yaml.safe_load(text)
    return found


def catalog() -> list[Object]:
    """The package in the form that ``opm render`` (operator-registry 1.30 and newer) gives."""
    entries: list[Object] = []
    for version, (replaces, _) in VERSIONS.items():
        entry = {"name": f"{PACKAGE}.v{version}"}
        if replaces in VERSIONS:
            entry["replaces"] = f"{PACKAGE}.v{replaces}"
        entries.append(entry)
    return [
        {"schema": "olm.package", "name": PACKAGE, "defaultChannel": CHANNEL},
        {"schema": "olm.channel", "package": PACKAGE, "name": CHANNEL, "entries": entries},
        *(catalog_bundle(version) for version in VERSIONS),
    ]


def catalog_bundle(version: str) -> Object:
    """The catalog's blob for one bundle: what it provides, and as much of its CSV as a catalog shows."""
    csv = manifests(version)[f"{PACKAGE}.clusterserviceversion.yaml"]
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
    images = [c["image"] for c in deployment["spec"]["template"]["spec"]["containers"]]
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
        "relatedImages": [{"name": "", "image": image} for image in sorted([bundle, *images])],
    }


def render(out: Path) -> None:
    """Write bundles and catalog below ``out``."""

    def write(path: Path, *documents: Object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.dump_all(documents, Dumper=PlainDumper, sort_keys=False, width=200))

    for version in VERSIONS:
        for name, document in manifests(version).items():
            write(out / f"v{version}" / "manifests" / name, document)
        write(out / f"v{version}" / "metadata" / "annotations.yaml", {"annotations": BUNDLE_LABELS})
    write(out / "catalog" / PACKAGE / "catalog.yaml", *catalog())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    render(Path(sys.argv[1]))
