"""The Docker engine made of an image: what its layers show, below image/, and the way into it."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.artifacts import engine
from harness.errors import EnvironmentProblem

LINK, DEVICE = object(), object()


def layer(path: Path, entries: Mapping[str, str | object]) -> Path:
    """A gzipped layer: name → content, a hard link to usr/local/bin/dockerd, or a device."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            if content is LINK:
                member.type, member.linkname = tarfile.LNKTYPE, "./usr/local/bin/dockerd"
            elif content is DEVICE:
                member.type = tarfile.CHRTYPE
            text = content.encode() if isinstance(content, str) else b""
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return path


def test_the_image_is_what_its_layers_show(tmp_path: Path) -> None:
    layers = [
        layer(
            tmp_path / "0",
            {
                "./usr/local/bin/dockerd": "old",
                "etc/gone": "x",
                "etc/dir/inside": "x",
                "var/cache/a": "x",
                "etc/kept": "kept",
                "dev/null": DEVICE,
            },
        ),
        layer(
            tmp_path / "1",
            {
                "usr/local/bin/dockerd": "new",
                "usr/local/bin/docker-link": LINK,
                "etc/.wh.gone": "",
                "etc/.wh.dir": "",
                "var/cache/.wh..wh..opq": "",
                "var/cache/b": "b",
                "../outside": "o",
            },
        ),
    ]
    engine.write_engine(layers, tmp_path / "engine.tar", "docker:1-dind")
    with tarfile.open(tmp_path / "engine.tar") as archive:
        names = {name for name in archive.getnames() if name.startswith("image/") and ".start" not in name}
        dockerd = archive.extractfile("image/usr/local/bin/dockerd")
        assert dockerd is not None
        assert dockerd.read() == b"new"
        assert archive.getmember("image/usr/local/bin/docker-link").linkname == "image/usr/local/bin/dockerd"
        assert archive.getmember("usr/sbin/dockerd").mode & 0o111
    assert names == {
        "image/usr/local/bin/dockerd",
        "image/usr/local/bin/docker-link",
        "image/etc/kept",
        "image/var/cache/b",
        "image/outside",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "engine.tar"]


@pytest.mark.parametrize("content", [{"usr/bin/docker": "no daemon"}, None], ids=["no daemon", "no tar"])
def test_an_image_of_no_use_is_named_and_leaves_nothing(
    tmp_path: Path, content: Mapping[str, str] | None
) -> None:
    path = tmp_path / "layer"
    if content is None:
        path.write_bytes(b"not a tar")
    else:
        layer(path, content)
    with pytest.raises(EnvironmentProblem, match="docker:1-cli"):
        engine.write_engine([path], tmp_path / "engine.tar", "docker:1-cli")
    assert [found.name for found in tmp_path.iterdir()] == ["layer"]


def test_the_scripts_are_shell(tmp_path: Path) -> None:
    layers = [layer(tmp_path / "layer", {"usr/bin/dockerd": "x"})]
    engine.write_engine(layers, tmp_path / "engine.tar", "docker:1-dind")
    with tarfile.open(tmp_path / "engine.tar") as archive:
        for name in ("usr/sbin/dockerd", "usr/libexec/enter", "image/.start-engine"):
            script = archive.extractfile(name)
            assert script is not None
            subprocess.run(["sh", "-n"], input=script.read(), check=True)
