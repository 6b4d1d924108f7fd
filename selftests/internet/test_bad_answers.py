"""Sites that misbehave while a bundle is collected: one sentence with the URL, and nothing half-written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selftests.internet.pretend import CLI, Ended, PretendHost

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces needs root")

CASES = {
    "a release without its checksum file": (
        {"slips": (("sha256sum-amd64.txt", "missing"),)},
        "sha256sum-amd64.txt: answers 404",
        "spelt as the release",
    ),
    "a checksum file that is a web page": (
        {"slips": (("sha256sum-amd64.txt", "web page"),)},
        "sha256sum-amd64.txt: answers with a web page",
        "login page",
    ),
    "a manifest that redirects to itself": (
        {"slips": (("crds.yaml", "circle"),)},
        "crds.yaml: redirects in a circle",
        "mirror",
    ),
    "a binary that breaks off half-way": (
        {"slips": (("objects.githubusercontent.com/github-production-release-asset/k3s", "half"),)},
        "download/v",
        "the next run resumes",
    ),
    "a proxy that refuses": (
        {"proxy": True, "proxy_refuses": 407},
        "the proxy refuses: 407",
        "the proxy wants a login",
    ),
}


def collect(host: PretendHost, profile: Path, out: Path) -> Ended:
    return host.run(*CLI, "bundle", f"--profile={profile}", f"--out={out}")


@pytest.mark.parametrize(("behaviour", "sentence", "advice"), CASES.values(), ids=CASES)
def test_what_a_site_does_wrong_is_one_sentence(
    place: Path, bundle_dir: Path, profile: Path, behaviour: dict[str, object], sentence: str, advice: str
) -> None:
    host = PretendHost(place / "host", bundle_dir, **behaviour)
    ended = collect(host, profile, place / "out")
    assert ended.code == 10, ended.output[-3000:]
    assert "https://" in ended.output
    assert sentence in ended.output
    assert advice in ended.output
    assert "Traceback" not in ended.output
    assert [path.name for path in place.iterdir()] == ["host"]


@pytest.mark.internet
def test_a_second_run_goes_on_where_the_first_broke_off(place: Path, bundle_dir: Path, profile: Path) -> None:
    """The content network of quay.io breaks off every layer; the next day it does not."""
    first = PretendHost(place / "first", bundle_dir, slips=(("cdn01.quay.io", "half"),))
    ended = collect(first, profile, place / "out")
    assert ended.code == 10, ended.output[-3000:]
    assert "quay.io" in ended.output
    assert not (place / "out").exists()
    second = PretendHost(place / "second", bundle_dir)
    ended = collect_with_cache(second, first, profile, place / "out")
    assert ended.code == 0, ended.output[-3000:]
    assert not any(entry["path"].endswith("/k3s") for entry in second.asked("objects.githubusercontent.com"))
    assert any(entry["status"] == 206 for entry in second.asked("cdn01.quay.io"))


def collect_with_cache(host: PretendHost, earlier: PretendHost, profile: Path, out: Path) -> Ended:
    command = (*CLI, "bundle", f"--profile={profile}", f"--out={out}")
    return host.run(*command, environment={"RUNNER_CONFORMANCE_HOME": str(earlier.directory / "home")})
