"""A small ``crictl`` on top of ctr: what a person at the node's shell, and image pre-pulls, ask of it."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.containerd import SOCKET

_KIND, _POD = "io.cri-containerd.kind", "io.kubernetes.pod."
_SHORT_ID = 13  # characters, as crictl shows


@dataclass(frozen=True)
class _Ctr:
    program: str
    environment: dict[str, str]

    def __call__(self, *arguments: str) -> str:
        """Output of a ctr command.  Raises CalledProcessError."""
        argv = [self.program, "--address", SOCKET, "--namespace", "k8s.io", *arguments]
        done = subprocess.run(argv, env=self.environment, check=True, capture_output=True, text=True)
        return done.stdout

    def images(self) -> dict[str, tuple[str, str]]:
        """Reference → manifest digest and size, of all image records."""
        rows = (line.split() for line in self("images", "ls").splitlines()[1:])
        return {row[0]: (row[2], row[3] + row[4].replace("iB", "B")) for row in rows}

    def containers(self) -> list[dict[str, Any]]:
        """containerd's description of every container, pod sandboxes among them."""
        return [
            json.loads(self("containers", "info", name)) for name in self("containers", "ls", "-q").split()
        ]

    def running(self) -> set[str]:
        """Ids of containers whose task runs."""
        return {line.split()[0] for line in self("tasks", "ls").splitlines()[1:] if line.endswith("RUNNING")}


def main(arguments: list[str], program: str, environment: dict[str, str], data_dir: Path) -> int:
    """Run a crictl command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="crictl", description="client for CRI")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name in ("version", "info", "images", "pods"):
        commands.add_parser(name, aliases=["image", "img"] if name == "images" else [])
    commands.add_parser("ps").add_argument("-a", "--all", action="store_true")
    for name in ("pull", "rmi", "logs"):
        commands.add_parser(name).add_argument("name")
    options = parser.parse_args(arguments)
    ctr = _Ctr(program, environment)
    try:
        _COMMANDS[options.command](ctr, options, data_dir)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["unknown"])[-1].removeprefix("ctr: ")
        print(f"FATA[0000] {options.command}: rpc error: code = Unknown desc = {reason}", file=sys.stderr)
        return 1
    return 0


def _version(ctr: _Ctr, _options: argparse.Namespace, _data_dir: Path) -> None:
    found = re.search(r"Server:\s+Version:\s+(\S+)", ctr("version"))
    version = found[1] if found else "unknown"
    print(f"Version:  0.1.0\nRuntimeName:  containerd\nRuntimeVersion:  {version}\nRuntimeApiVersion:  v1")


def _info(ctr: _Ctr, _options: argparse.Namespace, data_dir: Path) -> None:
    config = data_dir / "agent/etc/containerd/config.toml"
    print(
        json.dumps(
            {"status": {"conditions": [{"type": "RuntimeReady", "status": True}]}, "config": str(config)}
        )
    )
    ctr("version")


def _images(ctr: _Ctr, _options: argparse.Namespace, _data_dir: Path) -> None:
    found = ctr.images()
    rows = [("IMAGE", "TAG", "IMAGE ID", "SIZE")]
    for reference, (digest, size) in sorted(found.items()):
        if reference.startswith("sha256:") or "@" in reference:
            continue
        name, _, tag = reference.rpartition(":")
        rows.append((name, tag, _image_id(found, digest).removeprefix("sha256:")[:_SHORT_ID], size))
    _table(rows)


def _image_id(images: dict[str, tuple[str, str]], digest: str) -> str:
    """The configuration's digest: CRI keeps a record under it beside the one under the name."""
    return next(
        (it for it, (other, _) in images.items() if it.startswith("sha256:") and other == digest), digest
    )


def _pull(ctr: _Ctr, options: argparse.Namespace, data_dir: Path) -> None:
    reference = _full(options.name)
    ctr("images", "pull", "--hosts-dir", str(data_dir / "agent/etc/containerd/certs.d"), reference)
    images = ctr.images()
    print(f"Image is up to date for {_image_id(images, images[reference][0])}")


def _full(name: str) -> str:
    """``alpine`` as docker.io/library/alpine:latest, as CRI reads names."""
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    return name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"


def _rmi(ctr: _Ctr, options: argparse.Namespace, _data_dir: Path) -> None:
    images = ctr.images()
    reference = _full(options.name)
    doomed = [reference, _image_id(images, images[reference][0])] if reference in images else [options.name]
    ctr("images", "rm", *doomed)
    print(f"Deleted: {reference}")


def _pods(ctr: _Ctr, _options: argparse.Namespace, _data_dir: Path) -> None:
    running = ctr.running()
    rows = [("POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME")]
    for it in ctr.containers():
        labels = it.get("Labels") or {}
        if labels.get(_KIND) == "sandbox":
            state = "Ready" if it["ID"] in running else "NotReady"
            name, namespace = labels.get(f"{_POD}name", ""), labels.get(f"{_POD}namespace", "")
            rows.append(
                (it["ID"][:_SHORT_ID], it["CreatedAt"][:19], state, name, namespace, "0", "(default)")
            )
    _table(rows)


def _ps(ctr: _Ctr, options: argparse.Namespace, _data_dir: Path) -> None:
    running = ctr.running()
    rows = [("CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD")]
    for it in ctr.containers():
        labels = it.get("Labels") or {}
        alive = it["ID"] in running
        if labels.get(_KIND) == "container" and (alive or options.all):
            state = "Running" if alive else "Exited"
            name, pod = labels.get("io.kubernetes.container.name", ""), labels.get(f"{_POD}name", "")
            created, sandbox = it["CreatedAt"][:19], it.get("SandboxID") or _sandbox(it)
            rows.append(
                (it["ID"][:_SHORT_ID], it["Image"], created, state, name, "0", sandbox[:_SHORT_ID], pod)
            )
    _table(rows)


def _sandbox(container: dict[str, Any]) -> str:
    annotations = (container.get("Spec") or {}).get("annotations") or {}
    return str(annotations.get("io.kubernetes.cri.sandbox-id", ""))


def _logs(ctr: _Ctr, options: argparse.Namespace, _data_dir: Path) -> None:
    """The kubelet's log file of a container, without its stamps."""
    for it in ctr.containers():
        labels = it.get("Labels") or {}
        if it["ID"].startswith(options.name) and labels.get(_KIND) == "container":
            pod = "_".join(labels.get(f"{_POD}{part}", "") for part in ("namespace", "name", "uid"))
            logs = Path("/var/log/pods") / pod / labels.get("io.kubernetes.container.name", "")
            for file in sorted(logs.glob("*.log"), key=lambda path: int(path.stem))[-1:]:
                for line in file.read_text(errors="replace").splitlines():
                    print(line.split(" ", 3)[-1])
            return
    print(f'FATA[0000] getting container status: container with ID starting with "{options.name}" not found',
          file=sys.stderr)  # fmt: skip
    sys.exit(1)


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


_COMMANDS = {
    "version": _version,
    "info": _info,
    "images": _images,
    "image": _images,
    "img": _images,
    "pull": _pull,
    "rmi": _rmi,
    "pods": _pods,
    "ps": _ps,
    "logs": _logs,
}
