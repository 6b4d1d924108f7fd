"""What is kept of a build pod that the runner deletes."""

from __future__ import annotations

import pytest

from fixtures.steps.pod_recorder import JOB_ID, PodRecorder, recorded
from harness.diagnosis.traces import why_job_failed

NOT_FOUND = 'failed to pull and unpack image "helper:v1": failed to resolve reference: helper:v1: not found'
TIMED_OUT = "ERROR: Job failed (system failure): prepare environment: timed out waiting for pod to start\n"


def waiting(reason, message):
    container = {"name": "init-permissions", "image": "helper:v1"}
    return {
        "metadata": {"name": "runner-x", "namespace": "n", "uid": "u", "annotations": {JOB_ID: "7"}},
        "spec": {"containers": [{"name": "build", "env": [{"name": "TOKEN", "value": "x"}]}]},
        "status": {
            "phase": "Pending",
            "initContainerStatuses": [
                {**container, "state": {"waiting": {"reason": reason, "message": message}}}
            ],
        },
    }


@pytest.mark.parametrize("between", [(), (waiting("PodInitializing", ""),)], ids=["at once", "later"])
def test_a_pod_that_backs_off_is_kept_with_what_the_pull_said(tmp_path, between):
    recorder = PodRecorder(None, "n", tmp_path)  # type: ignore[arg-type]
    back_off = waiting("ImagePullBackOff", 'Back-off pulling image "helper:v1"')
    for pod in (waiting("ErrImagePull", NOT_FOUND), *between, back_off):
        recorder._write_all([pod])
    pod = recorded(tmp_path, 7)
    assert pod is not None
    assert "env" not in pod["spec"]["containers"][0]
    assert why_job_failed(TIMED_OUT, "runner_system_failure", "job x", pod).id == "pull/not-found"


def test_a_pod_deleted_before_it_ran_is_kept_as_it_waited(tmp_path):
    deleted = waiting("ErrImagePull", NOT_FOUND)
    deleted["metadata"]["deletionTimestamp"] = "2026-11-28T00:00:00Z"
    unknown = {"reason": "ContainerStatusUnknown", "exitCode": 137}
    ended = {"name": "init-permissions", "image": "helper:v1", "state": {"terminated": unknown}}
    deleted["status"] = {"phase": "Failed", "initContainerStatuses": [ended]}  # by the kubelet since 1.27
    recorder = PodRecorder(None, "n", tmp_path)  # type: ignore[arg-type]
    recorder._write_all([waiting("ErrImagePull", NOT_FOUND), deleted])
    assert (
        why_job_failed(TIMED_OUT, "runner_system_failure", "job x", recorded(tmp_path, 7)).id
        == "pull/not-found"
    )


def test_a_pod_whose_pull_was_never_seen_to_fail_is_kept_as_it_is(tmp_path):
    back_off = waiting("ImagePullBackOff", 'Back-off pulling image "helper:v1"')
    PodRecorder(None, "n", tmp_path)._write_all([back_off])  # type: ignore[arg-type]
    pod = recorded(tmp_path, 7)
    assert pod is not None
    assert pod["status"]["initContainerStatuses"] == back_off["status"]["initContainerStatuses"]
