"""Image layers: Debian packages unpacked, Python wheels, busybox, put into one deterministic tar each."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab import debian
from lab.errors import LabError
from lab.steps import BuildStep, Work
from lab.tars import write_tar

IMAGES = Path(__file__).parent / "images"
KEYS = {"on", "packages", "without", "only", "drop", "wheels", "links", "keep"}
KEYS |= {"python", "system", "busybox", "certificates"}
WHEELS_AT = "usr/local/lib/python3.11/dist-packages"
PYTHON_VERSION = "3.11"  # Debian 12's; the wheels are chosen for it

PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"


def layer_steps() -> dict[str, BuildStep]:
    """The step of every layer in `images/layers.toml`; it makes `layer.tar` and `packages.json`."""
    definitions: dict[str, dict[str, Any]] = tomllib.loads((IMAGES / "layers.toml").read_text())
    steps: dict[str, BuildStep] = {}
    for name, definition in definitions.items():
        if unknown := sorted(definition.keys() - KEYS):
            raise LabError(f"images/layers.toml: unknown field {unknown[0]!r} in layer {name!r}")
        steps[name] = _layer_step(name, definition, definitions, steps)
    return steps


def _layer_step(
    name: str,
    definition: Mapping[str, Any],
    definitions: Mapping[str, Mapping[str, Any]],
    steps: Mapping[str, BuildStep],
) -> BuildStep:
    needs = [steps[below] for below in definition.get("on", [])]
    if definition.get("packages"):
        beneath = [p for below in definition.get("on", []) for p in definitions[below].get("packages", [])]
        needs.append(debian.closure_step(name, definition["packages"], beneath=beneath))
    sources = [IMAGES / definition["wheels"]] if "wheels" in definition else []
    return BuildStep(
        f"layer {name}", _build, params={"layer": dict(definition)}, sources=sources, needs=needs
    )


def _build(work: Work) -> None:
    layer = work.step.params["layer"]
    root = work.out / "root"
    root.mkdir()
    debian.prepare_merged(root)
    closures = [need for need in work.step.needs if need.name.startswith("debian packages")]
    packages = []
    for need in closures:
        closure = work.path(need)
        debian.unpack(work, closure, root, only=layer.get("only", ()), without=layer.get("without", ()))
        packages += debian.chosen(closure, layer.get("only", ()), layer.get("without", ()))
    (work.out / "packages.json").write_text(json.dumps(packages))
    for pattern in layer.get("drop", ()):
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if layer.get("busybox"):
        _busybox_links(root)
    if layer.get("system"):
        _system_files(root)
    if layer.get("certificates"):
        _host_certificates(root)
    if "wheels" in layer:
        _install_wheels(work, root, work.step.sources[0])
        shutil.copy(work.step.sources[0], work.out / "wheels.txt")
    if layer.get("python"):
        compile_python(work, root, root / "usr/lib" / f"python{PYTHON_VERSION}", "/usr/lib")
    for link, target in layer.get("links", {}).items():
        place = root / link.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(target)
    # the links of /bin and the like are in the lowest layer only
    upper = bool(layer.get("on"))
    write_tar(work.out / "layer.tar", [(root, "/")], skip=lambda name: upper and name in debian.MERGED)
    if not layer.get("keep"):  # its tree is in the tar; twice would cost a gigabyte for all layers
        shutil.rmtree(root)


def _busybox_links(root: Path) -> None:
    busybox = root / "bin/busybox"
    listed = subprocess.run([busybox, "--list-full"], capture_output=True, text=True, check=True).stdout
    for applet in listed.split():
        place = root / (applet if "/" in applet else f"usr/bin/{applet}")
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists() and not place.is_symlink():
            place.symlink_to("/bin/busybox")


def _system_files(root: Path) -> None:
    """What install scripts, which are not run, would make: users, scratch directories, certificates."""
    masters = root / "usr/share/base-passwd"
    for name, fallback in (("passwd", PASSWD), ("group", GROUP)):
        target, master = root / "etc" / name, masters / f"{name}.master"
        target.parent.mkdir(exist_ok=True)
        target.write_text(master.read_text().replace(":*:", ":x:") if master.exists() else fallback)
    for folder, mode in (
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
        ("root", 0o700),
        ("home", 0o755),
        ("run", 0o755),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder).chmod(mode)
    if (root / "usr/bin/mawk").exists():
        (root / "usr/bin/awk").symlink_to("mawk")
    if (root / "usr/bin/dash").exists() and not (root / "usr/bin/sh").is_symlink():
        (root / "usr/bin/sh").symlink_to("dash")
    found = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    if found:
        _write_certificates(root, "".join(c.read_text().rstrip() + "\n" for c in found))


def _host_certificates(root: Path) -> None:
    # programs without a base layer: the same list of authorities as the machine that builds
    _write_certificates(root, Path("/etc/ssl/certs/ca-certificates.crt").read_text())


def _write_certificates(root: Path, content: str) -> None:
    target = root / "etc/ssl/certs/ca-certificates.crt"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content)


def _install_wheels(work: Work, root: Path, requirements: Path) -> None:
    target = root / WHEELS_AT
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (36, 34, 28, 17)] + ["manylinux2014_x86_64"]
    if shutil.which("uv"):
        command = [
            "uv",
            "pip",
            "install",
            "--python-platform",
            "x86_64-manylinux_2_28",
            "--no-installer-metadata",
        ]
    else:
        command = [sys.executable, "-m", "pip", "install", "--no-compile", "--implementation", "cp"]
        command += [part for platform in platforms for part in ("--platform", platform)]
    work.run(
        [*command, "--python-version", PYTHON_VERSION, "--only-binary", ":all:", "--no-deps",
         "--target", target, "-r", requirements]
    )  # fmt: skip
    for unused in (*target.rglob("tests"), target / "bin", target / "kubernetes/docs"):
        shutil.rmtree(unused, ignore_errors=True)
    base = next(need for need in work.step.needs if need.name == "layer base")
    compile_python(work, work.path(base) / "root", target, f"/{WHEELS_AT}")


def compile_python(work: Work, python_root: Path, tree: Path, place: str) -> None:
    """Compile a tree by the image's own interpreter: a container can't write caches, and is slow without."""
    libraries = python_root / "usr/lib/x86_64-linux-gnu"
    loader = python_root / "usr/lib64/ld-linux-x86-64.so.2"
    if loader.is_symlink() and not loader.exists():
        loader = libraries / "ld-linux-x86-64.so.2"
    work.run(
        [loader, "--library-path", libraries, python_root / f"usr/bin/python{PYTHON_VERSION}",
         "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", tree, "-p", place, tree],
        env={"PYTHONHOME": str(python_root / "usr"), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"},
    )  # fmt: skip
