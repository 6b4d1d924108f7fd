"""Logins for registries: docker's file as it is found on people's machines, good and bad."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import yaml

from fixtures.steps.runner_setups import job_logins
from harness.artifacts.registry_auth import read
from harness.cluster import ClusterOptions
from harness.cluster.registries import registries_yaml
from harness.errors import UsageError
from harness.options import ProvisionOptions
from harness.redact import redact

AUTH = base64.b64encode(b"me:s3cret:with:colons").decode()


def written(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "config.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_docker_hub_is_known_by_the_host_that_its_images_come_from(tmp_path: Path) -> None:
    auths = {
        "https://index.docker.io/v1/": {"auth": AUTH},
        "quay.io": {"username": "robot", "password": "longer"},
    }
    found = {
        host: (user, word.reveal())
        for host, (user, word) in read(written(tmp_path, {"auths": auths})).items()
    }
    assert found == {"registry-1.docker.io": ("me", "s3cret:with:colons"), "quay.io": ("robot", "longer")}


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "[]",
        {},
        {"auths": {}},
        {"auths": ["quay.io"]},
        {"auths": {"quay.io": {}}, "credsStore": "desktop"},
        {"auths": {"quay.io": {"auth": "not base64"}}},
        {"auths": {"quay.io": {"auth": base64.b64encode(b"nocolon").decode()}}},
    ],
)
def test_a_file_of_no_use_is_a_usage_error_that_shows_the_form(tmp_path: Path, document: object) -> None:
    with pytest.raises(UsageError, match="--registry-auth") as caught:
        read(written(tmp_path, document))
    assert '"auths"' in caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.json: No such file"):
        read(tmp_path / "none.json")


def test_the_node_pulls_with_them_and_the_password_is_cut_from_output(tmp_path: Path) -> None:
    given = read(written(tmp_path, {"auths": {"docker.io": {"auth": AUTH}}}))
    options = ClusterOptions("rc-0a1b2c3d", "n", tmp_path, tmp_path, registry_auth=given)
    document = yaml.safe_load(yaml.safe_dump(registries_yaml(options, "")))
    assert document["configs"]["registry-1.docker.io"]["auth"] == {
        "username": "me",
        "password": "s3cret:with:colons",
    }
    assert "s3cret" not in repr(options)


def test_jobs_get_the_logins_where_the_node_has_none(tmp_path: Path) -> None:
    path = written(tmp_path, {"auths": {"docker.io": {"auth": AUTH}}})
    theirs = job_logins(ProvisionOptions(cluster="existing", registry_auth=path))
    assert json.loads(theirs["DOCKER_AUTH_CONFIG"])["auths"]["docker.io"] == {"auth": AUTH}
    assert AUTH not in redact(f"variables: {theirs}")
    assert job_logins(ProvisionOptions(registry_auth=path)) == {}
    assert job_logins(ProvisionOptions(cluster="existing")) == {}
