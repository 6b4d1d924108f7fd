"""The matrix file of what is newer than a profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.matrix.newer import matrix_of_newer
from harness.matrix.plan import read_matrix
from harness.profile import load_profile
from harness.versions.online import Newest


def _found(**versions: str) -> list[Newest]:
    return [
        Newest(name.replace("_", "-"), it, "newest, says a site", asked=True) for name, it in versions.items()
    ]


def _cells(text: str, folder: Path) -> list[dict[str, str]]:
    path = folder / "new.toml"
    path.write_text(text)
    return [cell.settings for cell in read_matrix(path).cells()]


def test_each_new_release_alone_and_all_together(tmp_path: Path) -> None:
    profile = load_profile("latest")
    k3s, olm = "v1.36.9+k3s1", "v0.47.0"
    found = _found(k3s=k3s, olm=olm, operator=profile.requested["operator"], docker="99.0.0")
    common = {"profile": "latest"}
    assert _cells(matrix_of_newer(profile, found), tmp_path) == [
        common | {"k3s": profile.requested["k3s"]},
        common | {"k3s": k3s},
        common | {"olm": olm},
        common | {"k3s": k3s, "olm": olm},
    ]


def test_what_can_not_be_combined_is_a_comment_that_says_why(tmp_path: Path) -> None:
    text = matrix_of_newer(load_profile("seed"), _found(k3s="v1.36.4+k3s1", cert_manager="v1.21.2"))
    assert "# Can't be: cert-manager v1.21.2: cert-manager v1.21.2 supports Kubernetes 1.33 to" in text
    assert [sorted(cell) for cell in _cells(text, tmp_path)] == [
        ["k3s", "profile"],
        ["k3s", "profile"],
        ["cert-manager", "k3s", "profile"],
    ]


@pytest.mark.parametrize("asked", [True, False])
def test_nothing_newer_says_so_and_who_was_not_asked(asked: bool) -> None:
    profile = load_profile("latest")
    known = Newest("olm", profile.requested["olm"], "known in 2026-11; a site can't be reached", asked=asked)
    text = matrix_of_newer(profile, [known])
    assert text.startswith("# Nothing is newer than profile latest.\n")
    assert ("# Not asked: olm" in text) is not asked
    assert "[" not in text
