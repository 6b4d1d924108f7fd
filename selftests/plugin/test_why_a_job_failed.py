"""The reason of a failed job, in one line, from logs as gitlab-runner 16.0.1 writes them."""

from __future__ import annotations

import pytest

from fixtures.pipeline import why_it_failed

SCRIPT = """Executing "step_script" stage of the job script
$ docker login -u "$CI_REGISTRY_USER" -p "$CI_REGISTRY_PASSWORD" $CI_REGISTRY
Get "https://10.99.2.2/v2/": x509: certificate signed by unknown authority

Cleaning up project directory and file based variables
ERROR: Job failed: command terminated with exit code 1
"""
PULL = """Waiting for pod default/runner-x to be running, status is Pending
WARNING: Failed to pull image with policy "": image pull failed: Back-off pulling image "docker:latest"
ERROR: Job failed: prepare environment: waiting for pod running: pulling image "docker:latest"
"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            SCRIPT,
            'Get "https://10.99.2.2/v2/": x509: certificate signed by unknown authority '
            "(ERROR: Job failed: command terminated with exit code 1)",
        ),
        (PULL, PULL.splitlines()[-1]),
        ("", "its log names no error"),
        ("ERROR: Job failed: exit code 3", "ERROR: Job failed: exit code 3"),
    ],
)
def test_the_reason_is_what_helps(log, reason):
    assert why_it_failed(log) == reason
