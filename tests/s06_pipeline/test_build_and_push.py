"""How-to, "Testing the Runner": a job builds an image and pushes it to the project's registry.

One body for every way to build: docker-dind plain and over TLS, the node's docker.sock (whose outcomes are in
section docker-sock), and without any daemon (section daemonless).
"""

from __future__ import annotations

import pytest

from fixtures.pipeline import DAEMONLESS, DIND, DIND_TLS, DOCKER_SOCK, Build, Variant, param
from fixtures.steps.base_image import image_file
from fixtures.steps.runner_setups import GREETING

NEEDS = ("runner/accepted", "cluster/dns")
pytestmark = pytest.mark.parametrize(
    "variant", [param(DIND), param(DIND_TLS), param(DOCKER_SOCK), param(DAEMONLESS)]
)


@pytest.mark.outcome("{variant}/succeeds", needs=NEEDS)
def test_the_job_succeeds(build: Build) -> None:
    """The pipeline's job shows the project's registry its credentials, builds, pushes, and ends well.

    How-to, "Testing the Runner": docker login, docker build, docker push; "the pipeline was successful".
    """
    build.succeeded()
    build.assert_authenticated()
    assert build.pipeline.status == "success", f"the pipeline is {build.pipeline.status}"


@pytest.mark.outcome("{variant}/our-runner", needs=["{variant}/succeeds"])
def test_it_ran_on_our_runner(build: Build) -> None:
    """The job ran on the Runner that the operator made: GitLab says so, and so does the job's log.

    How-to, "Testing the Runner": the log's red box shows "the Runner created with GitLab Runner Operator".
    """
    job = build.succeeded()
    assert job.runner is not None, "GitLab shows no runner for the job"
    assert job.runner["id"] == build.runner.runner_id, f"it ran on runner {job.runner}"
    assert job.tag_list == [build.runner.tag], f"its tags are {job.tag_list}"
    build.assert_said(f"via {build.runner.name}-runner-")


@pytest.mark.outcome("{variant}/pod", needs=["{variant}/succeeds"])
def test_it_ran_in_a_pod_of_its_own(build: Build, variant: Variant) -> None:
    """The job ran in a pod with build and helper containers, and one for each service.

    How-to, "Running docker in a pod": the job "runs docker commands in a Kubernetes pod".
    """
    containers = [container["name"] for container in build.pod["spec"]["containers"]]
    services = [f"svc-{number}" for number in range(variant.services)]
    assert sorted(containers) == sorted(["build", "helper", *services]), f"the pod has {containers}"
    privileged = [
        container["name"]
        for container in build.pod["spec"]["containers"]
        if (container.get("securityContext") or {}).get("privileged")
    ]
    assert bool(privileged) == variant.privileged, f"privileged containers: {privileged}"


@pytest.mark.outcome("{variant}/pushed", needs=["{variant}/succeeds"])
def test_the_image_is_in_the_registry(build: Build) -> None:
    """The tag is in the project's registry, and is the very image that the job pushed.

    How-to, "Testing the Runner": "docker push $CI_REGISTRY_IMAGE:v1.0.0".
    """
    build.succeeded()
    listed = build.session.registry_tags()
    assert any(build.image_tag in tags for tags in listed.values()), f"GitLab lists {listed}"
    with build.registry() as registry:
        digest = registry.manifest(build.repository, build.image_tag).digest
    assert digest == build.pushed_digest, f"the job pushed {build.pushed_digest}, the registry has {digest}"


@pytest.mark.outcome("{variant}/content", needs=["{variant}/pushed"])
def test_the_image_holds_what_the_dockerfile_says(build: Build) -> None:
    """The pushed image, pulled again, holds the files that the Dockerfile's COPY and RUN made.

    How-to, "Testing the Runner": "docker build -t $CI_REGISTRY_IMAGE:v1.0.0 .".
    """
    with build.registry() as registry:
        copied = image_file(registry, build.repository, build.image_tag, "/greeting.txt")
        built = image_file(registry, build.repository, build.image_tag, "/built")
    assert copied == GREETING.encode(), f"/greeting.txt holds {copied!r}"
    assert built == f"{GREETING}built by RUN\n".encode(), f"/built holds {built!r}"
