"""Plays the recorded steps on a cluster of its own and says where the OLM there parts from the recordings.

    python -m selftests.compare.olm_play BUNDLE [--only manual,upgrade] [--raw DIR]

Needs root and a bundle. Whatever OLM the bundle holds is played, stand-in or real. Two nodes are started: one
with all images, one on which gcr.io doesn't answer (so kube-rbac-proxy is missing). To save an hour, the
install timeout is 20 s instead of 5 minutes ($OLM_INSTALL_TIMEOUT, stand-in only) and the unpack timeout 20 s
instead of 2 minutes (OperatorGroup annotation).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import kubernetes
import yaml

from harness.artifacts.bundle import Bundle
from harness.cluster import ClusterOptions, K3sCluster
from harness.ownership import new_run_id
from selftests.compare.olm_person import (
    BUNDLE_IMAGE,
    DEPLOYMENT,
    NAME,
    NEW,
    OLD,
    Person,
    only,
    serve_catalog,
    with_image,
)
from selftests.compare.olm_recorder import Obj, until, within
from selftests.compare.olm_sequences import compare, load

Report = Callable[[str, list[str]], None]
MISSING, GOOD = "gcr.io/kubebuilder/kube-rbac-proxy:v0.0.0", "docker.io/kubesphere/kube-rbac-proxy:v0.8.0"
# The bundle's CSVs have the published webhooks; the first recordings' had none. Recorded as 11 and 12.
WEBHOOKS = (
    r"(Service|Secret|Role|RoleBinding|ClusterRoleBinding)/gitlab-runner-controller-manager-service.*",
    r"(Mutating|Validating)WebhookConfiguration/.*",
)
# Where pieces of the cluster came with an earlier scenario here, or with an earlier one of the recording.
RESIDUE = (
    r"(Role|RoleBinding)/gitlab-runner-app-role(binding)?",
    r"ServiceAccount/gitlab-runner-sa",
    r"ClusterRole/(gitlab-runner-metrics-reader|runners\.apps\.gitlab\.com-.*|olm\.og\..*)",
    r"CustomResourceDefinition/runners\.apps\.gitlab\.com",
    r"(Job|ConfigMap|Role|RoleBinding)/<bundle>",
    r"ServiceAccount/bad-image-catalog",
    r"ClusterRole/system:controller:operator-lifecycle-manager",  # before the recording's watch
    r"APIService/v(1|2|1alpha1|1alpha2|1beta2)\.(operators\.coreos|apps\.gitlab)\.com",
    r"ClusterRole(Binding)?/system:coredns",
    r"(Deployment|RoleBinding|ConfigMap|ServiceAccount|Secret|Service)/(coredns|.*auth-reader|packageserver.*).*",
)


class Play(Person):
    """The recorded steps on one node; each method ends with the comparison of what it played."""

    def __init__(self, cluster: K3sCluster, bundle: Bundle, report: Report, raw: Path | None = None) -> None:
        super().__init__(cluster.kubeconfig)
        self.cluster, self.bundle, self.report, self.raw = cluster, bundle, report, raw

    def end(
        self, scenario: str, *namespaces: str, settle_s: float = 4, extra: Iterable[str] = WEBHOOKS
    ) -> None:
        """Close a scenario: let the last changes come, and compare."""
        time.sleep(settle_s)
        seen = self.recorder.take()
        self.judge(scenario, within(seen, namespaces or ("operators", "olm")), extra)

    def judge(self, scenario: str, seen: list[Obj], extra: Iterable[str] = WEBHOOKS) -> None:
        """Compare what was seen; objects matching ``extra`` or RESIDUE don't count."""
        if self.raw:
            (self.raw / f"{scenario}.jsonl").write_text(
                "".join(json.dumps(e, default=str) + "\n" for e in seen)
            )
        self.report(scenario, compare(scenario, load(scenario), seen, (*RESIDUE, *extra)))

    def clean(self) -> None:
        """Remove the operator and its CRD: where most recordings begin."""
        self.delete("Subscription", NAME)
        for csv in (OLD, NEW):
            self.delete("ClusterServiceVersion", csv)
        until(lambda: not self.get("Deployment", DEPLOYMENT), "operator removed")
        resource = self.recorder.resource("apiextensions.k8s.io/v1", "CustomResourceDefinition")
        with_crd = [c for c in resource.get().items if c.metadata.name == "runners.apps.gitlab.com"]
        for crd in with_crd:
            resource.delete(name=crd.metadata.name)
        time.sleep(4)
        self.recorder.take()

    def install_olm(self) -> None:
        for name in ("crds.yaml", "olm.yaml"):
            for obj in yaml.safe_load_all(self.bundle.file(name).read_text()):
                if obj["metadata"]["name"] == "olm-operator" and obj["kind"] == "Deployment":
                    container = obj["spec"]["template"]["spec"]["containers"][0]
                    container["env"].append({"name": "OLM_INSTALL_TIMEOUT", "value": "20s"})
                until(lambda obj=obj: self._try(obj), f"create {obj['kind']} {obj['metadata']['name']}", 30)
        self.phase("packageserver", "Succeeded", "olm", 180)
        self.catalog_ready("operatorhubio-catalog")
        self.end("01", "olm", "operators")

    def _try(self, obj: Obj) -> bool:
        try:
            self.create(obj)
        except (
            kubernetes.client.exceptions.ApiException,
            kubernetes.dynamic.exceptions.ResourceNotFoundError,
        ):
            return False  # its CRD isn't established yet
        return True

    def automatic(self) -> None:
        self.subscribe()
        self.phase(NEW, "Succeeded")
        self.end("02")
        self.delete("Subscription", NAME)
        self.end("03")
        self.delete("ClusterServiceVersion", NEW)
        self.end("04")
        self.clean()

    def manual(self) -> None:
        self.subscribe(installPlanApproval="Manual", startingCSV=OLD)
        self.approve(OLD)
        self.phase(OLD, "Succeeded")
        self.subscription(lambda s: s.get("installPlanGeneration") == 2, "second plan")
        self.end("05")

    def upgrade(self) -> None:
        self.approve(NEW)
        self.phase(NEW, "Succeeded")
        until(lambda: not self.get("ClusterServiceVersion", OLD), "old CSV gone")
        self.end("06")

    def patch_both(self) -> None:
        self.image_of_csv(NEW, MISSING)
        self.phase(NEW, "Installing/InstallWaiting")
        time.sleep(3)
        self.image_of_csv(NEW, GOOD)
        time.sleep(4)
        self.image_of_deployment(GOOD)
        self.phase(NEW, "Succeeded")
        self.end("16")

    def second_group(self) -> None:
        meta = {"name": "second", "namespace": "operators"}
        self.create({"apiVersion": "operators.coreos.com/v1", "kind": "OperatorGroup", "metadata": meta})
        self.phase(NEW, "Failed/TooManyOperatorGroups")
        time.sleep(3)
        self.delete("OperatorGroup", "second")
        time.sleep(12)
        self.phase(NEW, "Failed/TooManyOperatorGroups")
        self.patch("OperatorGroup", "global-operators", {"metadata": {"annotations": {"touched": "1"}}})
        self.phase(NEW, "Succeeded")
        self.end("09")

    def delete_csv_keep_subscription(self) -> None:
        self.delete("ClusterServiceVersion", NEW)
        until(lambda: not self.get("Deployment", DEPLOYMENT), "Deployment gone")
        self.end("17", settle_s=8)
        self.clean()

    def webhooks(self) -> None:
        """The published webhooks, from a channel with one entry: made with the operator, gone with it."""
        image = f"{BUNDLE_IMAGE}@{self.bundle.image(f'{BUNDLE_IMAGE}:v1.15.1').digest}"  # not yet unpacked
        with serve_catalog(self.cluster.host_ip, 50063, only(OLD, image)) as address:
            self.catalog("webhook-catalog", "olm", address=address)
            self.catalog_ready("webhook-catalog")
            time.sleep(4)
            self.recorder.take()
            self.subscribe(source="webhook-catalog")
            self.phase(OLD, "Succeeded")
            self.end("11", extra=())
            self.delete("Subscription", NAME)
            self.delete("ClusterServiceVersion", OLD)
            until(lambda: not self.get("Deployment", DEPLOYMENT), "operator removed")
            self.end("12", extra=())
            self.delete("CatalogSource", "webhook-catalog", "olm")
            until(lambda: not self.get("CatalogSource", "webhook-catalog", "olm"), "catalog removed")
        self.clean()

    def starting_csv_automatic(self) -> None:
        self.clean()
        self.subscribe(startingCSV=OLD)
        self.phase(NEW, "Succeeded")
        until(lambda: not self.get("ClusterServiceVersion", OLD), "old CSV gone")
        self.end("13", settle_s=6)
        self.namespace(
            "s-copy",
            {"metadata": {"name": "og", "namespace": "s-copy"}, "spec": {"targetNamespaces": ["s-copy"]}},
        )
        until(lambda: self.get("ClusterServiceVersion", NEW, "s-copy"), "copied CSV")
        self.recorder.take()
        self.subscribe("s-copy")
        self.subscription(lambda s: s.get("state") == "AtLatestKnown", "AtLatestKnown", "s-copy")
        # in the recording these were left in the namespace from before
        there = r"(Service|(Cluster)?Role|(Cluster)?RoleBinding)/gitlab-runner-.*"
        self.end("14", "s-copy", settle_s=6, extra=(*WEBHOOKS, there))
        self.delete("Namespace", "s-copy", "")
        self.clean()

    def patches_while_succeeded(self) -> None:
        self.clean()
        self.subscribe(installPlanApproval="Manual", startingCSV=OLD)
        self.approve(OLD)
        self.phase(OLD, "Succeeded")
        time.sleep(4)
        self.recorder.take()
        self.image_of_csv(OLD, MISSING)
        self.phase(OLD, "Installing/InstallWaiting")
        time.sleep(2)
        self.image_of_csv(OLD, GOOD)
        time.sleep(3)
        self.delete("Deployment", DEPLOYMENT)
        until(
            lambda: "missing deployment" in self.get("ClusterServiceVersion", OLD)["status"]["message"],
            "missing Deployment",
        )
        self.end("08", settle_s=2)
        self.phase(OLD, "Succeeded", timeout_s=60)  # after the timeout's reinstall
        time.sleep(2)
        self.recorder.take()
        self.delete("OperatorGroup", "global-operators")
        self.phase(OLD, "Failed/NoOperatorGroup")
        time.sleep(3)
        meta = {"name": "global-operators", "namespace": "operators"}
        self.create({"apiVersion": "operators.coreos.com/v1", "kind": "OperatorGroup", "metadata": meta})
        self.phase(OLD, "Succeeded")
        self.end("10", "operators")
        self.clean()

    def refusals(self) -> None:
        """Subscriptions that never install; each in a namespace of its own, all at once."""
        wrong = {
            "wrong-channel": {"channel": "no-such-channel"},
            "wrong-package": {"name": "no-such-operator"},
            "wrong-startingCSV": {"startingCSV": "gitlab-runner-operator.v9.9.9"},
            "wrong-source": {"source": "no-such-catalog"},
        }
        groups = {"no-operatorgroup": (), "two-operatorgroups": ("og-a", "og-b")}
        where = {it: f"s-{it.split('-')[1].lower().removeprefix('starting')}" for it in wrong}
        where |= {"no-operatorgroup": "s-noog", "two-operatorgroups": "s-twoog"}
        for scenario, namespace in where.items():
            wanted = groups.get(scenario, ("og",))
            self.namespace(namespace, *({"metadata": {"name": g, "namespace": namespace}} for g in wanted))
            self.subscribe(namespace, **wrong.get(scenario, {}))
        for scenario, namespace in where.items():
            said = ("ResolutionFailed", "ConstraintsNotSatisfiable")
            if scenario in groups:
                said = ("CatalogSourcesUnhealthy", "AllCatalogSourcesHealthy")
            self.subscription(self.said(*said), scenario, namespace)
        time.sleep(8)
        seen = self.recorder.take()
        for scenario, namespace in where.items():
            self.judge(f"failure-{scenario}", within(seen, (namespace,)))
            self.delete("Namespace", namespace, "")

    def unsupported_group(self) -> None:
        own = {"metadata": {"name": "own", "namespace": "s-own"}, "spec": {"targetNamespaces": ["s-own"]}}
        self.namespace("s-own", own)
        self.subscribe("s-own")
        self.phase(NEW, "Failed/UnsupportedOperatorGroup", "s-own")
        self.end("failure-unsupported-operatorgroup", "s-own", settle_s=6)
        self.delete("Subscription", NAME, "s-own")
        self.delete("ClusterServiceVersion", NEW, "s-own")
        self.delete("Namespace", "s-own", "")
        self.clean()

    def bad_catalogs(self) -> None:
        self.namespace("s-badcat", {"metadata": {"name": "og", "namespace": "s-badcat"}})
        missing = "quay.io/operatorhubio/catalog-does-not-exist:latest"
        self.catalog("bad-image-catalog", "s-badcat", image=missing)
        self.subscribe("s-badcat", source="bad-image-catalog", sourceNamespace="s-badcat")
        self.subscription(
            self.said("ResolutionFailed", "ErrorPreventedResolution"), "catalog image missing", "s-badcat"
        )
        self.end("failure-catalog-image-missing", "s-badcat", settle_s=6)
        self.delete("Namespace", "s-badcat", "")
        self.clean()
        self.namespace("s-global", {"metadata": {"name": "og", "namespace": "s-global"}})
        self.catalog("broken-global-catalog", "olm", image=missing)
        time.sleep(3)
        self.subscribe("s-global")
        self.subscription(
            self.said("ResolutionFailed", "ErrorPreventedResolution"), "broken catalog blocks", "s-global"
        )
        time.sleep(8)
        self.delete("CatalogSource", "broken-global-catalog", "olm")
        time.sleep(5)
        self.patch("Subscription", NAME, {"metadata": {"annotations": {"touched": "1"}}}, "s-global")
        self.phase(NEW, "Succeeded", "s-global")
        self.end("failure-broken-global-catalog", "s-global", "olm", settle_s=6)
        self.delete("Subscription", NAME, "s-global")
        self.delete("ClusterServiceVersion", NEW, "s-global")
        self.delete("Namespace", "s-global", "")
        self.clean()

    def bad_bundles(self) -> None:
        """Catalogs on the host whose bundles' image is missing, or isn't a bundle at all."""
        note = {"operatorframework.io/bundle-unpack-timeout": "20s"}
        self.namespace(
            "s-gone-2m", {"metadata": {"name": "og", "namespace": "s-gone-2m", "annotations": note}}
        )
        with serve_catalog(self.cluster.host_ip, 50061, with_image("quay.io/operatorhubio/gone")) as address:
            self.catalog("catalog-gone", "s-gone-2m", address=address)
            self.subscribe("s-gone-2m", source="catalog-gone", sourceNamespace="s-gone-2m")
            failed = self.said("BundleUnpackFailed", "BundleUnpackFailed")
            self.subscription(failed, "unpack deadline", "s-gone-2m")
            pod = r"(Service|ServiceAccount)/catalog-gone"  # an address needs no pod; recorded with one
            self.end("failure-bundle-image-missing-timeout-2m", "s-gone-2m", extra=(*WEBHOOKS, pod))
        self.delete("Namespace", "s-gone-2m", "")
        self.namespace("s-backoff", {"metadata": {"name": "og", "namespace": "s-backoff"}})
        no_bundle = (
            "registry.gitlab.com/gitlab-org/gl-openshift/gitlab-runner-operator/gitlab-runner-operator"
        )
        with serve_catalog(self.cluster.host_ip, 50062, with_image(no_bundle)) as address:
            self.catalog("no-bundles", "s-backoff", address=address)
            time.sleep(3)
            self.recorder.take()
            self.subscribe("s-backoff", source="no-bundles", sourceNamespace="s-backoff")
            self.subscription(failed, "unpack back-off", "s-backoff", timeout_s=180)
            self.end("failure-bundle-unpack-job-backoff", "s-backoff")
        self.delete("Namespace", "s-backoff", "")

    def proxy_missing(self) -> None:
        """On the node without gcr.io: the install timeout's round, and each way of mending the image."""
        self.subscribe(installPlanApproval="Manual", startingCSV=OLD)
        self.approve(OLD)
        self.phase(OLD, "Installing/InstallWaiting")
        until(
            lambda: len(self.get("ClusterServiceVersion", OLD)["status"]["conditions"]) > 8,
            "a round of reinstall",
            60,
        )
        self.phase(OLD, "Installing/InstallWaiting")
        time.sleep(4)
        self.image_of_deployment(GOOD)
        self.phase(OLD, "Succeeded")
        time.sleep(6)
        self.phase(OLD, "Succeeded")  # not reverted
        self.image_of_deployment(MISSING)
        self.phase(OLD, "Installing/InstallWaiting")
        time.sleep(3)
        for pod in self.items("Pod"):
            if all(c.get("ready") for c in pod["status"].get("containerStatuses") or ()):
                self.delete("Pod", pod["metadata"]["name"])
        self.image_of_csv(OLD, GOOD)
        time.sleep(5)
        self.phase(OLD, "Installing/InstallWaiting")  # the patch alone does nothing before the timeout
        self.phase(OLD, "Succeeded", timeout_s=90)
        self.end("07")
        self.clean()

    def second_plan_while_installing(self) -> None:
        self.subscribe(installPlanApproval="Manual", startingCSV=OLD)
        self.approve(OLD)
        self.phase(OLD, "Installing/InstallWaiting")
        self.approve(NEW)
        self.phase(NEW, "Pending/RequirementsNotMet")
        time.sleep(4)
        self.cluster.node_shell(["k3s", "crictl", "pull", GOOD], 120)
        self.cluster.node_shell(
            ["k3s", "ctr", "-n", "k8s.io", "images", "tag", GOOD, MISSING.replace("v0.0.0", "v0.8.0")]
        )
        self.phase(NEW, "Succeeded", timeout_s=150)
        until(lambda: not self.get("ClusterServiceVersion", OLD), "old CSV gone")
        self.end("15")
        self.clean()


#: What is played on a node with all images, and on one without gcr.io; and the scenarios that come of it.
FIRST: dict[str, tuple[str, ...]] = {
    "install_olm": ("01",),
    "automatic": ("02", "03", "04"),
    "webhooks": ("11", "12"),
    "manual": ("05",),
    "upgrade": ("06",),
    "patch_both": ("16",),
    "second_group": ("09",),
    "delete_csv_keep_subscription": ("17",),
    "starting_csv_automatic": ("13", "14"),
    "patches_while_succeeded": ("08", "10"),
    "refusals": (
        "failure-wrong-channel",
        "failure-wrong-package",
        "failure-wrong-startingCSV",
        "failure-wrong-source",
        "failure-no-operatorgroup",
        "failure-two-operatorgroups",
    ),
    "unsupported_group": ("failure-unsupported-operatorgroup",),
    "bad_catalogs": ("failure-catalog-image-missing", "failure-broken-global-catalog"),
    "bad_bundles": ("failure-bundle-image-missing-timeout-2m", "failure-bundle-unpack-job-backoff"),
}
SECOND: dict[str, tuple[str, ...]] = {
    "install_olm": ("01",),
    "proxy_missing": ("07",),
    "second_plan_while_installing": ("15",),
}


@contextmanager
def node(bundle: Bundle, unreachable: tuple[str, ...] = ()) -> Iterator[K3sCluster]:
    """A node for one play."""
    with tempfile.TemporaryDirectory() as state:
        cluster = K3sCluster(
            ClusterOptions(
                new_run_id(),
                "olm-compare",
                bundle.file("k3s"),
                Path(state, "node"),
                registry_program=bundle.file("registry"),
                storage=bundle.storage,
                unreachable_registries=unreachable,
            )
        )
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


def play(cluster: K3sCluster, bundle: Bundle, steps: Sequence[str], report: Report, raw: Path | None) -> None:
    """Play steps in their order; one that can't go on is reported, and the next one is tried."""
    person = Play(cluster, bundle, report, raw)
    for step in steps:
        begun = time.monotonic()
        try:
            getattr(person, step)()
        except (TimeoutError, kubernetes.client.exceptions.ApiException) as error:
            report(step, [f"stopped: {error}"])
            person.clean()
        print(f"       {step}: {time.monotonic() - begun:.0f} s", flush=True)
    person.recorder.stop()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--only",
        default="",
        help="steps, comma separated; upgrade and those up to delete_csv… need manual",
    )
    parser.add_argument("--raw", type=Path, help="directory for what was seen, one file a scenario")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    parted: dict[str, list[str]] = {}

    def report(scenario: str, differences: list[str]) -> None:
        parted[scenario] = [*parted.get(scenario, ()), *differences]
        print(f"{'same  ' if not differences else 'PARTED'} {scenario}", flush=True)
        for line in differences:
            print(f"         {line}", flush=True)

    chosen = {s for s in options.only.split(",") if s}
    for steps, unreachable in ((FIRST, ()), (SECOND, ("gcr.io",))):
        wanted = [s for s in steps if s == "install_olm" or not chosen or s in chosen]
        if len(wanted) < 2 and chosen:
            continue
        with node(bundle, unreachable) as cluster:
            play(cluster, bundle, wanted, report, options.raw)
    print(
        json.dumps(
            {"same": [s for s, d in parted.items() if not d], "parted": [s for s, d in parted.items() if d]}
        )
    )
    return 1 if any(parted.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
