"""olm-operator: installs what ClusterServiceVersions describe (/bin/olm)."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

from olmlab.companions import Companions
from olmlab.csv import CsvController
from olmlab.csvspec import COPIED, is_copied, owned
from olmlab.groups import GONE_S, GroupController
from olmlab.informer import Informer
from olmlab.kube import (
    API_SERVICE,
    CRD,
    CSV,
    DEPLOYMENT,
    GROUP,
    NAMESPACE,
    SUBSCRIPTION,
    Kube,
    Obj,
    key_of,
    labels_of,
    name_of,
    namespace_of,
)
from olmlab.operators import OperatorController
from olmlab.release import HERE as RELEASE

HEALTH_PORT = 8080


async def serve_health() -> None:
    """Answer 200 to any request on the port of the metrics and /healthz."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    await asyncio.start_server(answer, "0.0.0.0", HEALTH_PORT, reuse_port=True)


def run_program(main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` until SIGTERM or SIGINT, logging to standard error; `--version` is answered instead."""
    if "--version" in sys.argv[1:]:
        print(RELEASE.said(), end="")
        return
    logging.basicConfig(level=logging.INFO, format="time=%(asctime)s level=%(levelname)s msg=%(message)s")

    async def until_stopped() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        task = asyncio.ensure_future(main())
        await asyncio.wait([task, asyncio.ensure_future(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()

    asyncio.run(until_stopped())


async def run_informers(*informers: Informer) -> None:
    """Start each informer after the one before has its list, so that handlers find what they look up."""
    tasks = []
    for informer in informers:
        tasks.append(asyncio.ensure_future(informer.run()))
        await informer.synced.wait()
    await asyncio.gather(*tasks)


async def main() -> None:
    await serve_health()
    kube = Kube()
    csvs, groups = Informer(kube, CSV), Informer(kube, GROUP)
    namespaces = Informer(kube, NAMESPACE, metadata_only=True)
    subscriptions = Informer(kube, SUBSCRIPTION)
    deployments = Informer(kube, DEPLOYMENT, selector="olm.managed=true")
    api_services = Informer(kube, API_SERVICE, selector="olm.managed=true")
    crds = Informer(kube, CRD, metadata_only=True)
    companions = Companions(kube, csvs, groups, namespaces)
    csv_control = CsvController(kube, csvs, groups, subscriptions, companions)
    group_control = GroupController(kube, groups, namespaces)
    operator_control = OperatorController(kube, subscriptions, csvs)

    def on_csv(type_: str, old: Obj | None, csv: Obj) -> None:
        csv_control.changed(type_, old, csv)
        if COPIED not in labels_of(csv):
            operator_control.changed(csv)

    def on_group(type_: str, old: Obj | None, group: Obj) -> None:
        group_control.queue.add(key_of(group))
        if type_ != "DELETED":
            csv_control.requeue_namespace(namespace_of(group))
        elif not groups.list(namespace_of(group)):
            csv_control.requeue_namespace(namespace_of(group), GONE_S)

    def on_deployment(type_: str, old: Obj | None, deployment: Obj) -> None:
        csv_control.requeue_owner(deployment)
        operator_control.changed(deployment)

    def on_namespace(type_: str, old: Obj | None, namespace: Obj) -> None:
        if type_ == "MODIFIED" and "deletionTimestamp" in namespace["metadata"]:
            return
        for group in groups.list():
            if (group.get("spec") or {}).get("selector"):
                group_control.queue.add(key_of(group))
        for csv in csvs.list():
            if not is_copied(csv):
                companions.copies.add(key_of(csv), 0.5)

    def on_crd(type_: str, old: Obj | None, crd: Obj) -> None:
        for csv in csvs.list():
            if not is_copied(csv) and any(
                d["name"] == name_of(crd) for d in owned(csv, "customresourcedefinitions")
            ):
                csv_control.queue.add(key_of(csv), 0.3)

    csvs.on_change, groups.on_change, deployments.on_change = on_csv, on_group, on_deployment
    namespaces.on_change, crds.on_change = on_namespace, on_crd
    api_services.on_change = lambda type_, old, obj: csv_control.requeue_owner(obj)
    subscriptions.on_change = lambda type_, old, obj: operator_control.changed(obj)
    await run_informers(namespaces, groups, subscriptions, csvs, deployments, api_services, crds)


def start() -> None:
    parser = argparse.ArgumentParser(prog="olm")
    parser.add_argument("--namespace", default="olm")
    parser.parse_known_args()
    run_program(main)
