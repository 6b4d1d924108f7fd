"""Why a CI job failed, and who is at fault: from logs as gitlab-runner 16.0.1 and 18.7 write them."""

from __future__ import annotations

from typing import Any

import pytest

from harness.diagnosis.traces import plain, why_job_failed
from harness.errors import Blame

SECTION = "section_start:1795401488:{0}\r\x1b[0K\x1b[0K\x1b[36;1m{1}\x1b[0;m\x1b[0;m\n"
END = "\nsection_end:1795401489:{0}\r\x1b[0K"
EXIT = "\x1b[31;1mERROR: Job failed: command terminated with exit code 1\n\x1b[0;m"
PREPARE = "\x1b[31;1mERROR: Job failed (system failure): prepare environment: "
HINT = (
    ". Check https://docs.gitlab.com/runner/shells/index.html#shell-profile-loading for more information"
    "\x1b[0;m\n"
)
UNSCHEDULABLE = '\tUnschedulable: "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes."\n'
WAITING = "Waiting for pod default/runner-x to be running, status is Pending\n"


def script(*said: str, command: str = "docker push $CI_REGISTRY_IMAGE:v1.0.0", then: str = "") -> str:
    body = "".join(f"{line}\n" for line in said)
    return (
        SECTION.format("prepare_script", "Preparing environment")
        + WAITING
        + END.format("prepare_script")
        + SECTION.format("step_script", 'Executing "step_script" stage of the job script')
        + f"\x1b[32;1m$ {command}\x1b[0;m\n{body}"
        + END.format("step_script")
        + then
        + EXIT
    )


def prepare(*said: str, error: str) -> str:
    body = "".join(said)
    return (
        SECTION.format("prepare_script", "Preparing environment")
        + body
        + END.format("prepare_script")
        + PREPARE
        + error
        + HINT
    )


def stamped(log: str) -> str:
    """As gitlab-runner 18.7 and newer write it with timestamps: time, stream, O or E on every line."""
    return "".join(f"2026-11-27T20:51:32.123456Z 00O {line}\n" for line in log.split("\n"))


def artifacts(*said: str, section: str = "upload_artifacts_on_success") -> str:
    """The script has succeeded; its artifacts don't arrive. The last section says so."""
    body = "".join(f"{line}\n" for line in said)
    done = SECTION.format("step_script", "Executing") + "$ true\n" + END.format("step_script")
    return done + SECTION.format(section, "Uploading artifacts") + body + END.format(section) + EXIT


AS_ARCHIVE = 'Uploading artifacts as "archive" to coordinator... '
FORBIDDEN = 'setting up build pod: pods "runner-x" is forbidden: '
PULLING = 'waiting for pod running: pulling image "a:1": image pull failed: '


@pytest.mark.parametrize("dress", [str, stamped], ids=["plain", "stamped"])
@pytest.mark.parametrize(
    ("log", "rule", "blame", "words"),
    [
        (script('Get "https://10.99.2.2/v2/": x509: certificate signed by unknown authority'),
         "ci/untrusted", Blame.ENVIRONMENT, "signed by unknown authority (ERROR: Job failed"),
        (script('Get "https://r/v2/": dial tcp 10.0.0.1:443: connect: connection refused'),
         "ci/unreachable", Blame.ENVIRONMENT, "connection refused"),
        (script('Get "https://r/v2/": dial tcp: lookup r on 10.43.0.10:53: no such host'),
         "ci/dns", Blame.ENVIRONMENT, "no such host"),
        (script("d1: Retrying in 1 second", "EOF"), "ci/unreachable", Blame.ENVIRONMENT, "EOF (ERROR"),
        (script("wget: download timed out"), "ci/unreachable", Blame.ENVIRONMENT, "timed out"),
        (prepare(error="setting up build pod: etcdserver: request timed out"),
         "ci/kubernetes-unreachable", Blame.ENVIRONMENT, "etcdserver"),
        (prepare(error='Post "https://10.43.0.1:443/api/v1/namespaces/x/pods/y/exec": unexpected EOF'),
         "ci/kubernetes-unreachable", Blame.ENVIRONMENT, "unexpected EOF"),
        (script("received unexpected HTTP status: 503 Service Unavailable"),
         "ci/server-error", Blame.ENVIRONMENT, "503"),
        (script("toomanyrequests: You have reached your pull rate limit"),
         "ci/registry-limit", Blame.ENVIRONMENT, "pull rate limit"),
        (script("denied: access forbidden"), "ci/registry-denied", Blame.ENVIRONMENT, "denied"),
        (script("write /x: no space left on device"), "ci/disk-full", Blame.ENVIRONMENT, "no space left"),
        (script('Get "https://r/v2/": x509: certificate has expired or is not yet valid: current time'),
         "ci/certificate-expired", Blame.ENVIRONMENT, "expired"),
        (script("Error response from daemon: client version 1.52 is too new. Maximum supported API version"),
         "ci/client-too-new", Blame.PRODUCT, "1.52 is too new"),
        (script("Cannot connect to the Docker daemon at tcp://docker:2375. Is the docker daemon running?"),
         "ci/no-daemon", Blame.PRODUCT, "tcp://docker:2375"),
        (script("docker: no such thing", "See 'docker run --help'", "Run 'docker run --help' for more"),
         "ci/script", Blame.PRODUCT, "docker: no such thing (ERROR"),
        (script("the cause", then=SECTION.format("after_script", "Running after_script") + "x509: no cause\n"
         + END.format("after_script")), "ci/script", Blame.PRODUCT, "the cause (ERROR"),
        (script("#7 0.3 wget: bad address 'example.org'", "#7 ERROR: exit code: 1", "------", "Dockerfile:3",
                "   3 | >>> RUN wget", "ERROR: failed to solve: exit code: 1"),
         "ci/dns", Blame.ENVIRONMENT, "bad address"),
        (script(), "ci/script", Blame.PRODUCT, "it said nothing"),
        (prepare(error=FORBIDDEN + "exceeded quota: q, requested: pods=1"),
         "admission/quota", Blame.ENVIRONMENT, "exceeded quota: q"),
        (prepare(error=FORBIDDEN + 'violates PodSecurity "baseline:latest": privileged'),
         "admission/pod-security", Blame.ENVIRONMENT, "PodSecurity"),
        (prepare(error=FORBIDDEN + 'User "system:serviceaccount:a:b" cannot create resource "pods/exec"'),
         "admission/forbidden", Blame.ENVIRONMENT, "pods/exec"),
        (prepare(WAITING, UNSCHEDULABLE, error="waiting for pod running: timed out waiting for pod to start"),
         "schedule/insufficient", Blame.ENVIRONMENT, "Insufficient cpu"),
        (prepare(error=PULLING + "unexpected status: 429 Too Many Requests"),
         "pull/rate-limited", Blame.ENVIRONMENT, "429"),
        (prepare(error=PULLING + "a:1: not found"), "pull/not-found", Blame.PRODUCT, "a:1: not found"),
        (artifacts(*[f"ERROR: {AS_ARCHIVE}401 Unauthorized  id=12 responseStatus=401 Unauthorized status=401",
                     "WARNING: Retrying...   context=artifacts-uploader error=invalid argument"] * 3,
                   "FATAL: invalid argument"),
         "ci/artifacts-refused", Blame.ENVIRONMENT, "401 Unauthorized"),
        (artifacts("WARNING: POST https://gitlab.example.com/api/v4/jobs/12/artifacts: 401 Unauthorized"),
         "ci/artifacts-refused", Blame.ENVIRONMENT, "jobs/12/artifacts: 401"),
        (artifacts("ERROR: Downloading artifacts from coordinator... unauthorized  id=12",
                   "FATAL: permission denied", section="download_artifacts"),
         "ci/artifacts-refused", Blame.ENVIRONMENT, "unauthorized"),
        (artifacts("ERROR: Downloading artifacts from coordinator... not found  id=12 status=404",
                   "FATAL: not found", section="download_artifacts"),
         "ci/artifacts", Blame.ENVIRONMENT, "not found"),
        (artifacts(f"ERROR: {AS_ARCHIVE}413 Request Entity Too Large  id=12", "FATAL: too large"),
         "ci/artifacts", Blame.ENVIRONMENT, "413"),
        (script("Error response from daemon: login attempt failed with status: 401 Unauthorized"),
         "ci/registry-denied", Blame.ENVIRONMENT, "401"),
        (script("Error: login attempt to https://r.example.com/v2/ failed with status: 404 Not Found"),
         "ci/no-registry", Blame.ENVIRONMENT, "404"),
        (script("blob upload unknown"), "ci/upload-lost", Blame.ENVIRONMENT, "blob upload unknown"),
        (script("received unexpected HTTP status: 413 Request Entity Too Large"),
         "ci/too-large", Blame.ENVIRONMENT, "413"),
        (script("ERROR: failed to solve: alpine:no: docker.io/library/alpine:no: not found"),
         "ci/image-missing", Blame.PRODUCT, "alpine:no"),
        (script("Killed"), "ci/killed", Blame.ENVIRONMENT, "Killed"),
        (script("WARNING: fetching https://x: temporary error (try again later)"),
         "ci/unreachable", Blame.ENVIRONMENT, "temporary error"),
        (script("sh: docker: not found"), "ci/not-found", Blame.PRODUCT, "docker: not found"),
        (prepare(error="something new"), "ci/system", Blame.ENVIRONMENT, "something new"),
    ],
)  # fmt: skip
def test_a_jobs_log_is_read_as_its_viewers_read_it(
    dress: Any, log: str, rule: str, blame: Blame, words: str
) -> None:
    found = why_job_failed(dress(log), "script_failure", "job build of a/b is failed")
    assert (found.id, found.blame) == (rule, blame), found.sentence
    assert words in found.sentence
    assert found.sentence.startswith("job build of a/b is failed: ")
    assert "shell-profile-loading" not in found.sentence


def test_a_log_that_says_nothing_is_said_to() -> None:
    found = why_job_failed("", "runner_system_failure", "job x is failed")
    assert (found.id, found.blame) == ("unknown", Blame.ENVIRONMENT)
    assert "its log names no error" in found.sentence
    assert "runner_system_failure" in found.sentence


def build_pod(name: str, reason: str, code: int, **metadata: Any) -> dict[str, Any]:
    ended = {"exitCode": code, "reason": reason}
    return {
        "metadata": {"name": "runner-x", "namespace": "n", **metadata},
        "spec": {"containers": [{"name": name}]},
        "status": {
            "containerStatuses": [{"name": name, "image": "docker:dind", "state": {"terminated": ended}}]
        },
    }


NO_DAEMON = script("Cannot connect to the Docker daemon at tcp://docker:2375. Is the docker daemon running?")


def test_the_end_of_a_service_says_more_than_the_clients_complaint() -> None:
    limited = {"kubernetes.io/limit-ranger": "LimitRanger plugin set: memory limit for container svc-0"}
    killed = build_pod("svc-0", "OOMKilled", 137, annotations=limited)
    found = why_job_failed(NO_DAEMON, "script_failure", "job x", killed)
    assert (found.id, found.blame) == ("container/limit-range", Blame.ENVIRONMENT)
    unprivileged = build_pod("svc-0", "Error", 1)
    said = {"svc-0": "mount: permission denied (are you root?) / Could not mount /sys/kernel/security."}
    found = why_job_failed(NO_DAEMON, "script_failure", "job x", unprivileged, said)
    assert (found.id, found.blame) == ("ci/dind-needs-privilege", Blame.PRODUCT)
    assert "docker:dind" in found.sentence
    assert any(other.id == "ci/no-daemon" for other in found.others)


def test_a_service_that_ended_beside_the_hosts_docker_is_not_the_reason() -> None:
    """The how-to's job has its docker-dind service also with docker.sock, where it can't listen."""
    pod = build_pod("svc-0", "Error", 1)
    pod["spec"]["volumes"] = [{"name": "docker", "hostPath": {"path": "/var/run/docker.sock"}}]
    said = {
        "svc-0": "mount: permission denied (are you root?) / can't create unix socket /var/run/docker.sock"
    }
    refused = script("Error response: x509: certificate signed by unknown authority")
    found = why_job_failed(refused, "script_failure", "job x", pod, said)
    assert (found.id, found.blame) == ("ci/untrusted", Blame.ENVIRONMENT)
    assert "ci/dind-needs-privilege" not in {it.id for it in found.others}


def test_an_evicted_build_pod_is_the_reason_not_that_it_is_gone() -> None:
    gone = '\x1b[31;1mERROR: Job failed (system failure): pods "runner-x" not found\x1b[0;m\n'
    evicted = build_pod("build", "Completed", 0)
    evicted["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
    found = why_job_failed(gone, "runner_system_failure", "job x", evicted)
    assert (found.id, found.blame) == ("schedule/evicted", Blame.ENVIRONMENT)


@pytest.mark.parametrize(
    ("reason", "message", "rule", "blame"),
    [
        ("ErrImagePull", "rpc error: helper:v1: not found", "pull/not-found", Blame.PRODUCT),
        ("ErrImagePull", "dial tcp 10.0.0.1:443: i/o timeout", "pull/unreachable", Blame.ENVIRONMENT),
        ("CreateContainerConfigError", 'secret "x" not found', "container/config", Blame.PRODUCT),
    ],
)
def test_what_a_pod_waited_for_when_the_runners_time_ran_out(
    reason: str, message: str, rule: str, blame: Blame
) -> None:
    """Of an init container (the helper's image) gitlab-runner says only that the pod did not start."""
    log = prepare(WAITING, error="waiting for pod running: timed out waiting for pod to start")
    waiting = {"name": "init-permissions", "image": "helper:v1"}
    waiting["state"] = {"waiting": {"reason": reason, "message": message}}  # type: ignore[assignment]
    pod = {
        "metadata": {"name": "runner-x", "namespace": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": []},
        "status": {"phase": "Pending", "initContainerStatuses": [waiting]},
    }
    found = why_job_failed(log, "runner_system_failure", "job x", pod)
    assert (found.id, found.blame) == (rule, blame)
    assert "ci/pod-slow" in {it.id for it in found.others}


def test_a_reader_sees_no_marks() -> None:
    assert "\x1b" not in plain(NO_DAEMON)
    assert "section_" not in plain(stamped(NO_DAEMON))
    assert plain("2026-11-27T20:51:32.1Z 00O one \n2026-11-27T20:51:33.1Z 00O+two\n").startswith("one two")
