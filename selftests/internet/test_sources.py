"""The main job from every source in the pretend internet, twice from upstream: `tox run -e internet`."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from selftests.internet import names
from selftests.internet.conftest import MainJob, assert_conforms
from selftests.internet.pretend import CLI, PretendHost

pytestmark = [
    pytest.mark.internet,
    pytest.mark.skipif(os.geteuid() != 0, reason="making a cluster needs root"),
]


def test_auto_takes_upstream_and_conforms_twice(place: Path, bundle_dir: Path, main_job: MainJob) -> None:
    host = PretendHost(place, bundle_dir)
    for _ in range(2):
        ended, report = main_job(host, "auto")
        assert "Artifacts: upstream (it answered within" in ended.output
        assert_conforms(ended, report)


def test_china_conforms_where_github_and_docker_hub_are_out_of_reach(
    place: Path, bundle_dir: Path, main_job: MainJob
) -> None:
    host = PretendHost(place, bundle_dir, blocked=names.BLOCKED_IN_CHINA)
    ended, report = main_job(
        host,
        "china",
        RUNNER_CONFORMANCE_GITHUB=f"https://{names.CHINA_GITHUB}",
        RUNNER_CONFORMANCE_OPERATORHUB=f"https://{names.CHINA_OPERATORHUB}",
    )
    assert_conforms(ended, report)
    assert not any(entry["host"] in names.BLOCKED_IN_CHINA for entry in host.asked())


def test_behind_a_proxy_it_conforms_and_asks_the_proxy_for_nothing_of_its_own(
    place: Path, bundle_dir: Path, main_job: MainJob
) -> None:
    host = PretendHost(place, bundle_dir, proxy=True)
    ended, report = main_job(host, "upstream")
    assert_conforms(ended, report)
    asked = [entry for entry in host.asked() if entry["path"] == "proxy"]
    assert asked
    assert not [entry for entry in asked if entry["status"] != 200]


def test_a_collected_bundle_conforms_when_the_internet_is_gone(
    place: Path, bundle_dir: Path, profile: Path, main_job: MainJob
) -> None:
    collected = place / "collected"
    online = PretendHost(place / "online", bundle_dir, passing=("quay.io",))
    made = online.run(*CLI, "bundle", f"--profile={profile}", f"--out={collected}")
    assert made.code == 0, made.output[-4000:]
    ended, report = main_job(PretendHost(place / "offline", None), str(collected))
    assert_conforms(ended, report)


def test_docker_hubs_limit_is_inconclusive_and_says_what_to_do(
    place: Path, bundle_dir: Path, main_job: MainJob
) -> None:
    ended, report = main_job(PretendHost(place, bundle_dir, hub_limit=True), "upstream")
    verdict = report["verdict"]
    assert verdict["word"] == "INCONCLUSIVE", ended.output[-4000:]
    assert verdict["blame"] == "environment"
    assert "429" in verdict["reason"]
    assert "registry-1.docker.io" in verdict["reason"]
    assert "--registry-auth" in verdict["hint"]
    assert ended.code == 10


def test_whoever_logs_in_is_not_limited(place: Path, bundle_dir: Path, main_job: MainJob) -> None:
    """The login reaches the harness (base image, engine) and the node (everything that pods run)."""
    login = "somebody:correct-horse-battery"
    auth = place / "config.json"
    encoded = base64.b64encode(login.encode()).decode()
    auth.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": encoded}}}))
    host = PretendHost(place / "host", bundle_dir, hub_limit=True, hub_login=login)
    ended, report = main_job(host, "upstream", f"--registry-auth={auth}")
    assert_conforms(ended, report)
    written = [path for path in (host.directory / "report").rglob("*") if path.is_file()]
    assert not any(b"correct-horse" in path.read_bytes() for path in written)
    assert "correct-horse" not in ended.output
