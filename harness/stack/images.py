"""Image pre-pulls: the node fetches what later layers need while the first ones still install.

Only an acceleration: a pull that fails here is told and forgotten, the kubelet's own pull decides. Without a
node shell there is nothing to do; and from a bundle's registry on this host nothing is gained: what a pull
costs there is unpacking, and that keeps the cores from the layers that come first.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from harness.errors import HarnessError
from harness.profile import HOW_TO_PAIR, Profile
from harness.stack import Layer, StackContext
from harness.versions import facts

NAME = "images"
PULLS_AT_ONCE = 2
"""The node unpacks with one core an image; more at once would slow down the kubelet's own pulls."""
PULL_TIMEOUT_S = 300


def wanted(profile: Profile) -> list[str]:
    """Images of the later layers, in the order in which they are needed.

    Those that a CSV names by digest are pulled by their tag, which has the same layers.
    """
    version, runner = profile.operator.version, profile.runner
    return [
        "quay.io/operatorhubio/catalog:latest",
        facts.UNPACKER_IMAGE.at(profile.olm),
        f"quay.io/operatorhubio/gitlab-runner-operator:v{version}",
        f"{facts.OPERATOR_REPOSITORY}:v{version}",
        *profile.image_substitutions.values(),
        f"{facts.RUNNER_REPOSITORY}:v{runner}",
        f"{facts.HELPER_REPOSITORY}:v{runner}",
        *job_images(profile),
    ]


def job_images(profile: Profile) -> list[str]:
    """Images of the pipelines' jobs and their services: pulls that a job's pod waits 180 s for at most."""
    pairs = (profile.jobs, HOW_TO_PAIR)
    names = [name for pair in pairs for name in (pair.docker, pair.dind)]
    return list(dict.fromkeys(map(full_reference, [*names, profile.daemonless_image])))


def engine_image(profile: Profile) -> str:
    """What the node's Docker engine is made of: the docker-dind service's image, which is pulled anyway."""
    return full_reference(profile.jobs.dind)


def full_reference(image: str) -> str:
    """An image as a runtime takes it.

    >>> full_reference("docker")
    'docker.io/library/docker:latest'
    """
    head, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif not ("." in head or ":" in head or head == "localhost"):
        image = f"docker.io/{image}"
    tagged = "@" in image or ":" in image.rpartition("/")[2]
    return image if tagged else f"{image}:latest"


def of_tests() -> list[str]:
    """Images of the tests' own pods, of the registry in the cluster, and the base that jobs build upon."""
    return [
        "docker.io/library/busybox:latest",
        "docker.io/library/registry:2",
        "docker.io/library/alpine:latest",
    ]


def install(ctx: StackContext) -> None:
    """Pull on the node, a few at once; never raises for a pull that failed."""
    if "node-shell" not in ctx.cluster.abilities:
        ctx.progress(NAME, "nothing is pulled beforehand: this cluster has no node shell")
        return
    if ctx.artifacts.registry() is not None:
        ctx.progress(NAME, "nothing is pulled beforehand: the images are on this host")
        return
    refs = wanted(ctx.profile)
    with ThreadPoolExecutor(PULLS_AT_ONCE, thread_name_prefix="pull") as pool:
        failed = [line for line in pool.map(lambda ref: _pull(ctx, ref), refs) if line]
    ctx.progress(NAME, f"{len(refs) - len(failed)} of {len(refs)} images on the node")
    for line in failed:
        ctx.progress(NAME, line)


def _pull(ctx: StackContext, ref: str) -> str:
    """Empty when the image is on the node, else why it isn't."""
    if ctx.cancelled.is_set():
        return f"{ref}: not pulled, interrupted"
    argv: Sequence[str] = ("k3s", "crictl", "pull", ref)
    try:
        done = ctx.cluster.node_shell(argv, timeout_s=PULL_TIMEOUT_S)
    except (HarnessError, OSError, subprocess.SubprocessError) as error:
        return f"{ref}: {error}"
    return "" if done.returncode == 0 else f"{ref}: {(done.stderr or done.stdout).strip()[-200:]}"


LAYER = Layer(name=NAME, install=install)
