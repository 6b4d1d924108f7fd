"""How-to, "Running docker in a pod": the host's docker.sock, mounted through a custom config.toml."""

from __future__ import annotations

import pytest

from fixtures import expect
from fixtures.accepted import AcceptedRunner
from fixtures.pipeline import DOCKER_SOCK, Build, BuildMaker
from fixtures.plugin.outcomes import NotApplicable
from fixtures.runner import SeenRunner
from fixtures.steps.runner_setups import FILES
from harness.stack import StackContext
from harness.stack.runner import CONFIG_NAME

SOCKET = "/var/run/docker.sock"


@pytest.mark.outcome("docker-sock/absent-by-default", needs=["runner/pod"])
def test_by_default_nothing_is_mounted(runner: SeenRunner) -> None:
    """The default Runner's config.toml mounts no host path.

    How-to, "Running docker in a pod": "[runners.kubernetes.volumes] has no docker.sock mounted".
    """
    if runner.config_name and isinstance(runner, AcceptedRunner):
        raise NotApplicable(f"Runner {runner.found} has a config of its own")
    volumes = runner.kubernetes_config().get("volumes", {})
    assert not volumes.get("host_path"), f"[runners.kubernetes.volumes] is {volumes}"


@pytest.mark.outcome("docker-sock/config-map", needs=["cluster/node-ready"])
def test_the_custom_config_map(docker_sock_runner: SeenRunner) -> None:
    """The ConfigMap custom-config-toml holds the how-to's file under the key config.toml.

    How-to, "Running docker in a pod": "kubectl create configmap custom-config-toml --from-file
    config.toml=custom-config.toml".
    """
    if isinstance(docker_sock_runner, AcceptedRunner):
        assert docker_sock_runner.template, f"ConfigMap {docker_sock_runner.config_name} holds no setting"
        return
    found = docker_sock_runner.kube.get("v1/ConfigMap", CONFIG_NAME, docker_sock_runner.namespace)
    expect.fields(found, {"data": {"config.toml": (FILES / "custom-config.toml").read_text()}}, CONFIG_NAME)


@pytest.mark.outcome("docker-sock/runner", needs=["runner/accepted", "docker-sock/config-map"])
def test_the_runner_with_config(docker_sock_runner: SeenRunner) -> None:
    """A Runner with `config: custom-config-toml` is accepted, its pod becomes ready, GitLab shows it online.

    How-to, "Running docker in a pod": "the keyword config brings in the ConfigMap; then create the Runner".
    """
    expect.fields(docker_sock_runner.resource(), {"spec.config": docker_sock_runner.config_name})
    docker_sock_runner.pod()
    docker_sock_runner.wait_status("online")


@pytest.mark.outcome("docker-sock/host-path", needs=["docker-sock/runner"])
def test_the_host_path_is_in_the_new_pod_s_config(docker_sock_runner: SeenRunner) -> None:
    """The config.toml in the new pod mounts the host's docker.sock.

    How-to, "Running docker in a pod": "[[runners.kubernetes.volumes.host_path]] name = "docker",
    mount_path = "/var/run/docker.sock", host_path = "/var/run/docker.sock"".
    """
    volumes = docker_sock_runner.kubernetes_config().get("volumes", {})
    wanted = {"name": "docker", "mount_path": SOCKET, "host_path": SOCKET}
    found = [{key: entry.get(key) for key in wanted} for entry in volumes.get("host_path", [])]
    assert found == [wanted], f"[runners.kubernetes.volumes] has host paths {found}"


@pytest.mark.steps(f"runner-{DOCKER_SOCK.setup}")
@pytest.mark.outcome("docker-sock/build-pod", needs=["docker-sock/host-path", "docker-sock/build/succeeds"])
def test_the_build_pod_mounts_it(build_of: BuildMaker) -> None:
    """The build pod has the node's docker.sock in its build container, and no privilege.

    How-to, "Running docker in a pod": "the host's docker.sock was mounted into the Runner pod".
    """
    _assert_socket_mounted(build_of(DOCKER_SOCK.setup, DOCKER_SOCK.name))


def _assert_socket_mounted(build: Build) -> None:
    spec = build.pod["spec"]
    volumes = {v["name"]: v["hostPath"]["path"] for v in spec["volumes"] if "hostPath" in v}
    container = next(c for c in spec["containers"] if c["name"] == "build")
    mounted = {m["mountPath"]: volumes.get(m["name"]) for m in container["volumeMounts"]}
    assert mounted.get(SOCKET) == SOCKET, f"the build container's mounts from the host: {volumes}"
    assert not (container.get("securityContext") or {}).get("privileged"), "the build container is privileged"


@pytest.mark.steps("runner-no-docker")
@pytest.mark.outcome("docker-sock/node-without-docker", needs=["kube-rbac-proxy/replaced"])
def test_on_a_node_without_docker_the_job_fails(build_of: BuildMaker, second_stack: StackContext) -> None:
    """Where the node has no Docker, the same job fails at docker build, and its log names the reason.

    How-to, "Running docker in a pod": it is the *host's* docker.sock; k3s itself brings none.
    """
    build = build_of("no-docker", "no-docker", second_stack)
    job = build.finished()
    assert job.status == "failed", f"the job is {job.status}"
    _assert_socket_mounted(build)
    build.assert_no_daemon()
