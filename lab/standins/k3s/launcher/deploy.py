"""Apply the packaged component and whatever lies in ``server/manifests``, as k3s's deploy controller does."""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

from launcher import containerd, log, payload
from launcher.node import pod_cidr
from launcher.options import COMPONENTS

_SCAN_INTERVAL_S = 3.0
_RETRY_LIMIT_S = 30
_TEMPLATE = "coredns.yaml"
#: The first minor version whose nodes are no `master` any more (k3s pull request 12395, not backported).
_WITHOUT_MASTER = 34


def write_packaged(options: argparse.Namespace) -> None:
    """Put CoreDNS's manifest where k3s puts it, or take it away when it is disabled."""
    import pkgutil

    target = Path(options.data_dir) / "server/manifests" / _TEMPLATE
    target.parent.mkdir(parents=True, exist_ok=True)
    for unknown in set(options.disable) - set(COMPONENTS):
        log.warning(f"stand-in has no packaged component {unknown} to disable")
    if "coredns" in options.disable:
        target.unlink(missing_ok=True)
        return
    text = (pkgutil.get_data("launcher", _TEMPLATE) or b"").decode()
    values = {
        "CLUSTER_DNS": options.cluster_dns,
        "CLUSTER_DOMAIN": options.cluster_domain,
        "COREDNS_IMAGE": containerd.image_name(
            "rancher/mirrored-coredns-coredns:1.10.1", options.system_default_registry
        ),
        "NODE_HOSTS": f"{options.node_ip.partition(',')[0]} {options.node_name}",
    }
    for key, value in values.items():
        text = text.replace(f"%{{{key}}}%", value)
    target.write_text(text)


def watch(options: argparse.Namespace, directory: Path, kubeconfig: Path, minor: int) -> None:
    """Complete the node, then apply each new or changed manifest; never returns.  Runs as its own child."""
    kubectl = [str(directory / "bin/kubectl"), "--kubeconfig", str(kubeconfig)]
    environment = payload.environment(directory)
    applied: dict[Path, float] = {}
    labelled = False
    while True:
        if not labelled:
            labelled = _run(
                [*kubectl, "patch", "node", options.node_name, "--patch", _node_patch(options, minor)],
                environment,
                quiet=True,
            )
        waits = _apply_changed(Path(options.data_dir) / "server/manifests", applied, kubectl, environment)
        time.sleep(_SCAN_INTERVAL_S if labelled and not waits else 0.3)


def _node_patch(options: argparse.Namespace, minor: int) -> str:
    """What k3s's server gives its node: the roles, and its share of the pod addresses."""
    names = ("control-plane", "master") if minor < _WITHOUT_MASTER else ("control-plane",)
    roles = {f"node-role.kubernetes.io/{role}": "true" for role in names}
    cidr = pod_cidr(options.cluster_cidr)
    return json.dumps({"metadata": {"labels": roles}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}})


def _apply_changed(
    manifests: Path, applied: dict[Path, float], kubectl: list[str], environment: dict[str, str]
) -> bool:
    """Apply what changed since last time; returns whether something has to be tried again soon."""
    waits = False
    for file in sorted(manifests.rglob("*")):
        if file.suffix not in {".yaml", ".yml", ".json"} or Path(f"{file}.skip").exists():
            continue
        changed = file.stat().st_mtime
        if applied.get(file) == changed:
            continue
        young = time.time() - changed < _RETRY_LIMIT_S
        apply = ["apply", "--server-side", "--force-conflicts", "--field-manager=deploy@k3s", "-f", str(file)]
        if _run([*kubectl, *apply], environment, quiet=young):
            log.info(f"Applied manifest at {file}")
            applied[file] = changed
        else:
            waits = waits or young
    return waits


def _run(argv: list[str], environment: dict[str, str], *, quiet: bool) -> bool:
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and not quiet:
        log.warning(f"{' '.join(argv[3:])}: {done.stderr.strip()}")
    return done.returncode == 0


def import_images(options: argparse.Namespace, directory: Path) -> None:
    """Import the archives of ``agent/images``, as k3s does before kubelet starts."""
    images = Path(options.data_dir) / "agent/images"
    ctr = [str(directory / "bin/ctr"), "--address", containerd.SOCKET, "--namespace", "k8s.io"]
    for archive in sorted(images.glob("*")) if images.is_dir() else []:
        if archive.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst")):
            started = time.monotonic()
            if _run(
                [*ctr, "images", "import", "--all-platforms", str(archive)],
                payload.environment(directory),
                quiet=False,
            ):
                log.info(f"Imported images from {archive} in {time.monotonic() - started:.1f}s")
        elif archive.suffix == ".txt":
            for image in archive.read_text().split():
                hosts = f"{options.data_dir}/agent/etc/containerd/certs.d"
                pull = [*ctr, "images", "pull", "--hosts-dir", hosts, image]
                _run(pull, payload.environment(directory), quiet=False)
