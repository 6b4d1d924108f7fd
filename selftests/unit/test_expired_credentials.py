"""A cluster that does not know the kubeconfig's user: a sentence that says so, and whose age it is."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from harness import kubeconfig as kubeconfigs
from harness.cluster import ExistingCluster
from harness.errors import EnvironmentProblem
from harness.kube import ApiError, Kube
from selftests.unit.client_certificates import client_certificate


class Strict:
    """An API server that knows nobody."""

    def request(self, method: str, path: str, **named: Any) -> Any:
        raise ApiError(401, "Unauthorized", "Unauthorized", doing=f"{method} {path}")


def kubeconfig(directory: Path, user: dict[str, str]) -> Path:
    path = directory / "config"
    document = {
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "theirs", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def with_certificate(directory: Path, until: datetime) -> Path:
    pair = client_certificate("person", until)
    data = [base64.b64encode(it.encode()).decode() for it in pair]
    return kubeconfig(directory, {"client-certificate-data": data[0], "client-key-data": data[1]})


def refused(path: Path) -> EnvironmentProblem:
    with pytest.raises(EnvironmentProblem) as caught:
        ExistingCluster(path, "theirs", lambda path, context: cast(Kube, Strict())).start()
    return caught.value


def test_who_is_not_known_is_told_so_and_what_to_renew(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"token": "old"})
    error = refused(path)
    assert error.message == f"the cluster of 'theirs' in {path} does not know its user (HTTP 401)"
    assert "renew the kubeconfig's token" in error.hint
    assert error.exit_code == 10


def test_an_expired_certificate_is_told_with_its_day(tmp_path: Path) -> None:
    path = with_certificate(tmp_path, datetime(2024, 2, 29, 12, 30, tzinfo=UTC))
    assert refused(path).message.endswith(
        "(HTTP 401): its client certificate has expired on 2024-02-29 12:30 UTC"
    )


def test_a_valid_certificate_is_not_blamed_for_its_age(tmp_path: Path) -> None:
    path = with_certificate(tmp_path, datetime.now(UTC) + timedelta(days=1))
    assert kubeconfigs.expired(path, "theirs") == ""
    assert "expired" not in refused(path).message
