"""The main job over the internet path, as a new user runs it: pretend sites and registries, real clients."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selftests.internet.conftest import MainJob, assert_conforms
from selftests.internet.pretend import PretendHost

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making a cluster needs root")


def test_upstream_conforms(place: Path, bundle_dir: Path, main_job: MainJob) -> None:
    """Tokens, redirects to signed URLs, a passing 503 of two sites, and one image gone from Docker Hub."""
    host = PretendHost(
        place,
        bundle_dir,
        passing=("github.com", "quay.io"),
        lacks=("docker.io/kubesphere/kube-rbac-proxy",),
    )
    ended, report = main_job(host, "upstream")
    assert_conforms(ended, report)
    assert "quay.io/brancz/kube-rbac-proxy:v0.8.0 replaces gcr.io/kubebuilder" in ended.output
    assert "REHEARSAL" not in ended.output.partition("\n")[0]  # nobody can know it before it runs
    clients = {entry["agent"] for entry in host.asked("registry-1.docker.io")}
    assert {"python-httpx", "containerd"} <= clients
