"""What `--cluster kind` needs where no registry of images is within reach: kind, and a node image."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.artifacts.storage import sha256_file
from lab import debian
from lab.gobuild import ENVIRONMENT, find_go, go_step
from lab.images import CREATED, PATH
from lab.steps import BuildStep, Work
from lab.tars import write_tar

HERE = Path(__file__).parent
GO = HERE.parent / "go"
NODE = (  # what kind's own image installs, as far as nodes here use it
    "systemd", "dbus", "bash", "dash", "coreutils", "sed", "grep", "mawk", "findutils", "util-linux", "mount",
    "iproute2", "iptables", "conntrack", "ethtool", "socat", "kmod", "procps", "hostname", "tar", "gzip",
    "jq", "containerd", "runc", "containernetworking-plugins", "ca-certificates", "libc-bin", "dpkg",
    "debianutils", "base-files", "base-passwd",
)  # fmt: skip
PROXY = ("iptables", "conntrack", "kmod", "libc-bin")
"""What kube-proxy calls in its own image."""
_LEFT_OUT = tuple(it for it in debian.LEFT_OUT if "systemd" not in it)
_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "etcd")
_KIND = "sigs.k8s.io/kind"
_KUBEADM = "k8s.io/kubernetes/cmd/kubeadm"
_ENABLED = ("kubelet", "containerd", "undo-mount-hacks", "import-images")
_IN_CONTAINER = "lib/systemd/system"
_UNWANTED = (
    "sysinit.target.wants/systemd-tmpfiles-setup.service", "multi-user.target.wants/*",
    "local-fs.target.wants/*", "sockets.target.wants/*udev*", "sockets.target.wants/*initctl*",
    "basic.target.wants/*",
)  # fmt: skip
"""Units that kind's image takes out: they are a machine's, not a container's."""
_FOLDERS = {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700} | dict.fromkeys(
    ("run", "proc", "sys", "dev", "var/log"), 0o755
)
_ACCOUNTS = "messagebus:x:100:101::/nonexistent:/usr/sbin/nologin\n"
_GROUPS = "messagebus:x:101:\nsystemd-journal:x:102:\n"


def steps(kubernetes: BuildStep, pause: BuildStep, version: str, go: Path) -> dict[str, BuildStep]:
    """Steps that an image.toml may take files from: kind itself, and the node image's root."""
    kind = go_step("kind", GO / "kind", {"kind": _KIND}, go=go)
    stamps = {"k8s.io/component-base/version.gitVersion": version}
    kubeadm = go_step(
        "kubeadm", GO / "kubeadm", {"kubeadm": _KUBEADM}, go=go, stamps=stamps, tags=["providerless"],
        after=[kubernetes],
    )  # fmt: skip
    node = BuildStep(
        "kind node",
        _node,
        params={"version": version},
        sources=[HERE / "node", GO / "kind", GO / "kubeadm"],
        needs=[
            debian.closure_step("kind node", NODE),
            debian.closure_step("kube-proxy", PROXY),
            kubernetes,
            kubeadm,
            pause,
        ],
    )
    return {"step:kind": kind, "step:kind-node": node}


def _node(work: Work) -> None:
    debs, proxy_debs, kubernetes, kubeadm, pause = (work.path(need) for need in work.step.needs)
    files = work.step.sources[0] / "files"
    root = work.out / "root"
    root.mkdir()
    debian.unpack(work, debs, root, left_out=_LEFT_OUT)
    shutil.copytree(
        _module(work, work.step.sources[1], _KIND) / "images/base/files", root, dirs_exist_ok=True
    )
    for path in root.rglob("*"):  # the module cache is read-only
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o200)
    images = _images_of(_module(work, work.step.sources[2], "k8s.io/kubernetes"))
    _accounts(root)
    _units(root, files)
    text = (files / "containerd.toml").read_text().replace("@pause@", images["pause"])
    (root / "etc/containerd/config.toml").write_text(text)
    (root / "etc/default/kubelet").write_text(
        "KUBELET_EXTRA_ARGS=--runtime-cgroups=/system.slice/containerd.service --oom-score-adj=0\n"
    )
    (root / "etc/cni/net.d").mkdir(parents=True, exist_ok=True)
    shutil.copy(files / "bridge.conflist", root / "etc/cni/net.d/10-lab.conflist")
    manifests = root / "kind/manifests"
    manifests.mkdir(parents=True)
    for name in ("default-cni.yaml", "default-storage.yaml"):
        shutil.copy(files / name, manifests / name)
    (root / "kind/version").write_text(work.step.params["version"])
    shutil.copy(kubernetes / "kubernetes", root / "usr/local/bin/kubernetes")
    shutil.copy(kubeadm / "kubeadm", root / "usr/bin/kubeadm")
    for name in ("kubelet", "kubectl"):
        (root / "usr/bin" / name).symlink_to("/usr/local/bin/kubernetes")
    for name in ("containerd", "ctr"):
        (root / "usr/local/bin" / name).symlink_to(f"/usr/bin/{name}")
    (root / "usr/sbin/init").symlink_to("/usr/lib/systemd/systemd")
    (root / "etc/kubernetes/manifests").mkdir(parents=True)
    for script in [*(root / "usr/local/bin").iterdir(), *(root / "kind/bin").iterdir()]:
        if not script.is_symlink():
            script.chmod(0o755)
    _alternatives(work, root)
    _control_plane(work, proxy_debs, kubernetes, pause, images, root / "kind/images/control-plane.tar")


def _module(work: Work, place: Path, name: str) -> Path:
    """Where Go keeps a module's files."""
    listed = work.run(
        [find_go(), "mod", "download", "-json", f"{name}@{_version_of(place, name)}"],
        env=ENVIRONMENT,
        cwd=place,
    )
    return Path(json.loads(listed)["Dir"])


def _version_of(place: Path, name: str) -> str:
    found = re.search(rf"^(?:require)?\s*{re.escape(name)} (v\S+)", (place / "go.mod").read_text(), re.M)
    assert found, f"{place}/go.mod does not name {name}"
    return found[1]


def _images_of(kubernetes: Path) -> dict[str, str]:
    """Tags of the images that this kubeadm asks for beside Kubernetes' own."""
    text = (kubernetes / "cmd/kubeadm/app/constants/constants.go").read_text()
    names = {"etcd": "DefaultEtcdVersion", "coredns": "CoreDNSVersion", "pause": "PauseVersion"}
    found = {}
    for image, constant in names.items():
        value = re.search(rf'^\s*{constant}\s*=\s*"([^"]+)"', text, re.M)
        assert value, f"kubeadm has no constant {constant}"
        found[image] = value[1]
    return found


def _accounts(root: Path) -> None:
    """What install scripts, which are not run, would make."""
    masters = root / "usr/share/base-passwd"
    for name, more in (("passwd", _ACCOUNTS), ("group", _GROUPS)):
        text = (masters / f"{name}.master").read_text().replace(":*:", ":x:")
        (root / "etc" / name).write_text(text + more)
    for folder, mode in _FOLDERS.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder).chmod(mode)
    for link, target in (
        ("usr/bin/awk", "mawk"),
        ("usr/bin/sh", "dash"),
        ("usr/bin/which", "which.debianutils"),
    ):
        if not (root / link).exists() and not (root / link).is_symlink():
            (root / link).symlink_to(target)
    found = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text("".join(it.read_text().rstrip() + "\n" for it in found))


def _units(root: Path, files: Path) -> None:
    """Enable what kind's image enables, and take out what it takes out."""
    for pattern in _UNWANTED:
        for path in (root / "usr" / _IN_CONTAINER).glob(pattern):
            path.unlink()
    own = root / "etc/systemd/system"
    shutil.copy(files / "import-images.service", own)
    wanted = own / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    for name in _ENABLED:
        (wanted / f"{name}.service").symlink_to(f"/etc/systemd/system/{name}.service")
    (own / "systemd-binfmt.service").symlink_to("/dev/null")
    (own / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    with (root / "etc/systemd/journald.conf").open("a") as settings:
        settings.write("ReadKMsg=no\n")


def _alternatives(work: Work, root: Path) -> None:
    """Both iptables as alternatives, between which kind's entry point chooses."""
    (root / "var/lib/dpkg/alternatives").mkdir(parents=True, exist_ok=True)
    (root / "etc/alternatives").mkdir(parents=True, exist_ok=True)
    for flavour, priority in (("nft", "20"), ("legacy", "10")):
        for family in ("iptables", "ip6tables"):
            slaves = [
                part
                for tool in ("save", "restore")
                for part in ("--slave", f"/usr/sbin/{family}-{tool}", f"{family}-{tool}",
                             f"/usr/sbin/{family}-{flavour}-{tool}")
            ]  # fmt: skip
            work.run(
                ["update-alternatives", "--root", root, "--install", f"/usr/sbin/{family}", family,
                 f"/usr/sbin/{family}-{flavour}", priority, *slaves]
            )  # fmt: skip


def _control_plane(
    work: Work, debs: Path, kubernetes: Path, pause: Path, images: Mapping[str, str], target: Path
) -> None:
    """The images that kubeadm asks for, as `docker save` writes them: one layer, which has all programs."""
    root = work.scratch("control-plane")
    debian.unpack(work, debs, root)
    for name in (
        "iptables",
        "ip6tables",
        "iptables-save",
        "iptables-restore",
        "ip6tables-save",
        "ip6tables-restore",
    ):
        (root / "usr/sbin" / name).symlink_to("xtables-nft-multi")
    (root / "usr/local/bin").mkdir(parents=True)
    shutil.copy(kubernetes / "kubernetes", root / "usr/local/bin/kubernetes")
    for name in _PROGRAMS:
        (root / "usr/local/bin" / name).symlink_to("kubernetes")
    shutil.copy(kubernetes / "coredns", root / "coredns")
    shutil.copy(pause / "pause", root / "pause")
    archive = work.scratch("archive")
    write_tar(archive / "layer.tar", [(root, "/")], skip=lambda name: False)
    shutil.rmtree(root)
    digest = sha256_file(archive / "layer.tar")
    tag = work.step.params["version"].replace("+", "_")
    named: dict[str, list[str]] = {f"registry.k8s.io/{it}:{tag}": [] for it in _PROGRAMS if it != "etcd"}
    named[f"registry.k8s.io/etcd:{images['etcd']}"] = []
    named[f"registry.k8s.io/coredns/coredns:{images['coredns']}"] = ["/coredns"]
    named[f"registry.k8s.io/pause:{images['pause']}"] = ["/pause"]
    listed = []
    for number, (ref, entrypoint) in enumerate(named.items()):
        config: dict[str, Any] = {"Env": [f"PATH={PATH}"]}
        if entrypoint:
            config["Entrypoint"] = entrypoint
        document = {
            "architecture": "amd64",
            "os": "linux",
            "created": CREATED,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created": CREATED, "created_by": f"lab {ref}"}],
        }
        (archive / f"{number}.json").write_text(json.dumps(document, sort_keys=True))
        listed.append({"Config": f"{number}.json", "RepoTags": [ref], "Layers": ["layer.tar"]})
    (archive / "manifest.json").write_text(json.dumps(listed))
    target.parent.mkdir(parents=True)
    write_tar(target, [(archive, "/")])
    shutil.rmtree(archive)
