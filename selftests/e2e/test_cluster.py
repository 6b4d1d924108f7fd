"""The ephemeral cluster on this host: it works, several do, and nothing of them stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.artifacts.bundle import Bundle
from harness.cluster import DOCKER, K3sCluster, find_leftovers, reap
from harness.cluster.record import Record
from harness.errors import EnvironmentProblem
from harness.kube import Kube
from harness.wait import wait_for
from selftests.e2e.host_state import difference, processes_below, snapshot
from selftests.e2e.nodes import (
    ALPINE,
    POD_TIMEOUT_S,
    await_phase,
    await_service_account,
    options,
    run_pod,
    waiting_reason,
)

DIND = "docker.io/library/docker:20.10.7-dind"
WITHHELD = "quay.io/runner-conformance/withheld:1"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making a node needs root")


@pytest.fixture(scope="module")
def cluster(each_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[K3sCluster]:
    """One node with a docker engine, for all tests that only look at it."""
    one = K3sCluster(
        options(
            each_bundle_dir,
            tmp_path_factory.mktemp("cluster") / "state",
            "main",
            docker=True,
            unreachable_registries=("gcr.io",),
        )
    )
    one.start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def kube(cluster: K3sCluster) -> Kube:
    client = Kube(cluster.kubeconfig)
    await_service_account(client)
    return client


def test_the_node_has_k3s_roles_and_the_version_of_the_binary(
    cluster: K3sCluster, kube: Kube, kubernetes: str
) -> None:
    node = kube.get("v1/Node", "main")
    assert node is not None
    roles = {it.rpartition("/")[2] for it in node["metadata"]["labels"] if it.startswith("node-role.")}
    older = int(kubernetes.split(".")[1]) < 34  # k3s pull request 12395
    assert roles == ({"control-plane", "master"} if older else {"control-plane"})
    assert node["status"]["nodeInfo"]["kubeletVersion"] == cluster.version
    assert cluster.version.startswith(f"v{kubernetes}.")
    assert cluster.node_shell(["k3s", "--version"]).stdout.startswith(f"k3s version {cluster.version} (")


def test_pods_resolve_services_through_coredns_and_other_names_fail_at_once(kube: Kube) -> None:
    """Not after a resolver's 5 s. A CoreDNS that has just started learns by a lookup that nobody answers."""
    script = """
        until nslookup kubernetes.default.svc.cluster.local; do sleep 0.5; done
        nslookup upstream.invalid
        before=$(cut -d' ' -f1 /proc/uptime); nslookup upstream.invalid
        echo took $(cut -d' ' -f1 /proc/uptime | awk -v before=$before '{ print $1 - before }')
    """
    run_pod(kube, "dns", ALPINE, script)
    await_phase(kube, "dns", "Succeeded")
    log = kube.logs("dns", "default")
    assert "10.43.0.1" in log
    assert float(log.rpartition("took ")[2]) <= 1, log


def test_an_image_of_quay_io_is_pulled_through_the_mirror(kube: Kube, each_bundle_dir: Path) -> None:
    held = Bundle.read(each_bundle_dir).images
    image = next(it for it in held if it.ref.startswith("quay.io/jetstack/cert-manager-controller:"))
    run_pod(kube, "quay", image.ref, arguments=("--help",))
    await_phase(kube, "quay", "Succeeded")
    (status,) = (kube.get("v1/Pod", "quay", "default") or {})["status"]["containerStatuses"]
    assert status["imageID"] == f"{image.ref.rpartition(':')[0]}@{image.digest}"
    events = kube.list("v1/Event", "default", field_selector="involvedObject.name=quay,reason=Pulled")
    assert [it["message"].partition(" in ")[0] for it in events] == [
        f'Successfully pulled image "{image.ref}"'
    ]


def test_an_image_that_the_registry_lacks_gives_err_image_pull(kube: Kube) -> None:
    run_pod(kube, "withheld", WITHHELD)
    wait_for(
        lambda: waiting_reason(kube, "withheld"),
        ready=lambda it: it in {"ErrImagePull", "ImagePullBackOff"},
        what="pull of a withheld image refused",
        timeout_s=POD_TIMEOUT_S,
    )
    events = kube.list("v1/Event", "default", field_selector="involvedObject.name=withheld,reason=Failed")
    assert any("not found" in it["message"] for it in events), [it["message"] for it in events]


def test_an_unreachable_registry_refuses_even_an_image_that_the_bundle_has(kube: Kube) -> None:
    run_pod(kube, "unreachable", "gcr.io/kubebuilder/kube-rbac-proxy:v0.8.0")
    wait_for(
        lambda: waiting_reason(kube, "unreachable"),
        ready=lambda it: it in {"ErrImagePull", "ImagePullBackOff"},
        what="pull from an unreachable registry refused",
        timeout_s=POD_TIMEOUT_S,
    )
    events = kube.list("v1/Event", "default", field_selector="involvedObject.name=unreachable,reason=Failed")
    assert any("connection refused" in it["message"] for it in events), [it["message"] for it in events]


def test_a_privileged_pod_runs_dockerd_that_builds(cluster: K3sCluster, kube: Kube) -> None:
    archive = cluster.state_dir / "alpine.tar"
    pulled = cluster.node_shell(["k3s", "crictl", "pull", ALPINE])
    assert pulled.returncode == 0, pulled.stderr
    assert cluster.node_shell(["k3s", "ctr", "images", "export", str(archive), ALPINE]).returncode == 0
    run_pod(kube, "dind", DIND, privileged=True)
    await_phase(kube, "dind", "Running")
    await_docker = "for i in $(seq 120); do docker version >/dev/null 2>&1 && exit 0; sleep 0.5; done; exit 1"
    assert kube.exec("dind", "default", ["sh", "-c", await_docker], timeout_s=70).code == 0, kube.logs(
        "dind", "default"
    )
    _copy_into(cluster, kube, "dind", archive)
    script = f"""
        docker load -i /alpine.tar && mkdir /tmp/build && cd /tmp/build || exit 1
        printf 'FROM {ALPINE}\\nRUN echo built > /made && cat /made\\n' > Dockerfile
        docker build .
    """
    done = kube.exec("dind", "default", ["sh", "-c", script], timeout_s=120)
    assert done.code == 0, done.stdout + done.stderr
    assert "Successfully built" in done.stdout
    assert "overlay2" in kube.exec("dind", "default", ["docker", "info"]).stdout


def _copy_into(cluster: K3sCluster, kube: Kube, pod: str, file: Path) -> None:
    """Put a file into a pod's root, by the node's view of the container's process."""
    status = (kube.get("v1/Pod", pod, "default") or {})["status"]["containerStatuses"][0]
    container = status["containerID"].rpartition("/")[2]
    tasks = cluster.node_shell(["k3s", "ctr", "tasks", "ls"]).stdout.splitlines()
    pid = next(line.split()[1] for line in tasks if line.startswith(container))
    done = cluster.node_shell(["cp", str(file), f"/proc/{pid}/root/{file.name}"])
    assert done.returncode == 0, done.stderr


def test_the_node_has_a_docker_engine_of_its_own(cluster: K3sCluster) -> None:
    assert DOCKER in cluster.abilities
    assert cluster.node_shell(["test", "-S", "/var/run/docker.sock"]).returncode == 0
    (cluster.state_dir / "build").mkdir()
    (cluster.state_dir / "build/Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    docker = str(cluster.state_dir / "docker-engine/usr/bin/docker")
    done = cluster.node_shell([docker, "build", str(cluster.state_dir / "build")], timeout_s=60)
    assert done.returncode == 0, done.stderr
    certificates = cluster.node_etc_docker / "certs.d"
    certificates.mkdir()
    assert cluster.node_shell(["test", "-d", "/etc/docker/certs.d"]).returncode == 0


def test_attaching_from_another_process_finds_the_same_cluster(cluster: K3sCluster) -> None:
    other = K3sCluster.attach(cluster.state_dir)
    assert (other.node_ip, other.host_ip, other.kubeconfig) == (
        cluster.node_ip,
        cluster.host_ip,
        cluster.kubeconfig,
    )
    assert other.abilities == cluster.abilities


def test_a_second_cluster_in_the_same_place_is_refused(cluster: K3sCluster, each_bundle_dir: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="there is a cluster in"):
        K3sCluster(options(each_bundle_dir, cluster.state_dir, "main")).start()
    assert K3sCluster.attach(cluster.state_dir).kubeconfig.exists()


def test_stopping_leaves_the_host_as_it_was(each_bundle_dir: Path, tmp_path: Path) -> None:
    chosen = options(each_bundle_dir, tmp_path / "state", "tidy", docker=True)
    before = snapshot(chosen.run_id, ignore=(tmp_path,))
    one = K3sCluster(chosen)
    kube = Kube(one.start())
    await_service_account(kube)
    run_pod(kube, "sleeper", ALPINE, "sleep 600")
    await_phase(kube, "sleeper", "Running")
    namespaces = _pid_namespaces(chosen.state_dir)
    during = snapshot(chosen.run_id, ignore=(tmp_path,))
    assert during["links and addresses"] != before["links and addresses"], "the comparison is blind"
    assert during["cgroups"] != before["cgroups"], "the comparison is blind"
    if shutil.which("nft"):
        assert during["nft rules"] != before["nft rules"], "the comparison is blind"
    one.stop()
    one.stop()
    assert difference(before, snapshot(chosen.run_id, ignore=(tmp_path,))) == {}
    assert processes_below(namespaces, str(chosen.state_dir)) == []
    assert not chosen.state_dir.exists()
    assert find_leftovers(chosen.run_id) == []


def _pid_namespaces(state_dir: Path) -> set[str]:
    return {str(Path(f"/proc/{Record.load(state_dir).node}/ns/pid").readlink())}


STARTER = """
    import sys, time
    from pathlib import Path
    from harness.cluster import ClusterOptions, K3sCluster
    run_id, k3s, state_dir, registry, storage = sys.argv[1:]
    files = (Path(registry), Path(storage))
    one = K3sCluster(ClusterOptions(run_id, "killed", Path(k3s), Path(state_dir), *files))
    one.start()
    print("started", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("keeper_too", [False, True], ids=["starter killed", "starter and keeper killed"])
def test_killed_clusters_leave_nothing_after_reaping(
    each_bundle_dir: Path, tmp_path: Path, keeper_too: bool
) -> None:
    chosen = options(each_bundle_dir, tmp_path / "state", "killed")
    before = snapshot(chosen.run_id, ignore=(tmp_path,))
    arguments = [chosen.run_id, chosen.k3s, chosen.state_dir, chosen.registry_program, chosen.storage]
    starter = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STARTER), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout
    assert starter.stdout.readline() == "started\n"
    namespaces = _pid_namespaces(chosen.state_dir)
    keeper = Record.load(chosen.state_dir).keeper
    if keeper_too:
        os.kill(keeper, signal.SIGKILL)
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + 10
    while (alive := processes_below(namespaces, str(chosen.state_dir))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive == [], "a killed starter leaves processes"
    found = find_leftovers(chosen.run_id, places=[chosen.state_dir])
    assert found, "its state directory at least is left"
    assert reap(found) == []
    assert find_leftovers(chosen.run_id, places=[chosen.state_dir]) == []
    assert difference(before, snapshot(chosen.run_id, ignore=(tmp_path,))) == {}


@pytest.mark.parametrize("after_s", [0.1, 0.8, 2.0])
def test_an_interrupt_at_any_moment_of_the_start_leaves_nothing(
    bundle_dir: Path, tmp_path: Path, after_s: float
) -> None:
    chosen = options(bundle_dir, tmp_path / "state", "hasty")
    before = snapshot(chosen.run_id, ignore=(tmp_path,))
    timer = threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        K3sCluster(chosen).start()
    assert find_leftovers(chosen.run_id, places=[chosen.state_dir]) == []
    assert not chosen.state_dir.exists()
    assert processes_below(set(), str(chosen.state_dir)) == []
    assert difference(before, snapshot(chosen.run_id, ignore=(tmp_path,))) == {}


def test_starting_in_a_thread_that_ends_does_not_end_the_cluster(bundle_dir: Path, tmp_path: Path) -> None:
    """The kernel's death signal would follow the thread."""
    one = K3sCluster(options(bundle_dir, tmp_path / "state", "threaded"))
    thread = threading.Thread(target=one.start)
    thread.start()
    thread.join()
    try:
        time.sleep(1)
        assert Kube(one.kubeconfig).list("v1/Node")
    finally:
        one.stop()


@pytest.mark.second_kubernetes
@pytest.mark.parametrize("kubernetes", ["1.28"], indirect=True)
def test_both_kubernetes_versions_run_side_by_side(
    cluster: K3sCluster, kube: Kube, new_bundle_dir: Path, tmp_path: Path
) -> None:
    other = K3sCluster(options(new_bundle_dir, tmp_path / "state", "other"))
    try:
        new = Kube(other.start())
        await_service_account(new)
        for client, name in ((kube, "beside-1"), (new, "beside-2")):
            run_pod(client, name, ALPINE, "sleep 600")
            await_phase(client, name, "Running")
        assert cluster.node_ip != other.node_ip
        assert other.version.startswith("v1.37.")
        # kubelets that shared cgroups would remove each other's pods within their housekeeping's 2 s
        time.sleep(4)
        for client, name in ((kube, "beside-1"), (new, "beside-2")):
            await_phase(client, name, "Running")
            pod = client.get("v1/Pod", name, "default") or {}
            assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
        assert cluster.node_shell(["bash", "-c", f"exec 3<>/dev/tcp/{other.node_ip}/6443"]).returncode == 0
    finally:
        other.stop()
    assert kube.list("v1/Node")


def test_a_k3s_that_dies_is_told_with_its_last_lines(bundle_dir: Path, tmp_path: Path) -> None:
    chosen = options(bundle_dir, tmp_path / "state", "dies", extra_args=("--no-such-flag",))
    with pytest.raises(EnvironmentProblem, match="k3s ended by itself with status 1") as caught:
        K3sCluster(chosen).start()
    assert "flag provided but not defined: -no-such-flag" in caught.value.evidence
    assert not chosen.state_dir.exists()
    assert find_leftovers(chosen.run_id) == []


def test_a_child_of_the_stand_in_that_dies_ends_it_with_its_last_lines(
    bundle_dir: Path, tmp_path: Path
) -> None:
    chosen = options(bundle_dir, tmp_path / "state", "orphan", extra_args=("--kubelet-arg=no-such-flag=1",))
    with pytest.raises(EnvironmentProblem) as caught:
        K3sCluster(chosen).start()
    assert "kubelet exited" in caught.value.evidence
    assert "unknown flag: --no-such-flag" in caught.value.evidence


def test_the_server_ends_cleanly_on_sigterm(bundle_dir: Path, tmp_path: Path) -> None:
    one = K3sCluster(options(bundle_dir, tmp_path / "state", "sigterm"))
    one.start()
    try:
        begun = time.monotonic()
        assert one.node_shell(["sh", "-c", "kill -TERM $(pgrep -o -f 'k3s server')"]).returncode == 0
        while Record.load(one.state_dir).ended == "" and time.monotonic() - begun < 15:
            time.sleep(0.1)
        assert Record.load(one.state_dir).ended == "k3s ended by itself with status 0"
        assert time.monotonic() - begun <= 10
        assert "Shutdown complete" in one.log_tail()
        with pytest.raises(EnvironmentProblem, match="no longer runs"):
            K3sCluster.attach(one.state_dir)
    finally:
        one.stop()
