"""`python -m bench waits`: from a state becoming true in the API to the wait returning.

wait_for against `kubectl wait` and against asking every second, in turns on the same cluster. The clock
starts just before the request that makes the state true is sent. Goal: median of wait_for at most 50 ms.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.machine import describe
from harness.kube import Kube
from harness.wait import Watched, wait_for

GOAL_S = 0.050
NAMESPACE, NAME = "default", "bench-waits"
KIND = "v1/ConfigMap"
TIMEOUT_S = 30
SETTLE_S = 1.5
"""Long enough for `kubectl wait` to be watching before the state changes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when the goal is met."""
    parser = argparse.ArgumentParser(prog="python -m bench waits", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--kubectl", default="kubectl", help="the program, with arguments if need be")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args(argv)
    kube = Kube(options.kubeconfig)
    kubectl = [*options.kubectl.split(), "--kubeconfig", str(options.kubeconfig)]
    ways: dict[str, Callable[[], object]] = {
        "wait_for": lambda: ours(kube),
        "kubectl wait": lambda: theirs(kubectl),
        "polling, 1 s": lambda: polling(kube),
    }
    print(describe())
    measured: dict[str, list[float]] = {name: [] for name in ways}
    try:
        for _ in range(options.rounds):
            for name, way in ways.items():
                measured[name].append(once(kube, way))
    finally:
        kube.delete(KIND, NAME, NAMESPACE)
    print("| way | median ms | worst ms | rounds |\n|---|---|---|---|")
    for name, times in measured.items():
        print(f"| {name} | {statistics.median(times) * 1000:.0f} | {max(times) * 1000:.0f} | {len(times)} |")
    return 0 if statistics.median(measured["wait_for"]) <= GOAL_S else 1


def once(kube: Kube, way: Callable[[], object]) -> float:
    """Seconds from just before the change to the return of the wait."""
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": {"state": "no"},
    }
    kube.apply(manifest)
    returned: list[float] = []
    waiter = threading.Thread(target=lambda: (way(), returned.append(time.monotonic())))
    waiter.start()
    time.sleep(SETTLE_S + random.random())  # at any moment of the polling's second
    begin = time.monotonic()
    kube.apply({**manifest, "data": {"state": "yes"}})
    waiter.join(TIMEOUT_S)
    if not returned:
        raise RuntimeError("a wait did not return")
    return returned[0] - begin


def ours(kube: Kube) -> None:
    """The harness's wait."""
    wait_for(
        lambda: kube.get(KIND, NAME, NAMESPACE),
        ready=lambda it: it is not None and it["data"]["state"] == "yes",
        what="state is yes",
        timeout_s=TIMEOUT_S,
        kube=kube,
        watch=[Watched(KIND, NAMESPACE, NAME)],
    )


def theirs(kubectl: Sequence[str]) -> None:
    """kubectl wait."""
    condition = "--for=jsonpath={.data.state}=yes"
    argv = [*kubectl, "-n", NAMESPACE, "wait", f"configmap/{NAME}", condition, f"--timeout={TIMEOUT_S}s"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def polling(kube: Kube) -> None:
    """Ask, sleep a second, ask again."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        found = kube.get(KIND, NAME, NAMESPACE)
        if found is not None and found["data"]["state"] == "yes":
            return
        time.sleep(1)
