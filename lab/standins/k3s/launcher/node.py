"""The programs of a node as k3s starts them: their certificates, arguments and configuration files."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

from launcher import containerd, log, network

#: Where each program answers its health check inside the node.
ETCD_PORT, ETCD_PEER_PORT = 2379, 2380


@dataclass(frozen=True)
class Program:
    """A supervised child: the name it is known by in the log, and its command line."""

    name: str
    argv: list[str]


@dataclass(frozen=True)
class Node:
    """A configured node; ``tls`` holds the certificates, ``minor`` is the Kubernetes minor version."""

    options: argparse.Namespace
    payload: Path
    minor: int

    @property
    def data(self) -> Path:
        """The data directory."""
        return Path(self.options.data_dir)

    @property
    def tls(self) -> Path:
        """Directory of the certificates."""
        return self.data / "server/tls"

    @property
    def cred(self) -> Path:
        """Directory of the kubeconfigs that the programs use."""
        return self.data / "server/cred"

    @property
    def address(self) -> str:
        """The node's address."""
        return str(self.options.node_ip).partition(",")[0]

    @property
    def api(self) -> str:
        """The API server's URL inside the node."""
        return f"https://127.0.0.1:{self.options.https_listen_port}"

    @property
    def admin(self) -> Path:
        """The administrator's kubeconfig in the data directory."""
        return self.cred / "admin.kubeconfig"

    def prepare(self) -> None:
        """Make certificates, kubeconfigs, tokens and configuration files.  Raises log.Fatal."""
        self._certificates()
        for name, cert in (
            ("admin", "client-admin"),
            ("controller", "client-controller"),
            ("scheduler", "client-scheduler"),
            ("kubelet", "client-kubelet"),
            ("kubeproxy", "client-kube-proxy"),
        ):
            self._kubeconfig(self.cred / f"{name}.kubeconfig", cert)
        self._user_kubeconfig()
        self._token()
        self._kubelet_config()
        if self.options.flannel_backend != "none":
            self._cni()

    def _certificates(self) -> None:
        service_ip = str(ipaddress.ip_network(self.options.service_cidr)[1])
        name, domain = self.options.node_name, self.options.cluster_domain
        api_names = [
            f"kubernetes{suffix}" for suffix in ("", ".default", ".default.svc", f".default.svc.{domain}")
        ]
        addresses = [
            "127.0.0.1",
            "::1",
            "localhost",
            name,
            self.address,
            self.options.advertise_address,
            service_ip,
        ]
        stamp = secrets.token_hex(4)

        def cert(file: str, ca: str, cn: str, orgs: list[str], sans: list[str]) -> dict[str, object]:
            return {
                "name": file,
                "ca": ca,
                "cn": cn,
                "orgs": orgs,
                "sans": [s for s in dict.fromkeys(sans) if s],
            }

        etcd_names = ["127.0.0.1", "localhost"]
        spec = {
            "dir": str(self.tls),
            "cas": [
                {"name": ca, "cn": f"k3s-{ca}@{stamp}"}
                for ca in ("server-ca", "client-ca", "request-header-ca", "etcd/server-ca")
            ],
            "keys": ["service"],
            "certs": [
                cert("serving-kube-apiserver", "server-ca", "kube-apiserver", [],
                     [*api_names, *addresses, *self.options.tls_san]),
                cert("serving-kubelet", "server-ca", name, [], [name, "127.0.0.1", self.address]),
                cert("client-admin", "client-ca", "system:admin", ["system:masters"], []),
                cert("client-kube-apiserver", "client-ca", "system:apiserver", ["system:masters"], []),
                cert("client-controller", "client-ca", "system:kube-controller-manager", [], []),
                cert("client-scheduler", "client-ca", "system:kube-scheduler", [], []),
                cert("client-kube-proxy", "client-ca", "system:kube-proxy", [], []),
                cert("client-kubelet", "client-ca", f"system:node:{name}", ["system:nodes"], []),
                cert("client-auth-proxy", "request-header-ca", "system:auth-proxy", [], []),
                cert("etcd/server-client", "etcd/server-ca", "etcd-server", [], etcd_names),
                cert("etcd/client", "etcd/server-ca", "etcd-client", [], []),
            ],
        }  # fmt: skip
        made = subprocess.run(
            [self.payload / "bin/k3s-certs"],
            input=json.dumps(spec),
            text=True,
            capture_output=True,
            check=False,
        )
        if made.returncode:
            raise log.Fatal(f"starting kubernetes: preparing server: {made.stderr.strip()}")

    def _kubeconfig(self, path: Path, cert: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        user = {"client-certificate": f"{self.tls}/{cert}.crt", "client-key": f"{self.tls}/{cert}.key"}
        cluster = {"server": self.api, "certificate-authority": f"{self.tls}/server-ca.crt"}
        _write(path, json.dumps(_kubeconfig(cluster, user)), 0o600)

    def _user_kubeconfig(self) -> None:
        import base64

        import yaml

        def data(file: str) -> str:
            return base64.b64encode((self.tls / file).read_bytes()).decode()

        cluster = {"server": self.api, "certificate-authority-data": data("server-ca.crt")}
        user = {
            "client-certificate-data": data("client-admin.crt"),
            "client-key-data": data("client-admin.key"),
        }
        path, mode = Path(self.options.write_kubeconfig), int(self.options.write_kubeconfig_mode, 8)
        _write(path, yaml.safe_dump(_kubeconfig(cluster, user)), mode)
        log.info(f"Wrote kubeconfig {path}")

    def _token(self) -> None:
        path = self.data / "server/token"
        if not path.exists():
            token = self.options.token or secrets.token_hex(16)
            _write(path, f"K10{secrets.token_hex(32)}::server:{token}\n", 0o600)
        (node_token := path.with_name("node-token")).unlink(missing_ok=True)
        node_token.symlink_to(path)

    def _kubelet_config(self) -> None:
        config: dict[str, object] = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "0.0.0.0",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{self.tls}/client-ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "clusterDNS": [self.options.cluster_dns],
            "clusterDomain": self.options.cluster_domain,
            "containerRuntimeEndpoint": f"unix://{containerd.SOCKET}",
            "evictionHard": {"imagefs.available": "5%", "nodefs.available": "5%"},
            "evictionMinimumReclaim": {"imagefs.available": "10%", "nodefs.available": "10%"},
            "failSwapOn": False,
            "healthzBindAddress": "127.0.0.1",
            "readOnlyPort": 0,
            "resolvConf": self.options.resolv_conf or "/etc/resolv.conf",
            "tlsCertFile": f"{self.tls}/serving-kubelet.crt",
            "tlsPrivateKeyFile": f"{self.tls}/serving-kubelet.key",
            "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        }
        if self.minor >= 31:  # the field's first version; from 1.35 on kubelet refuses cgroup v1 without it
            config["failCgroupV1"] = False
        if containerd.lacks_sys_resource():
            config["oomScoreAdj"] = 0
        _write(self.data / "agent/etc/kubelet.json", json.dumps(config), 0o600)

    def _cni(self) -> None:
        """One node, so a bridge does what flannel would: its names and its pods' MTU are those of k3s."""
        subnet = pod_cidr(self.options.cluster_cidr)
        plugins = [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "mtu": network.pod_mtu(self.options.flannel_backend),
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": subnet}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]
        path = self.data / "agent/etc/cni/net.d/10-flannel.conflist"
        _write(path, json.dumps({"name": "cbr0", "cniVersion": "1.0.0", "plugins": plugins}), 0o600)

    # -- command lines ----------------------------------------------------------------------------------

    def etcd(self) -> Program:
        """The datastore; a throw-away cluster needs no fsync."""
        tls = self.tls / "etcd"
        pair = {"cert-file": tls / "server-client.crt", "key-file": tls / "server-client.key"}
        secure = {**pair, "trusted-ca-file": tls / "server-ca.crt", "client-cert-auth": "true"}
        peer_url = f"https://127.0.0.1:{ETCD_PEER_PORT}"
        arguments = {
            "name": "default",
            "data-dir": self.data / "server/db/etcd",
            "listen-client-urls": f"https://127.0.0.1:{ETCD_PORT}",
            "advertise-client-urls": f"https://127.0.0.1:{ETCD_PORT}",
            "listen-peer-urls": peer_url,
            "initial-advertise-peer-urls": peer_url,
            "initial-cluster": f"default={peer_url}",
            "unsafe-no-fsync": "true",
            "log-level": "warn",
            **secure,
            **{f"peer-{key}": value for key, value in secure.items()},
        }
        return self._program("etcd", "etcd", arguments, self.options.etcd_arg)

    def apiserver(self) -> Program:
        """kube-apiserver on the port that k3s's supervisor listens on."""
        tls, domain = self.tls, self.options.cluster_domain
        issuer = f"https://kubernetes.default.svc.{domain}"
        arguments = {
            "advertise-address": self.options.advertise_address or self.address,
            "allow-privileged": "true",
            "anonymous-auth": "false",
            "api-audiences": f"{issuer},k3s",
            "authorization-mode": "Node,RBAC",
            "bind-address": self.options.bind_address,
            "client-ca-file": tls / "client-ca.crt",
            "enable-admission-plugins": "NodeRestriction",
            "enable-aggregator-routing": "true",
            "etcd-servers": f"https://127.0.0.1:{ETCD_PORT}",
            "etcd-cafile": tls / "etcd/server-ca.crt",
            "etcd-certfile": tls / "etcd/client.crt",
            "etcd-keyfile": tls / "etcd/client.key",
            "kubelet-certificate-authority": tls / "server-ca.crt",
            "kubelet-client-certificate": tls / "client-kube-apiserver.crt",
            "kubelet-client-key": tls / "client-kube-apiserver.key",
            "kubelet-preferred-address-types": "InternalIP,ExternalIP,Hostname",
            "profiling": "false",
            "proxy-client-cert-file": tls / "client-auth-proxy.crt",
            "proxy-client-key-file": tls / "client-auth-proxy.key",
            "requestheader-allowed-names": "system:auth-proxy",
            "requestheader-client-ca-file": tls / "request-header-ca.crt",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-username-headers": "X-Remote-User",
            "secure-port": self.options.https_listen_port,
            "service-account-issuer": issuer,
            "service-account-key-file": tls / "service.key",
            "service-account-signing-key-file": tls / "service.key",
            "service-cluster-ip-range": self.options.service_cidr,
            "service-node-port-range": "30000-32767",
            "tls-cert-file": tls / "serving-kube-apiserver.crt",
            "tls-private-key-file": tls / "serving-kube-apiserver.key",
        }
        return self._program("apiserver", "kube-apiserver", arguments, self.options.kube_apiserver_arg)

    def controller_manager(self) -> Program:
        """kube-controller-manager, without leader election: there is one."""
        kubeconfig = self.cred / "controller.kubeconfig"
        arguments = {
            # the allocator looks for nodes after 10 s only, and all other controllers wait for it; there is
            # one node, whose range the deployer writes
            "allocate-node-cidrs": "false",
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "bind-address": "127.0.0.1",
            "cluster-cidr": self.options.cluster_cidr,
            "cluster-signing-cert-file": self.tls / "client-ca.crt",
            "cluster-signing-key-file": self.tls / "client-ca.key",
            "controllers": "*,tokencleaner",
            "kubeconfig": kubeconfig,
            "leader-elect": "false",
            "profiling": "false",
            "root-ca-file": self.tls / "server-ca.crt",
            "service-account-private-key-file": self.tls / "service.key",
            "service-cluster-ip-range": self.options.service_cidr,
            "use-service-account-credentials": "true",
        }
        extra = self.options.kube_controller_manager_arg
        return self._program("controller-manager", "kube-controller-manager", arguments, extra)

    def scheduler(self) -> Program:
        """kube-scheduler, without leader election."""
        kubeconfig = self.cred / "scheduler.kubeconfig"
        arguments = {
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "bind-address": "127.0.0.1",
            "kubeconfig": kubeconfig,
            "leader-elect": "false",
            "profiling": "false",
        }
        return self._program("scheduler", "kube-scheduler", arguments, self.options.kube_scheduler_arg)

    def containerd(self) -> Program:
        """containerd, as configured by ``containerd.write_config``."""
        config = containerd.for_debian(self.data / "agent/etc/containerd/config.toml")
        return Program("containerd", [str(self.payload / "bin/containerd"), "--config", str(config)])

    def kubelet(self) -> Program:
        """kubelet; settings are in its file, so that --kubelet-arg wins over them."""
        labels = ["node.kubernetes.io/instance-type=k3s", *self.options.node_label]
        arguments: dict[str, object] = {
            "config": self.data / "agent/etc/kubelet.json",
            "hostname-override": self.options.node_name,
            "kubeconfig": self.cred / "kubelet.kubeconfig",
            "node-ip": self.address,
            "node-labels": ",".join(labels),
            "root-dir": "/var/lib/kubelet",
            "cert-dir": self.data / "agent/kubelet-pki",
        }
        if self.options.node_taint:
            arguments["register-with-taints"] = ",".join(self.options.node_taint)
        return self._program("kubelet", "kubelet", arguments, self.options.kubelet_arg)

    def proxy(self) -> Program:
        """kube-proxy.  conntrack's limit is read-only in all network namespaces but the first: left there."""
        arguments: dict[str, object] = {
            "cluster-cidr": self.options.cluster_cidr,
            "healthz-bind-address": "127.0.0.1:10256",
            "hostname-override": self.options.node_name,
            "kubeconfig": self.cred / "kubeproxy.kubeconfig",
            "proxy-mode": "iptables",
        }
        if not os.access("/proc/sys/net/netfilter/nf_conntrack_max", os.W_OK):
            arguments |= {
                "conntrack-max-per-core": 0,
                "conntrack-tcp-timeout-close-wait": 0,
                "conntrack-tcp-timeout-established": 0,
            }
        return self._program("kube-proxy", "kube-proxy", arguments, self.options.kube_proxy_arg)

    def _program(self, name: str, binary: str, arguments: dict[str, object], extra: list[str]) -> Program:
        """Arguments of ours, then the user's ``name=value``, of which the last one counts, as with k3s."""
        flags = [f"--{key}={value}" for key, value in arguments.items()]
        flags += [f"--{argument.removeprefix('--')}" for argument in extra]
        return Program(name, [str(self.payload / "bin" / binary), *flags])


def pod_cidr(cluster_cidr: str) -> str:
    """The first node's range: the first /24."""
    return str(next(ipaddress.ip_network(cluster_cidr).subnets(new_prefix=24)))


def _kubeconfig(cluster: dict[str, str], user: dict[str, str]) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default", "cluster": cluster}],
        "users": [{"name": "default", "user": user}],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
        "current-context": "default",
    }


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    os.fchmod(descriptor, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
