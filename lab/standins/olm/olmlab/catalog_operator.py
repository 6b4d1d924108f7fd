"""catalog-operator: turns Subscriptions into InstallPlans, and InstallPlans into objects (/bin/catalog)."""

from __future__ import annotations

import argparse

from olmlab.catalogs import CatalogController
from olmlab.csvspec import is_copied
from olmlab.informer import Informer
from olmlab.kube import (
    CATALOG,
    CSV,
    GROUP,
    INSTALL_PLAN,
    JOB,
    POD,
    SUBSCRIPTION,
    Kube,
    Obj,
    condition,
    key_of,
    labels_of,
    namespace_of,
)
from olmlab.olm_operator import run_informers, run_program, serve_health
from olmlab.plans import PlanController
from olmlab.release import HERE as RELEASE
from olmlab.subscriptions import NamespaceController
from olmlab.unpack import Unpacker, seconds


async def main(options: argparse.Namespace) -> None:
    await serve_health()
    kube = Kube()
    catalogs, subscriptions = Informer(kube, CATALOG), Informer(kube, SUBSCRIPTION)
    plans, groups = Informer(kube, INSTALL_PLAN), Informer(kube, GROUP)
    csvs = Informer(kube, CSV, metadata_only=True)
    pods = Informer(kube, POD, selector="olm.catalogSource", metadata_only=True)
    jobs = Informer(kube, JOB, selector="operatorframework.io/bundle-unpack-ref")
    catalog_control = CatalogController(kube, catalogs, pods, lambda key: resolve_subscribers(*key))
    unpacker = Unpacker(
        kube,
        opm_image=options.opmImage,
        util_image=options.util_image,
        timeout_s=seconds(options.bundle_unpack_timeout),
        user_id=1001 if options.set_workload_user_id == "true" else None,
    )
    resolver = NamespaceController(kube, catalog_control, unpacker, options.namespace)
    plan_control = PlanController(kube, plans, csvs)

    def resolve_subscribers(namespace: str, name: str) -> None:
        for sub in subscriptions.list():
            if (sub["spec"]["sourceNamespace"], sub["spec"]["source"]) == (namespace, name):
                resolver.queue.add(namespace_of(sub))

    def on_catalog(type_: str, old: Obj | None, catalog: Obj) -> None:
        catalog_control.queue.add(key_of(catalog))
        if type_ == "ADDED":
            resolve_subscribers(*key_of(catalog))

    def on_csv(type_: str, old: Obj | None, csv: Obj) -> None:
        if type_ != "MODIFIED" and not is_copied(csv):
            resolver.queue.add(namespace_of(csv))

    def on_plan(type_: str, old: Obj | None, plan: Obj) -> None:
        plan_control.queue.add(key_of(plan))
        resolver.queue.add(namespace_of(plan), 0.02)

    def on_job(type_: str, old: Obj | None, job: Obj) -> None:
        if condition(job, "Complete") or condition(job, "Failed"):
            for sub in subscriptions.list():
                resolver.queue.add(namespace_of(sub), 0.3)

    def on_pod(type_: str, old: Obj | None, pod: Obj) -> None:
        if type_ != "ADDED":
            catalog_control.queue.add((namespace_of(pod), labels_of(pod)["olm.catalogSource"]), 0.5)

    catalogs.on_change, csvs.on_change, plans.on_change = on_catalog, on_csv, on_plan
    jobs.on_change, pods.on_change = on_job, on_pod
    subscriptions.on_change = lambda type_, old, obj: resolver.queue.add(namespace_of(obj))
    groups.on_change = lambda type_, old, obj: resolver.queue.add(namespace_of(obj))
    await run_informers(catalogs, csvs, plans, jobs, subscriptions, groups, pods)


def start() -> None:
    parser = argparse.ArgumentParser(prog="catalog", allow_abbrev=False)
    parser.add_argument("--namespace", "-namespace", default="olm")
    parser.add_argument("--configmapServerImage", default="")  # catalogs in ConfigMaps are left out
    parser.add_argument("--opmImage", default=RELEASE.opm_image)
    parser.add_argument("--util-image", default="quay.io/operator-framework/olm:latest")
    parser.add_argument("--bundle-unpack-timeout", default="10m")
    parser.add_argument("--set-workload-user-id", default="false")
    options = parser.parse_args()
    run_program(lambda: main(options))
