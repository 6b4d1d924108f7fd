"""Which combinations a matrix has, and which are refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.matrix.plan import Matrix, impossible, read_matrix

FILE = """
[axes]
k3s = ["v1.28.5+k3s1", "v1.29.0+k3s1"]
operator = ["1.15.0", "1.15.1"]
[common]
artifacts = "china"
[[exclude]]
k3s = "v1.29.0+k3s1"
operator = "1.15.0"
[[include]]
profile = "latest"
"""


def test_axes_multiply_with_exclude_and_include(tmp_path: Path) -> None:
    file = tmp_path / "matrix.toml"
    file.write_text(FILE)
    cells = read_matrix(file).cells()
    assert [cell.title for cell in cells] == [
        "k3s v1.28.5+k3s1, operator 1.15.0",
        "k3s v1.28.5+k3s1, operator 1.15.1",
        "k3s v1.29.0+k3s1, operator 1.15.1",
        "profile latest",
    ]
    assert cells[0].arguments() == [
        "--artifacts=china",
        "--k3s-version=v1.28.5+k3s1",
        "--operator-version=1.15.0",
    ]
    assert len({cell.slug for cell in cells}) == 4
    assert impossible(cells) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("axes = 3", "no table"),
        ("[axes]\nk8s = ['1']", "'k8s'"),
        ("[axes]\nk3s = 'v1'", "no list"),
        ("[axes]\nk3s = [1]", "no text"),
        ("[cells]", "'cells' is unknown"),
        ("[[include]]\nfoo = 'x'", "'foo'"),
        ("x = [", "no TOML"),
        ("", "no cell"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "matrix.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=says):
        read_matrix(file).cells()


def test_too_many_cells_are_refused() -> None:
    with pytest.raises(UsageError, match="225 cells"):
        Matrix(
            {"k3s": tuple(f"v1.28.{n}+k3s1" for n in range(15)), "olm": tuple(f"v0.{n}.0" for n in range(15))}
        ).cells()


def test_all_combinations_that_cannot_be_are_named(tmp_path: Path) -> None:
    cells = Matrix(
        {"k3s": ("v1.28.5+k3s1", "v1.19.1+k3s1", "1.28"), "artifacts": ("auto", str(tmp_path / "none"))}
    ).cells()
    wrong = impossible(cells)
    assert len(wrong) == 5
    assert not any(line.startswith("k3s v1.28.5+k3s1, artifacts auto") for line in wrong)
    assert any("k3s v1.28.5+k3s1, artifacts none" in line and "no such directory" in line for line in wrong)
