"""The lab's images: deterministic tars, what image.toml files may say, manifests that a registry serves."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

from harness.artifacts.storage import ImageRef, Storage
from lab import debian
from lab.definitions import ImageSpec, read_definitions
from lab.errors import LabError
from lab.images import REPOSITORY, image_step
from lab.progress import Progress
from lab.steps import BuildStep, StepRunner, Work
from lab.tars import write_tar


def tree(root: Path, *, mode: int = 0o644, order: int = 1) -> Path:
    """A small tree; `order` -1 makes the files in the other order."""
    for name in ["bin/tool", "etc/a", "etc/b"][::order]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        path.chmod(mode | (0o111 if name == "bin/tool" else 0))
    (root / "link").symlink_to("bin/tool")
    return root


def test_equal_trees_give_equal_tars(tmp_path: Path) -> None:
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two", mode=0o600, order=-1)
    os.utime(two / "etc/a", (1, 1))
    write_tar(tmp_path / "one.tar", [(one, "/")], plain_modes=True)
    write_tar(tmp_path / "two.tar", [(two, "/")], plain_modes=True)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def members(tar: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(tar) as opened:
        return {member.name: member for member in opened}


def test_tar_has_directories_links_and_modes(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "x.tar", [(tree(tmp_path / "one"), "/opt/app")], plain_modes=True, writable=["/data"]
    )
    found = members(tmp_path / "x.tar")
    assert list(found) == sorted(found)
    assert found["opt"].isdir()
    assert found["opt/app/link"].linkname == "bin/tool"
    assert found["opt/app/bin/tool"].mode == 0o755
    assert found["opt/app/etc/a"].mode == 0o644
    assert found["data"].mode == 0o777


def test_files_in_bin_do_not_replace_the_link_below(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", [(tree(tmp_path / "one"), "/")], rename=debian.merged)
    found = members(tmp_path / "x.tar")
    assert "usr/bin/tool" in found
    assert "bin" not in found


def test_setuid_survives_in_layers(tmp_path: Path) -> None:
    program = tree(tmp_path / "one") / "bin/tool"
    program.chmod(0o4755)
    write_tar(tmp_path / "x.tar", [(tmp_path / "one", "/")])
    assert members(tmp_path / "x.tar")["bin/tool"].mode == 0o4755


def definition(tmp_path: Path, text: str, folder: str = "standins/thing") -> Path:
    path = tmp_path / folder / "image.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


IMAGE = '[[image]]\nrefs = ["quay.io/a/b:v1"]\ncomponent = "b"\nversion = "@b@"\n'


def read(tmp_path: Path) -> tuple[ImageSpec, ...]:
    return read_definitions({"b": "v1"}, roots=[tmp_path / "images", tmp_path / "standins"]).images


def test_variables_are_filled_in(tmp_path: Path) -> None:
    definition(tmp_path, IMAGE)
    assert read(tmp_path)[0].version == "v1"


def test_nothing_below_standins_can_call_itself_real(tmp_path: Path) -> None:
    definition(tmp_path, IMAGE + 'provenance = "real"\n')
    assert read(tmp_path)[0].provenance == "stand-in"


def test_an_image_of_another_generation_is_left_out(tmp_path: Path) -> None:
    definition(tmp_path, IMAGE + 'only = "2026"\n' + IMAGE.replace(":v1", ":v2"))
    roots = [tmp_path / "standins"]
    assert [i.refs for i in read_definitions({"b": "v1"}, "2024", roots).images] == [["quay.io/a/b:v2"]]
    assert len(read_definitions({"b": "v1"}, "2026", roots).images) == 2


@pytest.mark.parametrize("folder", ["standins/thing", "images/thing"])
def test_an_image_says_whether_it_is_real(runner: StepRunner, tmp_path: Path, folder: str) -> None:
    definition(tmp_path, IMAGE + 'labels = { "a" = "b" }\nwrite = { "/opt/x" = "@b@" }\n', folder)
    (spec,) = read(tmp_path)
    made = runner.run(image_step(spec, layers={}, named={}, go=Path("go"))).path
    labels = json.loads((made / "config.json").read_text())["config"]["Labels"]
    kind = "stand-in" if folder.startswith("standins") else "real"
    mark = "io.runner-conformance."
    assert labels == {"a": "b", f"{mark}component": "b", f"{mark}version": "v1", f"{mark}provenance": kind}
    with tarfile.open(made / "layer.tar") as tar:
        assert tar.extractfile("opt/x").read() == b"v1"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (IMAGE + 'flavour = "x"\n', "unknown field 'flavour' in an"),
        (IMAGE.replace("version", "#"), "field 'version' of an"),
        ("[images]\n", "unknown field 'images'"),
        (
            '[[file]]\npath = "files/x"\n',
            "has the fields path, from, component and perhaps only and also; this one path",
        ),
        ("[[image]\n", "image.toml: "),
    ],
)
def test_mistakes_name_the_file(tmp_path: Path, text: str, complaint: str) -> None:
    path = definition(tmp_path, text)
    with pytest.raises(LabError) as caught:
        read(tmp_path)
    assert complaint in caught.value.message
    assert str(path) in caught.value.message


def test_one_reference_twice(tmp_path: Path) -> None:
    definition(tmp_path, IMAGE)
    definition(tmp_path, IMAGE, "images/other")
    with pytest.raises(LabError, match=r"quay\.io/a/b:v1 is defined twice"):
        read(tmp_path)


def layer(work: Work) -> None:
    (work.out / "layer.tar").write_bytes(b"\0" * 10240)


@pytest.fixture
def runner(tmp_path: Path) -> StepRunner:
    return StepRunner(tmp_path / "cache", Progress(Console(file=io.StringIO())))


def make(runner: StepRunner, **fields: object) -> Path:
    """Make an image that has this project's pyproject.toml in it; its result."""
    spec = ImageSpec(
        REPOSITORY / "lab",
        ["quay.io/a/b:v1"],
        "b",
        "v1",
        copy={"../pyproject.toml": "/bin/x"},
        **fields,  # type: ignore[arg-type]
    )
    step = image_step(spec, layers={"base": BuildStep("layer base", layer)}, named={}, go=Path("go"))
    return runner.run(step).path


def test_image_is_whole_in_the_storage(runner: StepRunner, tmp_path: Path) -> None:
    made = make(runner, layers=["base"], entrypoint=["/bin/x"], volumes=["/data"], env={"A": "b"})
    storage = Storage(tmp_path / "registry")
    for blob in (tmp_path / "cache/steps/layer-base").glob("*/out/layer.tar"):
        storage.put_blob(blob)
    storage.put_blob(made / "layer.tar")
    storage.put_blob(made / "config.json")
    storage.put_manifest("quay.io/a/b", (made / "manifest.json").read_bytes(), "v1")
    storage.check_image(ImageRef.parse("quay.io/a/b:v1"), full=True)
    config = json.loads((made / "config.json").read_text())
    assert len(config["rootfs"]["diff_ids"]) == 2
    assert config["config"]["Volumes"] == {"/data": {}}
    assert config["config"]["Env"][-1] == "A=b"


def test_files_above_a_layer_go_below_usr(runner: StepRunner) -> None:
    assert "usr/bin/x" in members(make(runner, layers=["base"]) / "layer.tar")


def test_files_of_a_scratch_image_stay(runner: StepRunner) -> None:
    assert "bin/x" in members(make(runner) / "layer.tar")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("nowhere", "does not exist in the project"),
        ("../../../../etc/passwd", "does not exist in the project"),
        ("rendered:x/y", "names nothing that is made"),
    ],
)
def test_sources_that_are_not_there(source: str, complaint: str) -> None:
    spec = ImageSpec(REPOSITORY / "lab", ["quay.io/a/b:v1"], "b", "v1", copy={source: "/x"})
    with pytest.raises(LabError, match=complaint):
        image_step(spec, layers={}, named={}, go=Path("go"))


def test_unknown_layer() -> None:
    spec = ImageSpec(REPOSITORY / "lab", ["quay.io/a/b:v1"], "b", "v1", layers=["nope"])
    with pytest.raises(LabError, match="no layer 'nope'"):
        image_step(spec, layers={}, named={}, go=Path("go"))
