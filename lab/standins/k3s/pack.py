"""Pack the k3s stand-in into the one executable file that k3s is.

The file is a shebang line and an uncompressed zip: Python runs it as it is, and the launcher copies its
payload out into ``<data-dir>/data/<hash>``, as k3s does.  Uncompressed: that happens at each first start.

    python -m lab.standins.k3s.pack --out k3s --debian-root ROOT --kubernetes FILE --certs FILE \\
        --version v1.28.15+lab1 --commit 0a1b2c3d --go-version go1.26.6
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from pathlib import Path

#: The Debian packages whose files are taken from ``debian_root``.
DEBIAN_PACKAGES = (
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iptables",
    "conntrack",
    "libseccomp2",
    "libmnl0",
    "libnftnl11",
    "libxtables12",
    "libip4tc2",
    "libip6tc2",
    "libnfnetlink0",
    "libnetfilter-conntrack3",
)
_BIN = {
    "containerd": "usr/bin/containerd",
    "containerd-shim-runc-v2": "usr/bin/containerd-shim-runc-v2",
    "ctr": "usr/bin/ctr",
    "runc": "usr/sbin/runc",
    "conntrack": "usr/sbin/conntrack",
    "xtables-nft-multi": "usr/sbin/xtables-nft-multi",
    "xtables-legacy-multi": "usr/sbin/xtables-legacy-multi",
}
_CNI = ("bridge", "host-local", "loopback", "portmap", "bandwidth", "firewall")
_KUBERNETES = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)
_SHEBANG = b"#!/usr/bin/env -S python3 -I\n"  # -I: nobody's PYTHONPATH is any of the launcher's business
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say; equal inputs give equal files


def pack(
    out: Path,
    *,
    debian_root: Path,
    kubernetes: Path,
    certs: Path,
    yaml_package: Path,
    version: str,
    commit: str,
    go_version: str,
) -> None:
    """Write the executable ``out``.

    debian_root: a directory into which ``DEBIAN_PACKAGES`` were extracted; kubernetes: the multi-call binary;
    certs: the built ``certs`` program; yaml_package: the directory ``yaml`` of PyYAML.
    Raises FileNotFoundError naming a missing input.
    """
    payload = _payload(debian_root, kubernetes, certs)
    meta = {
        "version": version,
        "commit": commit,
        "go": go_version,
        "hash": _digest(payload),
        "links": {f"bin/{name}": "kubernetes" for name in _KUBERNETES},
    }
    part = out.with_name(out.name + ".part")
    with open(part, "wb") as file:
        file.write(_SHEBANG)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for source in sorted((Path(__file__).parent / "launcher").rglob("*")):
                if source.suffix in {".py", ".yaml"}:
                    name = source.relative_to(Path(__file__).parent).as_posix()
                    _add(archive, name, source.read_bytes(), 0o644)
            _add(archive, "__main__.py", b"from launcher.cli import main\n\nmain()\n", 0o644)
            for source in sorted(yaml_package.glob("*.py")):
                _add(archive, f"yaml/{source.name}", source.read_bytes(), 0o644)
            _add(archive, "payload.json", json.dumps(meta, sort_keys=True).encode(), 0o644)
            for name, source in sorted(payload.items()):
                _add(archive, f"payload/{name}", source.read_bytes(), 0o755)
    part.chmod(0o755)
    part.replace(out)


def _payload(debian_root: Path, kubernetes: Path, certs: Path) -> dict[str, Path]:
    files = {"bin/kubernetes": kubernetes, "bin/k3s-certs": certs}
    files |= {f"bin/{name}": debian_root / path for name, path in _BIN.items()}
    files |= {f"bin/{name}": debian_root / "usr/lib/cni" / name for name in _CNI}
    libraries = debian_root / "usr/lib/x86_64-linux-gnu"
    for library in sorted(libraries.glob("lib*.so.*")):
        # the soname's link, resolved: "libmnl.so.0", not "libmnl.so.0.2.0"
        if library.is_symlink():
            files[f"lib/{library.name}"] = library.resolve()
    files |= {f"lib/xtables/{module.name}": module for module in sorted((libraries / "xtables").glob("*.so"))}
    for name, source in files.items():
        if not source.is_file():
            raise FileNotFoundError(f"{name} of the k3s stand-in is missing: {source}")
    return files


def _digest(payload: dict[str, Path]) -> str:
    """What the payload's directory is named after: changes with any file in it."""
    total = hashlib.sha256()
    for name, source in sorted(payload.items()):
        with open(source, "rb") as file:
            total.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _add(archive: zipfile.ZipFile, name: str, data: bytes, mode: int) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = mode << 16
    archive.writestr(info, data)


def main() -> None:
    """Pack by hand."""
    parser = argparse.ArgumentParser(description="Pack the k3s stand-in into one executable file.")
    for name in ("out", "debian-root", "kubernetes", "certs"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--yaml-package", type=Path)
    for name in ("version", "commit", "go-version"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    if options.yaml_package is None:
        import yaml

        options.yaml_package = Path(yaml.__file__).parent
    pack(**vars(options))


if __name__ == "__main__":
    main()
