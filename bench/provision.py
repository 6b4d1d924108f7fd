"""`python -m bench provision`: the article's commands by hand, in order, against `runner-conformance up`.

Both sides on the same bundle, in turns. By hand means kubectl, the steps of OLM's install.sh with its own
polls 10 s apart, and a look every 10 s where the article looks. Both start the same k3s in the same way and
use an embedded GitLab, which by hand is running already when the clock starts. Goals: up takes at most 0.6 of
by hand, at most 1.15 of its own critical path, and at most 90 s.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.machine import describe
from harness.artifacts.bundle import Bundle
from harness.gitlab.client import GitLabSession, GitLabTarget
from harness.options import ProvisionOptions
from harness.ownership import HOME_VARIABLE
from harness.provision import Provisioner
from harness.stack import StackContext
from harness.stack import operator as operator_layer
from harness.stack.catalogue import LAYERS

GOAL_RATIO, GOAL_CRITICAL, GOAL_S = 0.6, 1.15, 90.0
LOOK_S = 10.0
"""install.sh's pause between two looks; a person's is no shorter."""
LOOKS = 60
LAYERS_OF_UP = ("images", "cert-manager", "olm", "operator", "gitlab", "runner")


@dataclass
class Pair:
    """One round, in seconds."""

    by_hand: float
    up: float
    critical: float


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when the goals are met."""
    parser = argparse.ArgumentParser(prog="python -m bench provision", description=__doc__)
    parser.add_argument("--artifacts", required=True, help="the bundle for both sides")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--profile", default="seed")
    options = parser.parse_args(argv)
    kubectl = [str(Bundle.read(Path(options.artifacts)).file("k3s")), "kubectl"]
    subprocess.run([*kubectl, "version", "--client"], check=True, stdout=subprocess.DEVNULL)
    print(describe(), flush=True)
    pairs = []
    with tempfile.TemporaryDirectory(prefix="bench-provision-") as home:
        os.environ[HOME_VARIABLE] = home
        for number in range(options.pairs):
            chosen = ProvisionOptions(profile=options.profile, artifacts=options.artifacts)
            hand = by_hand(chosen, kubectl)
            up, critical = with_up(chosen)
            pairs.append(Pair(hand, up, critical))
            print(
                f"pair {number + 1}: by hand {hand:.1f} s, up {up:.1f} s, critical path {critical:.1f} s",
                flush=True,
            )
    return report(pairs)


def report(pairs: Sequence[Pair]) -> int:
    """Print medians against the goals."""
    up = statistics.median(pair.up for pair in pairs)
    ratio = statistics.median(pair.up / pair.by_hand for pair in pairs)
    critical = statistics.median(pair.up / pair.critical for pair in pairs)
    print("| figure | median | goal |\n|---|---|---|")
    print(f"| by hand, s | {statistics.median(pair.by_hand for pair in pairs):.1f} | |")
    print(f"| up, s | {up:.1f} | {GOAL_S:.0f} |")
    print(f"| up / by hand | {ratio:.2f} | {GOAL_RATIO} |")
    print(f"| up / its critical path | {critical:.2f} | {GOAL_CRITICAL} |")
    return 0 if ratio <= GOAL_RATIO and critical <= GOAL_CRITICAL and up <= GOAL_S else 1


def with_up(options: ProvisionOptions) -> tuple[float, float]:
    """Wall time and critical path of `up`."""
    run = Provisioner(options)
    _ = run.artifacts  # opened before the clock starts, as by hand
    begin = time.monotonic()
    try:
        run.up(LAYERS_OF_UP)
        wall = time.monotonic() - begin
        path = [phase for phase in run.graph.critical_path() if phase.name != "artifacts"]
        return wall, sum(phase.duration_s for phase in path)
    finally:
        run.down()


def by_hand(options: ProvisionOptions, kubectl: Sequence[str]) -> float:
    """Wall time of the article's commands."""
    run = Provisioner(options)
    _ = run.artifacts
    try:
        begin = time.monotonic()
        ctx = run.start()
        node_ready = time.monotonic() - begin
        target = LAYERS["gitlab"].install(ctx)  # somebody's GitLab runs already: not counted
        assert isinstance(target, GitLabTarget)
        ctx.results["gitlab"] = target
        again = time.monotonic()
        Hand(ctx, [*kubectl, "--kubeconfig", str(ctx.cluster.kubeconfig)]).install(target)
        return node_ready + time.monotonic() - again
    finally:
        run.down()


@dataclass
class Hand:
    """A person with kubectl."""

    ctx: StackContext
    kubectl: Sequence[str]

    def install(self, target: GitLabTarget) -> None:
        """Everything after k3s."""
        manifest = self.ctx.artifacts.manifest
        self.run("apply", "-f", str(manifest("cert-manager.yaml")))
        self.olm(str(manifest("crds.yaml")), str(manifest("olm.yaml")))
        self.operator()
        self.runner(target)

    def run(self, *words: str, given: str | None = None, check: bool = True) -> str:
        """One kubectl command."""
        done = subprocess.run(
            [*self.kubectl, *words], input=given, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr}")
        return done.stdout

    def look(self, what: str, done: Callable[[], bool]) -> None:
        """Look, and look again 10 s later."""
        for _ in range(LOOKS):
            if done():
                return
            time.sleep(LOOK_S)
        raise RuntimeError(f"{what} did not come to be")

    def olm(self, crds: str, olm: str) -> None:
        """The steps of install.sh."""
        self.run("create", "-f", crds)
        self.run("wait", "--for=condition=Established", "-f", crds, "--timeout=60s")
        self.run("create", "-f", olm)
        for name in ("olm-operator", "catalog-operator"):
            self.run("rollout", "status", "-w", f"deployment/{name}", "--namespace=olm")
        self.look("packageserver", lambda: self.phase("olm", "packageserver") == "Succeeded")
        self.run("rollout", "status", "-w", "deployment/packageserver", "--namespace=olm")

    def phase(self, namespace: str, name: str) -> str:
        """A CSV's phase."""
        return self.run("get", "csv", name, "-n", namespace, "-o", "jsonpath={.status.phase}", check=False)

    def operator(self) -> None:
        """Subscribe at the version asked for, approve its plan, replace kube-rbac-proxy, look at the CSV."""
        wish = self.ctx.profile.operator
        self.run("create", "-f", "-", given=yaml.safe_dump(operator_layer.subscription(self.ctx)))
        names: list[str] = []

        def plan_found() -> bool:
            path = (
                "jsonpath={range .items[*]}{.metadata.name} {.spec.clusterServiceVersionNames[0]}{'\\n'}{end}"
            )
            lines = self.run("get", "installplan", "-n", wish.namespace, "-o", path).splitlines()
            names.extend(line.split()[0] for line in lines if line.endswith(f" {wish.csv}"))
            return bool(names)

        self.look("install plan", plan_found)
        self.run(
            "patch", "installplan", names[0], "-n", wish.namespace, "--type=merge",
            "-p", '{"spec":{"approved":true}}',
        )  # fmt: skip
        self.look("CSV", lambda: bool(self.phase(wish.namespace, wish.csv)))
        operator_layer.substitute_images(self.ctx, self.ctx.profile.image_substitutions)
        self.look("operator", lambda: self.phase(wish.namespace, wish.csv) == "Succeeded")

    def runner(self, target: GitLabTarget) -> None:
        """Secret, Runner, and a look at its pod and at GitLab."""
        session = GitLabSession(target, self.ctx.run_id)
        session.gl.auth()
        token = session.create_runner(tags=["jh"], description="by hand")
        name = "jh-gitlab-runner"
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"{name}-secret"},
            "stringData": {"runner-registration-token": token.token.reveal()},
        }
        runner = {
            "apiVersion": "apps.gitlab.com/v1beta2",
            "kind": "Runner",
            "metadata": {"name": name},
            "spec": {"gitlabUrl": target.url, "buildImage": "alpine", "token": f"{name}-secret"},
        }
        self.run("apply", "-f", "-", given=yaml.safe_dump(secret))
        self.look(
            "webhook",
            lambda: "created" in self.run("apply", "-f", "-", given=yaml.safe_dump(runner), check=False),
        )
        path = "jsonpath={.status.readyReplicas}"
        deployment = f"{name}-runner"
        self.look("pod", lambda: self.run("get", "deployment", deployment, "-o", path, check=False) == "1")
        self.look("runner online", lambda: session.runner_status(token.id) == "online")
