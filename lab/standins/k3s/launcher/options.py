"""The flags of ``k3s server``: command line, environment and configuration file, with k3s's precedence."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import yaml
from launcher import log

DEFAULT_CONFIG = Path("/etc/rancher/k3s/config.yaml")
DEFAULT_DATA_DIR = "/var/lib/rancher/k3s"
#: Packaged components that k3s has; the stand-in ships CoreDNS alone, but knows what may be disabled.
COMPONENTS = ("coredns", "servicelb", "traefik", "local-storage", "metrics-server", "runtimes")

# name, default, environment variable
_VALUES = (
    ("data-dir", DEFAULT_DATA_DIR, "K3S_DATA_DIR"),
    ("write-kubeconfig", "/etc/rancher/k3s/k3s.yaml", "K3S_KUBECONFIG_OUTPUT"),
    ("write-kubeconfig-mode", "600", "K3S_KUBECONFIG_MODE"),
    ("private-registry", "/etc/rancher/k3s/registries.yaml", ""),
    ("node-name", "", "K3S_NODE_NAME"),
    ("node-ip", "", ""),
    ("advertise-address", "", ""),
    ("bind-address", "0.0.0.0", ""),
    ("https-listen-port", "6443", ""),
    ("token", "", "K3S_TOKEN"),
    ("token-file", "", "K3S_TOKEN_FILE"),
    ("resolv-conf", "", "K3S_RESOLV_CONF"),
    ("cluster-cidr", "10.42.0.0/16", ""),
    ("service-cidr", "10.43.0.0/16", ""),
    ("cluster-dns", "10.43.0.10", ""),
    ("cluster-domain", "cluster.local", ""),
    ("flannel-backend", "vxlan", ""),
    ("snapshotter", "overlayfs", "K3S_SNAPSHOTTER"),
    ("pause-image", "rancher/mirrored-pause:3.6", ""),
    ("system-default-registry", "", ""),
    ("log", "", ""),
    ("v", "0", ""),
)
_LISTS = (
    "disable",
    "tls-san",
    "node-label",
    "node-taint",
    "kubelet-arg",
    "kube-proxy-arg",
    "kube-apiserver-arg",
    "kube-controller-manager-arg",
    "kube-scheduler-arg",
    "etcd-arg",
)
_SWITCHES = (
    "docker",
    "debug",
    "disable-kube-proxy",
    "disable-network-policy",
    "disable-cloud-controller",
    "disable-helm-controller",
    "disable-default-registry-endpoint",
)
#: Flags that came with a Kubernetes minor version: k3s issue 1445 (verified in v1.22.2+k3s1) and
#: issue 8975 (January 2024's releases of 1.26 to 1.29).
_SINCE = {"disable-helm-controller": 22, "disable-default-registry-endpoint": 26}
_SHORT = {"data-dir": "-d", "write-kubeconfig": "-o", "token": "-t", "node-ip": "-i", "log": "-l"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if unknown := message.partition("unrecognized arguments: ")[2]:
            flag = unknown.split()[0]
            message = (
                f"flag provided but not defined: -{flag.lstrip('-').partition('=')[0]}"
                if flag.startswith("-")
                else f"unexpected argument {flag!r}"
            )
        print(f"Incorrect Usage: {message}\n", file=sys.stderr)
        self.print_help(sys.stderr)
        log.fatal(message)


def _parser(minor: int) -> _Parser:
    parser = _Parser(prog="k3s server", usage="k3s server [OPTIONS]", allow_abbrev=False)
    parser.add_argument(
        "-c", "--config", default=os.environ.get("K3S_CONFIG_FILE", str(DEFAULT_CONFIG)), metavar="FILE"
    )
    for name, default, variable in _VALUES:
        flags = [f"--{name}"] if len(name) > 1 else [f"-{name}"]
        flags += [_SHORT[name]] if name in _SHORT else []
        parser.add_argument(*flags, default=os.environ.get(variable, default), metavar="value")
    for name in _LISTS:
        parser.add_argument(f"--{name}", action="append", default=[], metavar="value")
    for name in _SWITCHES:
        if minor >= _SINCE.get(name, 0):
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.set_defaults(**{name.replace("-", "_"): False})
    return parser


def _config_documents(path: Path) -> Iterator[dict[str, object]]:
    for file in [path, *sorted(path.with_name(path.name + ".d").glob("*.y*ml"))]:
        if not file.exists():
            continue
        try:
            content = yaml.safe_load(file.read_text())
        except yaml.YAMLError as error:
            raise log.Fatal(f"failed to load config file {file}: yaml: {error}") from error
        if not isinstance(content or {}, dict):
            raise log.Fatal(f"failed to load config file {file}: yaml: not a mapping")
        yield content or {}


def _as_flags(path: Path, given: list[str], minor: int) -> list[str]:
    """The configuration file as flags; what the command line names itself is left to the command line."""
    on_line = {argument.partition("=")[0] for argument in given}
    known = {name for name, _, _ in _VALUES} | set(_LISTS) | set(_SWITCHES)
    known -= {name for name, since in _SINCE.items() if minor < since}
    flags: list[str] = []
    for document in _config_documents(path):
        for key, value in document.items():
            name, adds = key.rstrip("+"), key.endswith("+")
            if name not in known:
                log.warning(f"Unknown flag --{name} found in config.yaml, skipping")
            elif name in _SWITCHES:
                flags += [f"--{name}"] if value is True or str(value).lower() == "true" else []
            elif adds or not on_line & {f"--{name}", _SHORT.get(name, "")}:
                for item in value if isinstance(value, list) else [value]:
                    flags.append(f"--{name}={item}" if len(name) > 1 else f"-{name}{item}")
    return flags


def parse(arguments: list[str], minor: int) -> argparse.Namespace:
    """Options of ``k3s server`` of a Kubernetes minor version.

    An unknown flag ends the program as k3s does; in the file it is skipped.
    """
    # urfave/cli, which k3s uses, takes a long flag with one dash too
    arguments = [
        f"-{a}" if a.startswith("-") and a[1:2] not in {"-", ""} and _is_long(a) else a for a in arguments
    ]
    parser = _parser(minor)
    given = parser.parse_args(arguments)
    options = parser.parse_args(_as_flags(Path(given.config), arguments, minor) + arguments)
    options.disable = [name for item in options.disable for name in item.split(",") if name]
    return options


def _is_long(argument: str) -> bool:
    name = argument[1:].partition("=")[0]
    return len(name) > 1 and name in {*(n for n, _, _ in _VALUES), *_LISTS, *_SWITCHES, "config"}
