"""Tar files that depend on nothing but the content: sorted names, one fixed time, no user names."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

EPOCH_S = 1_700_000_000  # one fixed time for all files: an image must not change because it was built again


def write_tar(
    target: Path,
    roots: Iterable[tuple[Path, str]],
    *,
    skip: Callable[[str], bool] = lambda name: False,
    rename: Callable[[str], str] = lambda name: name,
    plain_modes: bool = False,
    writable: Iterable[str] = (),
) -> None:
    """Write trees or files to a tar: `roots` are pairs of a source and where it goes (`/` or a path).

    `rename` gives each name its place in the tar, `skip` is asked with that. `plain_modes` keeps of the modes
    only whether a file is executable (in a work tree the others depend on the umask). `writable` are
    directories to make with mode 0777.
    """
    entries: dict[str, Path | None] = {}
    for source, place in roots:
        base = place.strip("/")
        if source.is_dir() and not source.is_symlink():
            if base:
                _enter(entries, rename(base), None)
            for path in walk_all(source):
                _enter(entries, rename(f"{base}/{path.relative_to(source)}".lstrip("/")), path)
        else:
            _enter(entries, rename(base), source)
    open_to_all = {rename(place.strip("/")) for place in writable}
    for place in open_to_all:
        _enter(entries, place, None)
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted(entries):
            if not skip(name):
                _add(tar, name, entries[name], plain_modes, 0o777 if name in open_to_all else 0o755)


def walk_all(root: Path) -> list[Path]:
    """Everything below a directory, compiled Python included, sorted."""
    return sorted(root.rglob("*"))


def _enter(entries: dict[str, Path | None], name: str, source: Path | None) -> None:
    for parent in Path(name).parents:
        if str(parent) != ".":
            entries.setdefault(str(parent), None)
    if source is None:
        entries.setdefault(name, None)
    else:
        entries[name] = source


def _add(
    tar: tarfile.TarFile, name: str, source: Path | None, plain_modes: bool, directory: int = 0o755
) -> None:
    if source is None:
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, directory
    else:
        info = tar.gettarinfo(source, name)
        if info.islnk():  # hard links within the source: store each as a file of its own
            info.type, info.linkname, info.size = tarfile.REGTYPE, "", source.stat().st_size
        if plain_modes and not info.issym():
            info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
        if plain_modes:
            info.uid = info.gid = 0
    info.mtime, info.uname, info.gname = EPOCH_S, "", ""
    if info.isreg():
        assert source is not None
        with source.open("rb") as stream:
            tar.addfile(info, stream)
    else:
        tar.addfile(info)
