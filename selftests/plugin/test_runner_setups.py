"""Files of runner set-ups: the how-to's to the letter, the others sound; every combination parses."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from fixtures.steps.pod_recorder import _without_env
from fixtures.steps.runner_setups import (
    AS_WRITTEN,
    FILES,
    TAG,
    Jobs,
    jobs_on,
    manifests_of,
    runner_setups,
)
from harness.gitlab.client import GitLabTarget
from harness.profile import HOW_TO_PAIR, JobImages, load_profile
from harness.redact import Secret
from harness.stack.runner import SECRET_NAME
from harness.versions import facts


@pytest.fixture
def target(tmp_path: Path) -> GitLabTarget:
    authority = tmp_path / "ca.crt"
    authority.write_text("-----BEGIN CERTIFICATE-----\n")
    return GitLabTarget(
        "http://10.99.1.1:8080",
        Secret("not-a-token"),
        registry_host="10.99.1.2",
        registry_ca=authority,
        embedded=True,
    )


JOBS = Jobs(HOW_TO_PAIR, "buildah", "quay.io/buildah/stable:latest")
NEWER = Jobs(JobImages("docker:29.7.2", f"docker@sha256:{'d' * 64}"), "kaniko", "gcr.io/kaniko:v1-debug")
SETUPS = runner_setups(JOBS)
TOKEN = {"runner-registration-token": Secret("glrt-0123456789abcdef")}
REGISTRY = "10.99.1.2"


@pytest.mark.parametrize("name", list(SETUPS))
def test_manifests_are_the_how_to_s_with_token_and_address(name, target):
    setup = SETUPS[name]
    found = {m["kind"]: m for m in manifests_of(setup, target, REGISTRY, TOKEN)}
    assert found["Secret"]["stringData"].keys() <= {"runner-registration-token", "ca.crt"}
    spec = found["Runner"]["spec"]
    assert (spec["gitlabUrl"], spec["buildImage"], spec["token"]) == (target.url, "alpine", SECRET_NAME)
    assert ("config" in spec) == bool(setup.config)


@pytest.mark.parametrize("name", [name for name, setup in SETUPS.items() if setup.config])
def test_config_templates_are_toml_and_trust_the_registry_where_a_job_has_to(name, target):
    setup = SETUPS[name]
    found = manifests_of(setup, target, REGISTRY, TOKEN)
    config_map = next(m for m in found if m["kind"] == "ConfigMap")
    (runner,) = tomllib.loads(config_map["data"]["config.toml"])["runners"]
    volumes = runner["kubernetes"].get("volumes", {})
    mounts = [volume["mount_path"] for volume in volumes.get("secret", [])]
    assert mounts == (["/etc/docker/certs.d/10.99.1.2"] if setup.trusts_registry else [])


@pytest.mark.parametrize(
    ("ca", "registry", "trusted"),
    [
        ("of the user's GitLab", "registry.example.com", ["/etc/docker/certs.d/registry.example.com"]),
        ("", "registry.example.com", []),
        ("of the user's GitLab", None, []),
    ],
)
def test_jobs_trust_the_registry_of_a_gitlab_whose_ca_was_named(tmp_path, ca, registry, trusted):
    file = tmp_path / "ca.pem"
    file.write_text(ca)
    theirs = GitLabTarget("https://gitlab.example.com", Secret("not-a-token"), file if ca else None)
    found = manifests_of(SETUPS["plain"], theirs, registry, TOKEN)
    config = next(m for m in found if m["kind"] == "ConfigMap")["data"]["config.toml"]
    (runner,) = tomllib.loads(config)["runners"]
    volumes = runner["kubernetes"].get("volumes", {}).get("secret", [])
    assert [volume["mount_path"] for volume in volumes] == trusted
    secrets = {m["metadata"]["name"]: m["stringData"] for m in found if m["kind"] == "Secret"}
    assert secrets.get("registry-ca") == ({"ca.crt": ca} if trusted else None)


def test_docker_sock_gets_the_how_to_s_template_to_the_letter(target):
    found = manifests_of(SETUPS["docker-sock"], target, REGISTRY, TOKEN)
    config_map = next(m for m in found if m["kind"] == "ConfigMap")
    assert config_map["data"]["config.toml"] == (FILES / "custom-config.toml").read_text()


@pytest.mark.parametrize("path", sorted(FILES.glob("gitlab-ci*.yml")), ids=lambda path: path.name)
def test_ci_files_hold_one_tagged_job(path):
    (job,) = [value for key, value in yaml.safe_load(path.read_text()).items() if key == "build"]
    assert len(job["tags"]) == 1
    assert all(isinstance(line, str) for line in job["script"])
    if path.name != "gitlab-ci-other-tag.yml":
        assert job["tags"] == [TAG]


def test_the_how_to_s_job():
    job = yaml.safe_load((FILES / "gitlab-ci.yml").read_text())["build"]
    assert job == {
        "image": "docker:latest",
        "stage": "build",
        "tags": ["jh"],
        "services": ["docker:20.10.7-dind"],
        "script": [
            'docker login -u "$CI_REGISTRY_USER" -p "$CI_REGISTRY_PASSWORD" $CI_REGISTRY',
            "docker build -t $CI_REGISTRY_IMAGE:v1.0.0 .",
            "docker push $CI_REGISTRY_IMAGE:v1.0.0",
        ],
    }


@pytest.mark.parametrize("jobs", [JOBS, NEWER], ids=["as the how-to", "newer"])
def test_the_profile_s_images_take_the_place_of_the_how_to_s(jobs):
    setups = runner_setups(jobs)

    def job(setup, branch):
        return yaml.safe_load(setups[setup].pipelines[branch].ci_yaml(jobs, "ours"))["build"]

    for setup, branch in (("plain", "how-to-job"), ("dind", "dind"), ("dind", "dind-tls")):
        found = job(setup, branch)
        assert (found["image"], found["services"]) == (jobs.pair.docker, [jobs.pair.dind])
        assert found["tags"] == ["ours"]
    builder = job("plain", "daemonless")["image"]
    assert (builder["name"] if isinstance(builder, dict) else builder) == jobs.builder_image
    assert job("plain", "other-tag")["image"] == jobs.pair.docker


def test_the_how_to_s_own_pair_is_tried_where_the_profile_has_another():
    assert AS_WRITTEN not in SETUPS["dind"].pipelines
    written = runner_setups(NEWER)["dind"].pipelines[AS_WRITTEN].ci_yaml(NEWER, TAG)
    job = yaml.safe_load(written)["build"]
    assert (job["image"], job["services"]) == (HOW_TO_PAIR.docker, [HOW_TO_PAIR.dind])
    assert job["script"][-1] == "docker push $CI_REGISTRY_IMAGE:v1.0.0-as-written", "it overwrites another's"


def test_in_a_project_of_the_user_s_images_go_below_the_run_s_own_name():
    for setup in SETUPS.values():
        for pipeline in setup.pipelines.values():
            text = pipeline.ci_yaml(JOBS, TAG, "/rc-0a1b2c3d-x")
            assert set(re.findall(r"\$CI_REGISTRY_IMAGE([^:]*):", text)) <= {"/rc-0a1b2c3d-x"}


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        ((), Jobs(JobImages("docker:25.0.0", "docker:20.10.7-dind"), "kaniko", "")),
        (("docker.io/library/docker:latest", "docker.io/library/docker:20.10.7-dind"), JOBS),
        (
            (
                "docker.io/library/docker:25.0.0",
                "docker.io/library/docker:20.10.7-dind",
                "gcr.io/kaniko-project/executor:v1.23.2-debug",
            ),
            Jobs(JobImages("docker:25.0.0", "docker:20.10.7-dind"), "kaniko", ""),
        ),
    ],
    ids=["from the internet", "of a bundle without them", "of a bundle with them"],
)
def test_a_bundle_that_lacks_the_profile_s_images_is_used_with_its_own(images, wanted):
    artifacts = type("Artifacts", (), {"images": staticmethod(lambda: images)})
    found = jobs_on(load_profile("seed"), artifacts)
    assert (found.pair, found.builder) == (wanted.pair, wanted.builder)


@pytest.mark.parametrize(
    ("profile", "keys"),
    [("seed", ("runner-registration-token",)), ("latest", ("runner-token", "runner-registration-token"))],
)
def test_the_token_s_keys_are_those_that_the_operator_reads(profile, keys):
    assert facts.TOKEN_KEYS.at(load_profile(profile).operator.version) == keys


def test_recorded_pods_keep_no_environment():
    pod = {"metadata": {}, "spec": {"containers": [{"name": "build", "env": [{"name": "CI_JOB_TOKEN"}]}]}}
    assert _without_env(pod)["spec"]["containers"] == [{"name": "build"}]
