"""The OLM stand-in without a cluster; expected values are recorded from OLM v0.26.0 unless said."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc", reason="the lab's extra isn't installed")
pytest.importorskip("aiohttp", reason="the lab's extra isn't installed")
sys.path.insert(0, str(Path(__file__).parents[2] / "lab/standins/olm"))

from olmlab import (
    catalog_operator,
    csvspec,
    hashing,
    install,
    package_server,
    registry,
    release,
    requirements,
    resolve,
    subscriptions,
    unpack,
)

PACKAGE, OLD, NEW = (
    "gitlab-runner-operator",
    "gitlab-runner-operator.v1.15.1",
    "gitlab-runner-operator.v1.20.0",
)


def bundle(name: str, replaces: str = "", channel: str = "stable", **more: Any) -> dict[str, Any]:
    made = {
        "csvName": name,
        "packageName": PACKAGE,
        "channelName": channel,
        "replaces": replaces,
        "skips": [],
    }
    return made | {"skipRange": "", "properties": [], "bundlePath": ""} | more


CHANNEL = [bundle(OLD, "gitlab-runner-operator.v1.15.0"), bundle(NEW, OLD)]
CATALOG = {"metadata": {"name": "operatorhubio-catalog", "namespace": "olm"}}


def sub(status: dict[str, Any] | None = None, **spec: str) -> dict[str, Any]:
    wanted = {
        "name": PACKAGE,
        "channel": "stable",
        "source": "operatorhubio-catalog",
        "sourceNamespace": "olm",
    }
    return {
        "metadata": {"name": "my", "namespace": "operators"},
        "spec": wanted | spec,
        "status": status or {},
    }


def csv(name: str, **spec: Any) -> dict[str, Any]:
    found = f'{{"properties":[{{"type":"olm.package","value":{{"packageName":"{PACKAGE}","version":"1"}}}}]}}'
    meta = {"name": name, "namespace": "operators", "annotations": {"operatorframework.io/properties": found}}
    return {"metadata": meta, "spec": {"version": "1.15.1", **spec}}


def test_names_that_depend_on_text_are_the_real_ones() -> None:
    image = "quay.io/operatorhubio/gitlab-runner-operator:v1.15.1"
    assert hashing.bundle_name(image) == "4ef0571a3e1c729b1d7680e0e02067921221775dbbb21720f5740c20478cdc8"
    key = "operatorframework.io/installed-alongside-359e220c2d1a4988"
    assert hashing.alongside_key("operators", OLD) == key
    assert hashing.long_hash(b"operators/global-operators/admin") == "5UD4U2IfBGbw51Qy2Jaefk1uawvkj2OJILlc3w"
    assert f"{hashing.fnv(b'Runner.v1beta2.apps.gitlab.com', 64):x}" == "50a0e60e54565c9a"


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        (
            {"channel": "no"},
            f"no operators found in channel no of package {PACKAGE} in the catalog referenced by",
        ),
        ({"name": "no"}, "no operators found in package no in the catalog referenced by subscription my"),
        (
            {"startingCSV": "v9"},
            f"no operators found with name v9 in channel stable of package {PACKAGE} in the",
        ),
    ],
)
def test_unsatisfiable_subscription_says_why(changes: dict[str, str], clause: str) -> None:
    with pytest.raises(resolve.Unsatisfiable, match=clause):
        resolve.choose(sub(**changes), CHANNEL, None, CATALOG, [])


def test_missing_catalog_says_why() -> None:
    with pytest.raises(resolve.Unsatisfiable, match="no operators found from catalog gone in namespace olm"):
        resolve.choose(sub(source="gone"), [], None, None, [])


def test_choice_is_head_start_or_next() -> None:
    def chosen(subscription: dict[str, Any], *csvs: dict[str, Any]) -> str:
        return resolve.choose(subscription, CHANNEL, None, CATALOG, list(csvs)).csv_name

    assert chosen(sub()) == NEW
    assert chosen(sub(startingCSV=OLD)) == OLD
    assert chosen(sub({"currentCSV": OLD}, startingCSV=OLD), csv(OLD)) == NEW, (
        "startingCSV is for the first one"
    )
    assert chosen(sub({"currentCSV": NEW}), csv(NEW)) == NEW


def test_csv_without_subscription_blocks_its_package() -> None:
    choice = resolve.choose(sub({"currentCSV": NEW}), CHANNEL, None, CATALOG, [csv(NEW), csv(OLD)])
    with pytest.raises(
        resolve.Unsatisfiable, match=f"clusterserviceversion {OLD} exists and is not referenced"
    ):
        resolve.refuse_strangers([choice], [csv(NEW), csv(OLD)])
    upgrade = resolve.choose(sub({"currentCSV": OLD}), CHANNEL, None, CATALOG, [csv(OLD)])
    resolve.refuse_strangers([upgrade], [csv(OLD)])


@pytest.mark.parametrize(
    ("version", "wanted", "inside"),
    [
        ("1.15.1", ">=1.11.0 <1.20.0", True),
        ("1.20.0", ">=1.11.0 <1.20.0", False),
        ("1.20.0-rc1", "<1.20.0", True),
    ],
)
def test_skip_range(version: str, wanted: str, inside: bool) -> None:
    assert resolve.in_range(version, wanted) is inside


def test_install_modes() -> None:
    modes = [{"type": "AllNamespaces", "supported": True}, {"type": "OwnNamespace", "supported": False}]
    only_all = csv(OLD, installModes=modes)
    assert csvspec.unsupported_mode(only_all, [""]) is None
    expected = "OwnNamespace InstallModeType not supported, cannot configure to watch own namespace"
    assert csvspec.unsupported_mode(only_all, ["operators"]) == expected


def test_rules_are_covered_only_together_and_only_as_far_as_they_go() -> None:
    have = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["*"], "resourceNames": ["one"]},
    ]
    assert requirements.covers(have, {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]})
    assert not requirements.covers(have, {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]})
    assert not requirements.covers(have, {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})


def test_serving_certificate_replaces_what_was_mounted_at_its_path() -> None:
    mount = {"name": "cert", "mountPath": install.SERVING_CERTS}
    pod = {
        "containers": [{"name": "a", "volumeMounts": [mount]}, {"name": "b"}],
        "volumes": [{"name": "cert"}],
    }
    install.mount_certificate(pod, "service-cert")
    for container in pod["containers"]:
        mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
        assert mounts == {install.SERVING_CERTS: "webhook-cert", install.APISERVER_CERTS: "apiservice-cert"}
    assert [v["name"] for v in pod["volumes"]] == ["cert", "apiservice-cert", "webhook-cert"]


def test_registry_messages_survive_the_wire() -> None:
    found = {"csvName": OLD, "skips": ["a", "b"], "properties": [{"type": "t", "value": "ü" * 200}]}
    read = registry.decode("Bundle", registry.encode("Bundle", found) + b"\x7a\x02\x0a\x00\x80\x01\x05")
    assert {k: read[k] for k in found} == found, "unknown fields are skipped"


def test_condition_is_set_once() -> None:
    subscription = sub()
    assert subscriptions.set_condition(subscription, "BundleUnpacking", "True", "UnpackingInProgress")
    assert not subscriptions.set_condition(subscription, "BundleUnpacking", "True", "UnpackingInProgress")
    assert subscriptions.drop_condition(subscription, "BundleUnpacking")


@pytest.mark.parametrize(("text", "expected"), [("10m", 600), ("1h30m", 5400), ("90s", 90)])
def test_go_durations(text: str, expected: int) -> None:
    assert unpack.seconds(text) == expected


def test_label_selectors() -> None:
    labels = {"catalog": "a"}
    assert package_server.matches(labels, "catalog=a")
    assert package_server.matches(labels, "catalog")
    assert not package_server.matches(labels, "catalog!=a")
    assert not package_server.matches(labels, "provider")


@pytest.mark.parametrize(
    ("version", "entries", "unpacker"),
    [
        ("0.22.0", False, "upstream-opm-builder"),
        ("0.23.0", True, "upstream-opm-builder"),
        ("0.25.0", True, "opm"),
        ("0.46.0", True, "opm"),
    ],
)
def test_what_differs_between_releases(version: str, entries: bool, unpacker: str) -> None:
    """packagemanifest_types.go of v0.23.0; cmd/catalog/main.go of v0.24.0 and v0.25.0."""
    found = release.Release(version)
    listed = package_server._listed([{"csvName": NEW, "version": "1.20.0"}], found)
    assert listed == ({"entries": [{"name": NEW, "version": "1.20.0"}]} if entries else {})
    assert found.opm_image == f"quay.io/operator-framework/{unpacker}:latest"
    assert found.said().startswith(f"OLM version: {version}\n")


def test_a_flag_that_catalog_does_not_know_ends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["catalog", "--frobnicate"])
    with pytest.raises(SystemExit):
        catalog_operator.start()
    assert "--frobnicate" in capsys.readouterr().err
