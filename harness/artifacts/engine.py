"""A Docker engine for the node, out of a docker:…-dind image.

The tar has what harness.cluster wants of an engine: a ``dockerd`` in usr/sbin. It is a script that runs the
image's dockerd with the image as its root directory, so that nothing of the host but its kernel is needed.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from harness.errors import EnvironmentProblem

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_FROM_THE_NODE = ("dev", "proc", "sys", "run", "etc/docker", "var/lib/docker")
"""Directories of the node that the engine works with; all else is the image's."""

DOCKERD = """\
#!/bin/sh
# Runs dockerd with the image's files as its root directory, as a process of this node and in its network.
set -e
engine=$(cd "$(dirname "$0")/../.." && pwd)
exec unshare --mount --propagation slave sh "$engine/usr/libexec/enter" "$engine/image" "$@"
"""
_ENTER = f"""\
set -e
root=$1
shift
mount --bind "$root" "$root"
mkdir -p "$root/tmp" "$root/usr/local/sbin" "$root/.node"
for directory in {" ".join(_FROM_THE_NODE)}; do
    mkdir -p "$root/$directory" "/$directory"
    mount --rbind "/$directory" "$root/$directory"
done
if [ ! -L "$root/var/run" ]; then
    mkdir -p "$root/var/run"
    mount --rbind /run "$root/var/run"
fi
for file in etc/resolv.conf etc/hosts; do
    rm -f "$root/$file"
    cp -L "/$file" "$root/$file"
done
cd "$root"
pivot_root . .node
unset TMPDIR LD_LIBRARY_PATH XTABLES_LIBDIR
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec chroot . /bin/sh /.start-engine "$@"
"""
# Old images prefer the legacy iptables, which a new kernel may not know.
_START = """\
umount -l /.node
if ! iptables -nL >/dev/null 2>&1; then
    for kind in nft legacy; do
        if iptables-$kind -nL >/dev/null 2>&1; then
            for name in iptables ip6tables; do
                ln -sf "$(command -v $name-$kind)" /usr/local/sbin/$name
            done
            break
        fi
    done
fi
exec dockerd "$@"
"""
_SCRIPTS = {
    "usr/sbin/dockerd": DOCKERD,
    "usr/libexec/enter": _ENTER,
    "image/.start-engine": _START,
}


def file_name(digest: str) -> str:
    """A name for the engine made of an image: changes with the image, and with the scripts here."""
    scripts = hashlib.sha256("".join(_SCRIPTS.values()).encode()).hexdigest()
    return f"{digest.removeprefix('sha256:')[:32]}-{scripts[:8]}.tar"


def write_engine(layers: Sequence[Path], target: Path, what: str) -> None:
    """Write the tar ``target`` from an image's layers, lowest first; ``what`` names the image in errors.

    Raises EnvironmentProblem for an image without dockerd, or with layers that can't be read.
    """
    part = target.with_name(f".{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        owner = _owners(layers)
        if not any(path.endswith("bin/dockerd") for path in owner):
            raise EnvironmentProblem(f"the image {what} has no dockerd", "it must be one of docker:…-dind")
        with tarfile.open(part, "w") as out:
            for number, layer in enumerate(layers):
                _add_layer(out, layer, number, owner)
            for name, text in _SCRIPTS.items():
                _add_script(out, name, text)
        part.replace(target)
    except tarfile.TarError as error:
        raise EnvironmentProblem(
            f"a layer of {what} can't be read: {str(error).partition(':')[0]}",
            "is it compressed in a way that this Python does not know (zstd)?",
        ) from None
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _owners(layers: Sequence[Path]) -> dict[str, int]:
    """Path in the image → number of the layer whose file is seen there."""
    owner: dict[str, int] = {}
    for number, layer in enumerate(layers):
        hidden: list[str] = []
        found: list[str] = []
        with tarfile.open(layer) as archive:
            for member in archive:
                path = PurePosixPath(_clean(member.name))
                if path.name == _OPAQUE:
                    hidden.append(str(path.parent))
                elif path.name.startswith(_WHITEOUT):
                    hidden.append(str(path.with_name(path.name.removeprefix(_WHITEOUT))))
                else:
                    found.append(str(path))
        for gone in hidden:
            for seen in [it for it in owner if it == gone or it.startswith(f"{gone}/")]:
                del owner[seen]
        owner |= dict.fromkeys(found, number)
    return owner


def _add_layer(out: tarfile.TarFile, layer: Path, number: int, owner: Mapping[str, int]) -> None:
    """The layer's files that the image shows, below image/; devices are the node's."""
    with tarfile.open(layer) as archive:
        for member in archive:
            name = _clean(member.name)
            if owner.get(name) != number or name == "." or member.isdev() or name.startswith("dev/"):
                continue
            content = archive.extractfile(member) if member.isreg() else None
            member.name = f"image/{name}"
            if member.islnk():
                member.linkname = f"image/{_clean(member.linkname)}"
            out.addfile(member, content)


def _add_script(out: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text.encode()), 0o755
    out.addfile(member, io.BytesIO(text.encode()))


def _clean(name: str) -> str:
    """``./usr/bin/`` → ``usr/bin``; a name that climbs out of the image is cut to its own."""
    parts = [part for part in PurePosixPath(name.lstrip("/")).parts if part != ".."]
    return "/".join(parts) or "."
