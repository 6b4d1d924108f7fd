"""Files of runner set-ups: the how-to's to the letter, the others sound; every combination parses."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

from fixtures.steps.pod_recorder import _without_env
from fixtures.steps.runner_setups import FILES, SECRET, TAG, _manifests, runner_setups
from harness.gitlab.client import GitLabTarget
from harness.redact import Secret


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


SETUPS = runner_setups("buildah")
REGISTRY = "10.99.1.2"


@pytest.mark.parametrize("name", list(SETUPS))
def test_manifests_are_the_how_to_s_with_token_and_address(name, target):
    setup = SETUPS[name]
    found = {m["kind"]: m for m in _manifests(setup, target, REGISTRY, "glrt-0123456789abcdef")}
    assert found["Secret"]["stringData"].keys() <= {"runner-registration-token", "ca.crt"}
    spec = found["Runner"]["spec"]
    assert (spec["gitlabUrl"], spec["buildImage"], spec["token"]) == (target.url, "alpine", SECRET)
    assert ("config" in spec) == bool(setup.config)


@pytest.mark.parametrize("name", [name for name, setup in SETUPS.items() if setup.config])
def test_config_templates_are_toml_and_trust_the_registry_where_a_job_has_to(name, target):
    setup = SETUPS[name]
    config_map = next(m for m in _manifests(setup, target, REGISTRY, "t") if m["kind"] == "ConfigMap")
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
    found = _manifests(SETUPS["plain"], theirs, registry, "t")
    config = next(m for m in found if m["kind"] == "ConfigMap")["data"]["config.toml"]
    (runner,) = tomllib.loads(config)["runners"]
    volumes = runner["kubernetes"].get("volumes", {}).get("secret", [])
    assert [volume["mount_path"] for volume in volumes] == trusted
    secrets = {m["metadata"]["name"]: m["stringData"] for m in found if m["kind"] == "Secret"}
    assert secrets.get("registry-ca") == ({"ca.crt": ca} if trusted else None)


def test_docker_sock_gets_the_how_to_s_template_to_the_letter(target):
    found = _manifests(SETUPS["docker-sock"], target, REGISTRY, "t")
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


def test_recorded_pods_keep_no_environment():
    pod = {"metadata": {}, "spec": {"containers": [{"name": "build", "env": [{"name": "CI_JOB_TOKEN"}]}]}}
    assert _without_env(pod)["spec"]["containers"] == [{"name": "build"}]
