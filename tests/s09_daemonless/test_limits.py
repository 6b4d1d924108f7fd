"""How-to, "Running docker in a pod": what config.toml says of a job's pod. An example of an outcome."""

from __future__ import annotations

import pytest

from fixtures.pipeline import BuildMaker


@pytest.mark.steps("runner-limited")
@pytest.mark.outcome("daemonless/limits", needs=["runner/accepted"])
def test_the_job_s_container_has_the_limits_of_config_toml(build_of: BuildMaker) -> None:
    """The job's container has the limits that the Runner's config.toml sets, and the build ends well.

    How-to, "Running docker in a pod": the ConfigMap's config.toml decides what the job's pod is.
    """
    build = build_of("limited", "limited")
    build.succeeded()
    containers = {it["name"]: it for it in build.pod["spec"]["containers"]}
    limits = containers["build"]["resources"].get("limits")
    assert limits == {"cpu": "1", "memory": "512Mi"}, f"its limits are {limits}"
