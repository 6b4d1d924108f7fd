"""The table of versions: rows, the page made of it, and which versions are refused together."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from harness.errors import UsageError
from harness.profile import PROFILES_DIR, load_profile
from harness.versions import Difference, Row, facts, page, version_tuple
from harness.versions.checks import notes
from harness.versions.online import newest
from harness.versions.releases import KNOWN, NEWEST


@pytest.mark.parametrize("fact", facts.FACTS, ids=lambda fact: f"{fact.component}: {fact.what}")
def test_rows_rise_and_name_their_source(fact: Difference[object]) -> None:
    assert [row.first for row in fact.rows] == sorted({row.first for row in fact.rows})
    assert all(row.source for row in fact.rows)


def test_a_row_holds_until_the_next() -> None:
    fact = Difference("k3s", "x", (Row("", "old", "a"), Row("1.34.0", "new", "b")))
    assert [fact.at(it) for it in ("v1.21.2+k3s1", "v1.33.9+k3s1", "v1.34.0+k3s1", "v1.99.0+k3s1")] == [
        "old",
        "old",
        "new",
        "new",
    ]
    assert fact.ever() == ("old", "new")


def test_the_page_is_what_the_table_says() -> None:
    assert page.PAGE.read_text() == page.render(), "python -m harness.versions.page"


def test_what_is_newest_is_no_older_than_what_is_known() -> None:
    latest = load_profile("latest")
    for component, version in latest.requested.items():
        assert version == NEWEST[component]
    for component, releases in KNOWN.items():
        assert not releases.is_newer(NEWEST[component])
        assert not releases.why_not(NEWEST[component])


@pytest.mark.parametrize("number", ["1.28", "v1", "", "1." + "9" * 5000 + ".0", "1.2.3456789"])
def test_what_is_no_version(number: str) -> None:
    with pytest.raises(UsageError, match="is no version") as caught:
        version_tuple(number)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("profile", "overrides", "sentence"),
    [
        ("seed", {"olm": "v0.24.7"}, r"olm v0\.24\.7 does not exist: the last release of 0\.24 is 0\.24\.0"),
        ("seed", {"olm": "v0.9.0"}, r"olm v0\.9\.0 does not exist: the oldest that is known here is 0\.17"),
        ("seed", {"olm": "v1.2.0"}, r"OLM v1\.2\.0 is another API"),
        ("seed", {"k3s": "v1.28.99+k3s1"}, r"the last release of 1\.28 is 1\.28\.15"),
        ("seed", {"k3s": "v1.20.4+k3s1"}, r"too old: the operator needs Kubernetes 1\.21\.1"),
        ("seed", {"cert-manager": "v1.6.1"}, r"cert-manager v1\.6\.1 is too old"),
        ("seed", {"cert-manager": "v1.10.9"}, r"the last release of 1\.10 is 1\.10\.2"),
        (
            "latest",
            {"k3s": "v1.28.5+k3s1"},
            r"cert-manager v1\.21\.2 supports Kubernetes 1\.33 to 1\.36, v1\.28\.5\+k3s1 is older",
        ),
        ("seed", {"runner": "17.0.0"}, r"operator 1\.15\.1 ships Runner 16\.0\.1, and Runner 17\.0\.0 is"),
        ("seed", {"operator": "1.40.0"}, r"which Runner operator 1\.40\.0 ships is not known here"),
    ],
)
def test_contradictions_are_refused(profile: str, overrides: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        load_profile(profile, overrides)
    assert caught.value.hint


def test_the_runner_follows_the_operator() -> None:
    assert load_profile("seed", {"operator": "1.53.0"}).runner == "19.4.0"
    assert load_profile("seed", {"operator": "1.40.0", "runner": "18.0.1"}).runner == "18.0.1"


def test_the_how_to_s_versions_go_together_with_a_note() -> None:
    (note,) = notes(load_profile("seed"))
    assert note == (
        "cert-manager v1.7.1 supports Kubernetes 1.18 to 1.23; "
        "v1.28.5+k3s1 is newer than its maintainers tested"
    )
    assert notes(load_profile("latest")) == ()
    assert notes(load_profile("seed"), "kindest/node:v1.22.17@sha256:0a") == ()
    assert notes(load_profile("seed"), "kindest/node:latest") == ()
    assert "v1.34.0 is newer" in notes(load_profile("seed"), "kindest/node:v1.34.0")[0]
    assert notes(load_profile("seed", {"olm": "v0.22.0"}))[1:] == (
        "OLM v0.22.0 is built for Kubernetes 1.24; v1.28.5+k3s1 is more than one minor release newer",
    )


def test_versions_newer_than_the_table_run_with_the_newest_rows() -> None:
    profile = load_profile("latest", {"k3s": "v1.40.1+k3s1", "operator": "1.60.0", "runner": "20.1.0"})
    assert facts.NODE_ROLES.at(profile.k3s) == {"control-plane"}
    newer = [note for note in notes(profile) if "newer than what the table of versions knows" in note]
    assert [note.split(" is newer")[0] for note in newer] == ["k3s v1.40.1+k3s1", "operator 1.60.0"]


def test_roles_of_a_node() -> None:
    assert facts.NODE_ROLES.at("v1.33.5+k3s1") == {"control-plane", "master"}
    assert facts.NODE_ROLES.at("v1.34.1+k3s1") == {"control-plane"}


@pytest.mark.parametrize("client", ["docker:28.5.2", "docker:29.3.0", "docker:latest", "docker:25.0.0-cli"])
def test_clients_that_speak_to_the_how_to_s_dind(tmp_path: Path, client: str) -> None:
    assert load_profile(with_client(tmp_path, client)).jobs.docker == client


@pytest.mark.parametrize("client", ["docker:29.0.0", "docker:29.2.1-cli"])
def test_a_client_too_new_for_its_dind_is_refused(tmp_path: Path, client: str) -> None:
    sentence = rf"{client} speaks to engines from API 1\.44 on, and docker:20\.10\.7-dind has API 1\.41"
    with pytest.raises(UsageError, match=sentence):
        load_profile(with_client(tmp_path, client))


def with_client(tmp_path: Path, client: str) -> Path:
    text = (PROFILES_DIR / "seed.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('docker = "docker:25.0.0"', f'docker = "{client}"'))
    return path


@pytest.mark.parametrize(
    ("cli", "api"), [("28.5.2", (1, 24)), ("29.0.0", (1, 44)), ("29.2.1", (1, 44)), ("29.3.0", (1, 40))]
)
def test_which_engines_docker_s_command_line_speaks_to(cli: str, api: tuple[int, int]) -> None:
    assert facts.OLDEST_ENGINE_API.at(cli) == api


ANSWERS = {
    "update.k3s.io": {
        "data": [{"id": "latest", "latest": "v1.99.0+k3s1"}, {"id": "stable", "latest": "v1.98.1+k3s1"}]
    },
    "operatorhub.io": {"operator": {"name": "gitlab-runner-operator.v1.60.0", "version": "1.60.0"}},
    "gitlab.com": {"tag_name": "v20.1.0"},
}


def answer(request: httpx.Request) -> httpx.Response:
    if "cert-manager" in request.url.path:
        return httpx.Response(200, json={"tag_name": "v1.30.0"})
    if "moby" in request.url.path:
        return httpx.Response(200, json={"tag_name": "docker-v31.0.0"})
    if request.url.host in ANSWERS:
        return httpx.Response(200, json=ANSWERS[request.url.host])
    return httpx.Response(403)


def test_the_release_sites_are_asked() -> None:
    found = {it.component: it for it in newest(httpx.MockTransport(answer))}
    assert {name: it.version for name, it in found.items()} == {
        "k3s": "v1.98.1+k3s1",
        "cert-manager": "v1.30.0",
        "olm": NEWEST["olm"],
        "operator": "1.60.0",
        "runner": "20.1.0",
        "docker": "31.0.0",
    }
    assert [name for name, it in found.items() if not it.asked] == ["olm"]
    assert "api.github.com answers 403" in str(found["olm"])


@pytest.mark.parametrize(
    ("give", "why"),
    [
        (httpx.Response(200, text="<html>a portal's page</html>"), "something else than its list"),
        (httpx.Response(200, json=[]), "something else than its list"),
        (httpx.ConnectError("no route"), "can't be reached"),
    ],
)
def test_offline_it_says_what_is_known_and_from_when(give: httpx.Response | Exception, why: str) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        if isinstance(give, Exception):
            raise give
        return give

    for line in newest(httpx.MockTransport(refuse)):
        assert (line.version, line.asked) == (NEWEST[line.component], False)
        assert "known in 2026-11" in line.source
        assert why in line.source
