"""``k3s``: choose the subcommand."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

from launcher import containerd, deploy, log, options, payload, supervise
from launcher.network import default_address
from launcher.node import Node, Program

_COMMANDS = {
    "server": "Run management server",
    "kubectl": "Run kubectl",
    "crictl": "Run crictl",
    "ctr": "Run ctr",
    "help": "Shows a list of commands or help for one command",
}


def main() -> None:
    """Entry point; never returns."""
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    if name in {"kubectl", "ctr", "crictl"}:  # called through a link, as install.sh makes them
        arguments = [name, *arguments]
    command, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    try:
        if command in {"--version", "-v"}:
            me = payload.identity()
            print(f"{name} version {me.version} ({me.commit})\ngo version {me.go}")
        elif command == "server":
            _server(rest)
        elif command in {"kubectl", "ctr", "crictl"}:
            _tool(command, rest)
        elif command == "_deploy":
            _deploy(rest)
        elif command in {"help", "--help", "-h"}:
            _help(name)
        else:
            print(f"No help topic for '{command}'", file=sys.stderr)
            sys.exit(3)
    except log.Fatal as error:
        log.fatal(str(error))
    sys.exit(0)


def _help(name: str) -> None:
    me = payload.identity()
    lines = [f"   {command:<12}{text}" for command, text in _COMMANDS.items()]
    usage = f"{name} [global options] command [command options] [arguments...]"
    print(
        f"NAME:\n   {name} - Kubernetes, but small and simple\n\nUSAGE:\n   {usage}\n\n"
        f"VERSION:\n   {me.version} ({me.commit})"
    )
    print("\nCOMMANDS:\n" + "\n".join(lines))


def _server(arguments: list[str]) -> None:
    me = payload.identity()
    chosen = options.parse(arguments, me.minor)
    if os.getuid() != 0:
        raise log.Fatal("must run as root unless --disable-agent is specified")
    if chosen.docker:
        raise log.Fatal("--docker needs cri-dockerd, which the stand-in does not carry; run without it")
    log.info(f"Starting k3s {me.version} ({me.commit})")
    _port_is_free(chosen.bind_address, int(chosen.https_listen_port))
    chosen.node_name = (chosen.node_name or socket.gethostname()).lower()
    chosen.node_ip = chosen.node_ip or default_address()
    if chosen.token_file:
        chosen.token = Path(chosen.token_file).read_text().strip()
    directory = payload.unpack(Path(chosen.data_dir))
    environment = payload.environment(directory)
    _set_up_iptables(directory, environment, chosen.cluster_cidr)
    node = Node(chosen, directory, me.minor)
    node.prepare()
    containerd.write_config(chosen, directory, me.minor)
    deploy.write_packaged(chosen)
    children = supervise.Supervisor(Path(chosen.data_dir) / "server/logs", environment)
    children.run(_start(node, children))
    log.info("Shutdown complete")


def _start(node: Node, children: supervise.Supervisor) -> Generator[supervise.Check, None, None]:
    """The order of things; each ``yield`` waits for its condition."""
    children.spawn(node.etcd())
    children.spawn(node.containerd())
    yield supervise.socket_at(containerd.SOCKET)
    log.info(f"containerd is now running at {containerd.SOCKET}")
    deploy.import_images(node.options, node.payload)
    yield supervise.listening(2379)
    children.spawn(node.apiserver())
    yield supervise.answers(f"{node.api}/readyz", node.tls, "client-admin")
    log.info("Kube API server is now running")
    children.spawn(node.kubelet())
    children.spawn(node.controller_manager())
    children.spawn(node.scheduler())
    if not node.options.disable_kube_proxy:
        children.spawn(node.proxy())
    me = [sys.executable, "-I", str(Path(sys.argv[0]).resolve()), "_deploy"]
    chosen = node.options
    names = ("data-dir", "node-name", "node-ip", "cluster-cidr")
    settings = [f"--{name}={getattr(chosen, name.replace('-', '_'))}" for name in names]
    children.spawn(Program("deploy", [*me, *settings, "--config=/dev/null"]))
    log.info("k3s is up and running")


def _deploy(arguments: list[str]) -> None:
    minor = payload.identity().minor
    chosen = options.parse(arguments, minor)
    directory = Path(chosen.data_dir) / "data/current"
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    deploy.watch(chosen, directory, Path(chosen.data_dir) / "server/cred/admin.kubeconfig", minor)


def _port_is_free(address: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            where = "" if address == "0.0.0.0" else address
            reason = (error.strerror or str(error)).lower()
            raise log.Fatal(
                f"starting kubernetes: preparing server: init cluster datastore and https: "
                f"listen tcp {where}:{port}: bind: {reason}"
            ) from error


def _set_up_iptables(directory: Path, environment: dict[str, str], cluster_cidr: str) -> None:
    """Link the iptables flavour that this kernel has, nf_tables where it works; let pods' packets through.

    The rules are those that flannel sets in k3s (FLANNEL-FWD): a docker beside it drops what is forwarded.
    """
    nft = directory / "bin/xtables-nft-multi"
    works = subprocess.run(
        [nft, "iptables", "-t", "nat", "-S"], env=environment, capture_output=True, check=False
    )
    multi = nft.name if works.returncode == 0 else "xtables-legacy-multi"
    aux = directory / "bin/aux"
    aux.mkdir(exist_ok=True)
    for family in ("iptables", "ip6tables"):
        for suffix in ("", "-save", "-restore"):
            link = aux / f"{family}{suffix}"
            link.unlink(missing_ok=True)
            link.symlink_to(f"../{multi}")
    for side in ("-s", "-d"):
        rule = [
            "FORWARD",
            side,
            cluster_cidr,
            "-m",
            "comment",
            "--comment",
            "flanneld forward",
            "-j",
            "ACCEPT",
        ]
        iptables = [str(aux / "iptables"), "-w"]
        there = subprocess.run([*iptables, "-C", *rule], env=environment, capture_output=True, check=False)
        if there.returncode:
            subprocess.run([*iptables, "-A", *rule], env=environment, capture_output=True, check=False)


def _tool(name: str, arguments: list[str]) -> None:
    """Become kubectl or ctr with k3s's defaults; crictl is a small one of our own."""
    data_dir = Path(os.environ.get("K3S_DATA_DIR", options.DEFAULT_DATA_DIR))
    directory = data_dir / "data/current"
    if not (directory / "bin").is_dir():
        directory = payload.unpack(data_dir)
    environment = payload.environment(directory)
    if name == "crictl":
        from launcher import crictl

        sys.exit(crictl.main(arguments, str(directory / "bin/ctr"), environment, data_dir))
    if name == "kubectl":
        environment.setdefault(
            "KUBECONFIG", os.environ.get("K3S_KUBECONFIG_OUTPUT", "/etc/rancher/k3s/k3s.yaml")
        )
    environment.setdefault("CONTAINERD_ADDRESS", containerd.SOCKET)
    environment.setdefault("CONTAINERD_NAMESPACE", "k8s.io")
    os.execve(directory / "bin" / name, [name, *arguments], environment)
