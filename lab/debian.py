"""Debian packages: resolved and fetched by the machine's own apt, unpacked without installing anything.

apt is given an empty list of installed packages, so that it names the whole closure; it checks what it
fetches against the signed lists that the machine has.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.errors import CommandFailed, LabError
from lab.steps import BuildStep, Work

APT_STATE = Path("/var/lib/apt/lists")
# documentation, translations and what only a package manager reads: none of it is used inside a container
LEFT_OUT = (
    "./usr/share/doc", "./usr/share/man", "./usr/share/info", "./usr/share/locale", "./usr/share/lintian",
    "./usr/share/bash-completion", "./usr/share/zsh", "./usr/share/fish", "./usr/share/bug",
    "./usr/share/gitweb", "./usr/share/perl5", "./etc/init.d", "./etc/cron.*", "./lib/systemd/system",
    "./usr/lib/systemd", "./var/lib/dpkg", "./var/cache", "./usr/share/common-licenses", "./usr/share/i18n",
)  # fmt: skip
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
URI_LINE = re.compile(r"^'[^']+' (?P<file>\S+) (?P<size>\d+)")


def closure_step(name: str, packages: Sequence[str], *, beneath: Sequence[str] = ()) -> BuildStep:
    """A step that fetches packages with all they need; those that `beneath` brings are left out.

    Its result: `packages.json`, a list of {name, version, file}, and the package files in `debs/`.
    """
    return BuildStep(
        f"debian packages {name}",
        _fetch,
        params={"packages": list(packages), "beneath": list(beneath), "lists": _lists_state()},
    )


def read_packages(result: Path) -> list[dict[str, str]]:
    """The packages of a closure step's result."""
    packages: list[dict[str, str]] = json.loads((result / "packages.json").read_text())
    return packages


def chosen(closure: Path, only: Sequence[str], without: Sequence[str]) -> list[dict[str, str]]:
    """The packages of a closure that are in `only` (none given: all) and not in `without`."""
    return [
        package
        for package in read_packages(closure)
        if package["name"] not in without and (not only or package["name"] in only)
    ]


def unpack(
    work: Work,
    closure: Path,
    root: Path,
    *,
    only: Sequence[str] = (),
    without: Sequence[str] = (),
    left_out: Sequence[str] = LEFT_OUT,
) -> None:
    """Unpack a closure's packages into `root`, with /bin and the like merged into /usr as in Debian 12."""
    prepare_merged(root)
    for package in chosen(closure, only, without):
        archive = closure / "debs" / package["file"]
        tar = work.scratch("deb") / "data.tar"
        with tar.open("wb") as stream:
            done = subprocess.run(
                ["dpkg-deb", "--fsys-tarfile", archive], stdout=stream, stderr=subprocess.PIPE, check=False
            )
        if done.returncode:
            raise CommandFailed(work.step.name, "dpkg-deb", done.returncode, done.stderr.decode(), work.log)
        excludes = [f"--exclude={pattern}" for pattern in left_out]
        work.run(["tar", "-xp", "--keep-directory-symlink", *excludes, "-C", root, "-f", tar])
    shutil.rmtree(work.out.with_name(work.out.name + ".deb"), ignore_errors=True)


def prepare_merged(root: Path) -> None:
    """/bin, /sbin, /lib… as links into /usr, which no package of Debian 12 brings itself."""
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")


def merged(name: str) -> str:
    """Where a path lies once /bin and the like are links into /usr: `bin/x` is `usr/bin/x`."""
    return f"usr/{name}" if name.split("/")[0] in MERGED else name


def versions(packages: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Package name → version."""
    return {package["name"]: package["version"] for package in packages}


def _fetch(work: Work) -> None:
    packages, beneath = work.step.params["packages"], work.step.params["beneath"]
    archives = work.cache / "debs"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    options = _apt_options(work, archives)
    below = set(_resolve(work, options, beneath)) if beneath else set()
    wanted = [f for f in _resolve(work, options, [*beneath, *packages]) if f not in below]
    work.run(["apt-get", *options, "-y", "--download-only", "install", *beneath, *packages])
    (work.out / "debs").mkdir()
    found = []
    for file in wanted:
        os.link(archives / file, work.out / "debs" / file)  # one copy for all closures
        name, version, _ = file.removesuffix(".deb").split("_")
        found.append({"name": name, "version": version.replace("%3a", ":"), "file": file})
    (work.out / "packages.json").write_text(json.dumps(found, indent=1))


def _resolve(work: Work, options: Sequence[str], packages: Sequence[str]) -> list[str]:
    # with an empty archive: apt names only what it would still have to fetch
    empty = f"Dir::Cache::archives={work.scratch('archives')}"
    out = work.run(["apt-get", *options, "-o", empty, "-y", "--print-uris", "install", *packages])
    files = [match["file"] for line in out.splitlines() if (match := URI_LINE.match(line))]
    if not files:
        raise LabError(f"apt names no package for {', '.join(packages)}", "run `apt-get update`")
    return files


def _apt_options(work: Work, archives: Path) -> list[str]:
    nothing_installed = work.scratch("apt") / "status"
    nothing_installed.touch()
    settings = {
        "Dir::State::status": nothing_installed,
        "Dir::Cache::archives": archives,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",  # apt's own user cannot read a home directory's cache
        "Debug::NoLocking": "true",
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


def _lists_state() -> list[str]:
    # apt's package lists decide which versions are chosen; sizes and times stand for their content
    if not APT_STATE.is_dir():
        return []
    return [
        f"{p.name} {p.stat().st_size} {int(p.stat().st_mtime)}"
        for p in sorted(APT_STATE.iterdir())
        if p.name.endswith("Release") or "_Packages" in p.name
    ]
