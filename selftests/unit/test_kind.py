"""A kind cluster with docker and kind played by scripts: what is asked of them, told, and taken away."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest
import yaml

from harness.artifacts.download import Downloader
from harness.cluster import KindCluster, KindOptions, links, nat
from harness.cluster.kind import engine, node_files, program
from harness.cluster.kind.cluster import words_of
from harness.errors import EnvironmentProblem, HarnessError, UsageError
from harness.options import ProvisionOptions, check_options
from harness.redact import Secret

RUN = "rc-0a1b2c3d"
GATEWAY = "127.0.0.1"  # an address of this host, as a bridge's is

DOCKER = """
import json, sys
from pathlib import Path
place = Path(PLACE)
state = json.loads((place / "state.json").read_text())
words = sys.argv[1:]
with (place / "calls").open("a") as calls:
    calls.write(" ".join(words) + "\\n")
def end(code=0, out="", err=""):
    (place / "state.json").write_text(json.dumps(state))
    print(out, end="" if not out else "\\n"); print(err, file=sys.stderr); sys.exit(code)
labels = [it.rpartition("=")[2] for it in words if it.startswith("--filter=label=")]
match words:
    case ["context", *_]: end(out=state["host"])
    case ["info", *_]: end(state.get("info_code", 0), json.dumps(state["info"]), state.get("info_words", ""))
    case ["network", "create", *rest, name]:
        label = next(it for it in rest if it.startswith("--label="))
        state["networks"][name] = label.rpartition("=")[2]; end()
    case ["network", "inspect", name, *_] if "Containers" in words[-1]:
        end(out=" ".join(it for it in state["containers"] if state["in"][it] == name))
    case ["network", "inspect", *_]: end(out=state["gateway"])
    case ["network", "ls", *_]: end(out="\\n".join(k for k, v in state["networks"].items() if v in labels))
    case ["network", "rm", name]: del state["networks"][name]; end()
    case ["ps", *_]: end(out="\\n".join(k for k, v in state["containers"].items()
                                     if v in labels or "io.x-k8s.kind.cluster" in labels))
    case ["rm", *_, name]: del state["containers"][name]; end()
    case ["image", "inspect", name, *_]: end(0 if name in state["images"] else 1)
    case ["image", "ls", *_]: end(out="\\n".join(state["images"]))
    case ["pull", *_, name]: end(1, err="Error response from daemon: manifest for " + name + " not found")
    case ["rmi", name]: state["images"].remove(name); end()
    case ["inspect", *_]: end(out="172.18.0.2")
    case ["exec", *_]: end()
end(2, err="docker: no such command: " + " ".join(words))
"""

KIND = """
import json, os, sys
from pathlib import Path
place = Path(PLACE)
state = json.loads((place / "state.json").read_text())
words = sys.argv[1:]
with (place / "calls").open("a") as calls:
    network = os.environ.get("KIND_EXPERIMENTAL_DOCKER_NETWORK", "-")
    calls.write("kind " + " ".join(words) + " in " + network + "\\n")
if words[0] == "version":
    print("kind " + state["kind"] + " go1.26.0 linux/amd64")
if words[:2] == ["create", "cluster"]:
    name = next(it for it in words if it.startswith("--name=")).removeprefix("--name=")
    state["containers"][name + "-control-plane"] = name
    state["in"][name + "-control-plane"] = os.environ.get("KIND_EXPERIMENTAL_DOCKER_NETWORK", "kind")
    file = next(it for it in words if it.startswith("--kubeconfig=")).removeprefix("--kubeconfig=")
    Path(file).write_text(state["kubeconfig"].replace("rc-0a1b2c3d-verify", name))
    if state.get("fails"):
        print("Creating cluster", file=sys.stderr); print("ERROR: " + state["fails"], file=sys.stderr)
        (place / "state.json").write_text(json.dumps(state)); sys.exit(1)
if words[:2] == ["delete", "cluster"]:
    name = next(it for it in words if it.startswith("--name=")).removeprefix("--name=")
    state["containers"] = {k: v for k, v in state["containers"].items() if v != name}
(place / "state.json").write_text(json.dumps(state))
"""

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: kind-rc-0a1b2c3d-verify
contexts: [{name: kind-rc-0a1b2c3d-verify, context: {cluster: x, user: x}}]
clusters: [{name: x, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: x, user: {token: t}}]
"""


class Host:
    """A host whose docker and kind are scripts."""

    def __init__(self, place: Path) -> None:
        self.place, self.bin = place, place / "bin"
        self.bin.mkdir()
        self.write(
            host="unix:///var/run/docker.sock",
            info={"ServerVersion": "28.0.0", "SecurityOptions": ["name=seccomp"]},
            gateway=GATEWAY,
            kind="v0.33.0",
            kubeconfig=KUBECONFIG,
            networks={},
            containers={},
            images=[],
            **{"in": {}},
        )
        for name, text in (("docker", DOCKER), ("kind", KIND)):
            script = self.bin / name
            script.write_text(f"#!{sys.executable}\n" + text.replace("PLACE", repr(str(place))))
            script.chmod(script.stat().st_mode | stat.S_IXUSR)

    def write(self, **changed: object) -> None:
        file = self.place / "state.json"
        state = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**state, **changed}))

    @property
    def state(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.place / "state.json").read_text())
        return found

    @property
    def calls(self) -> str:
        file = self.place / "calls"
        return file.read_text() if file.exists() else ""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host(tmp_path)
    monkeypatch.setenv("PATH", f"{found.bin}:/usr/bin:/bin")
    monkeypatch.delenv(engine.PROVIDER, raising=False)
    monkeypatch.setattr(nat, "lack", lambda: EnvironmentProblem("no firewall here"))
    monkeypatch.chdir(tmp_path)
    return found


@pytest.fixture
def options(tmp_path: Path) -> KindOptions:
    return KindOptions(RUN, "verify", tmp_path / "cluster")


def made(options: KindOptions, monkeypatch: pytest.MonkeyPatch) -> KindCluster:
    cluster = KindCluster(options)
    monkeypatch.setattr(KindCluster, "_await_ready", lambda self, kube: None)
    cluster.start()
    return cluster


def test_all_that_is_made_carries_the_runs_id_and_goes(
    host: Host, options: KindOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = made(options, monkeypatch)
    name = f"{RUN}-verify"
    assert host.state["containers"] == {f"{name}-control-plane": name}
    assert host.state["networks"] == {RUN: RUN}
    assert f"--opt=com.docker.network.bridge.name={links.bridge_name(RUN)}" in host.calls
    assert f"kind create cluster --name={name}" in host.calls
    assert f"in {RUN}\n" in host.calls, "kind was not told of the network"
    assert (cluster.context, cluster.node_ip, cluster.host_ip) == (f"kind-{name}", "172.18.0.2", GATEWAY)
    again = KindCluster.attach(options.state_dir)
    assert (again.node, again.node_ip, again.abilities) == (cluster.node, cluster.node_ip, cluster.abilities)
    assert len(cluster.left()) == 2
    host.write(images=[f"10.99.1.2/root/{RUN}-docker-sock:v1.0.0", "theirs:latest"])
    assert len(cluster.left()) == 3, "what a job built through docker.sock is the run's"
    assert engine.living_runs() == {RUN}
    cluster.stop()
    assert (host.state["containers"], host.state["networks"]) == ({}, {})
    assert host.state["images"] == ["theirs:latest"]
    assert cluster.left() == []
    assert not options.state_dir.exists()
    assert not (tmp_path / ".pytest-kind").exists()
    cluster.stop()


@pytest.mark.parametrize("first", [0, 1], ids=["the one beside ends first", "the first ends first"])
def test_one_beside_joins_its_network_and_the_last_removes_it(
    host: Host, options: KindOptions, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """docker lets no two of its networks reach each other."""
    one = made(options, monkeypatch)
    other = made(
        KindOptions("rc-11111111", "other", options.state_dir.with_name("other"), beside=RUN), monkeypatch
    )
    assert host.state["networks"] == {RUN: RUN}
    ends = [other, one]
    ends[first].stop()
    assert host.state["networks"] == {RUN: RUN}
    ends[1 - first].stop()
    assert (host.state["containers"], host.state["networks"]) == ({}, {})


def test_one_beside_a_run_without_a_network_makes_its_own(
    host: Host, options: KindOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(KindOptions(RUN, "verify", options.state_dir, beside="rc-99999999"), monkeypatch)
    assert host.state["networks"] == {RUN: RUN}


def test_what_a_killed_run_left_is_found_by_its_id_alone(
    host: Host, options: KindOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even without its directory, and with kind gone from PATH."""
    made(options, monkeypatch)
    (host.bin / "kind").unlink()
    another = KindCluster(KindOptions(RUN, "verify", options.state_dir.with_name("gone")))
    assert [it.partition(": ")[2].split()[0] for it in another.left()] == ["container", "docker"]
    another.stop()
    assert (host.state["containers"], host.state["networks"]) == ({}, {})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"info_code": 1, "info": {}, "info_words": "permission denied while trying to connect to the Docker "
          "daemon socket"}, "this user may not use the docker engine"),
        ({"info_code": 1, "info": {"ServerErrors": ["Cannot connect to the Docker daemon"]}},
         "does not answer"),
        ({"info": {"ServerVersion": "28", "SecurityOptions": ["name=rootless"]}}, "rootless"),
        ({"host": "ssh://elsewhere"}, "ssh://elsewhere"),
        ({"gateway": "192.0.2.1"}, "machine of its own"),
        ({"kind": "v0.17.0"}, "v0.17.0 .* is too old"),
        ({"containers": {"x": f"{RUN}-verify"}}, "already, which this run did not make"),
        ({"fails": "failed to create cluster: failed to pull image kindest/node:v9: not found"},
         "kind made no cluster: failed to pull image"),
    ],
)  # fmt: skip
def test_what_is_in_the_way_is_said_in_a_sentence_and_nothing_is_left(
    host: Host, options: KindOptions, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object], words: str
) -> None:
    host.write(**changed)
    before = host.state["containers"]
    with pytest.raises(EnvironmentProblem, match=words) as caught:
        made(options, monkeypatch)
    assert caught.value.hint
    assert "Traceback" not in str(caught.value)
    assert (host.state["containers"], host.state["networks"]) == (before, {})
    assert not options.state_dir.exists()


def test_a_node_image_that_is_not_there_is_named(
    host: Host, options: KindOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = KindOptions(RUN, "verify", options.state_dir, image="kindest/node:v9.9.9")
    with pytest.raises(EnvironmentProblem, match=r"kindest/node:v9\.9\.9 can't be pulled: manifest"):
        made(wrong, monkeypatch)
    assert "kind create" not in host.calls
    assert host.state["networks"] == {}


def test_no_docker_at_all(host: Host, options: KindOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(host.place))
    with pytest.raises(EnvironmentProblem, match="no docker command"):
        made(options, monkeypatch)


def test_docker_is_asked_where_the_user_says_that_it_is(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    (host.bin / "docker").write_text("#!/bin/sh\nenv\n")
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/mine.sock")
    monkeypatch.setenv("CI_JOB_TOKEN", "not-for-docker")
    said = engine.docker("info").stdout
    assert "DOCKER_HOST=unix:///run/mine.sock" in said
    assert "not-for-docker" not in said


def test_podman_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="KIND_EXPERIMENTAL_PROVIDER=podman"):
        engine.check({engine.PROVIDER: "podman"})


def test_without_kind_an_air_gapped_run_downloads_nothing(host: Host) -> None:
    (host.bin / "kind").unlink()
    with pytest.raises(EnvironmentProblem, match="no kind on PATH"):
        program.find(bundled=None, online=False)


def test_kind_is_downloaded_with_its_checksum_and_said(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host.bin / "kind").rename(tmp_path / "kind-linux")
    asked: list[tuple[str, str | None]] = []

    def fetch(self: Downloader, url: str, *, sha256: str | None = None, **_: object) -> Path:
        asked.append((url, sha256))
        (tmp_path / "sums").write_text("c0ffee  kind-linux-amd64\n")
        return tmp_path / ("sums" if sha256 is None else "kind-linux")

    monkeypatch.setattr(Downloader, "fetch", fetch)
    found = program.find(bundled=None, online=True)
    assert found.version == program.RELEASE
    assert "downloaded, because PATH has no kind" in found.origin
    assert asked[1][1] == "c0ffee"
    assert asked[0][0] == f"{asked[1][0]}.sha256sum"


@pytest.mark.parametrize(
    ("options", "registry", "text"),
    [
        ({"unreachable_registries": ("gcr.io",), "storage": Path("/s")}, "gcr.io", 'server = "http://127.0.0.1:9"'),
        ({"storage": Path("/s")}, "docker.io", 'server = "http://127.0.0.1:5000/v2/docker.io"'),
        ({"registry_endpoints": {"docker.io": ("https://m.example",)}}, "docker.io", '[host."https://m.example"]'),
        ({}, "docker.io", ""),
    ],
)  # fmt: skip
def test_where_the_nodes_containerd_pulls_from(options: dict[str, object], registry: str, text: str) -> None:
    given = KindOptions(RUN, "verify", Path("/nowhere"), **options)  # type: ignore[arg-type]
    found = node_files.hosts_toml(given, registry)
    assert found.startswith(text)
    assert ("[host." in found) is bool(text), "containerd 1.6 reads no file without a host"


def test_the_node_gets_logins_registry_and_docker_sock(tmp_path: Path) -> None:
    options = KindOptions(
        RUN,
        "verify",
        tmp_path,
        registry_program=tmp_path / "registry",
        storage=tmp_path / "storage",
        docker_socket=True,
        registry_auth={"docker.io": ("somebody", Secret("hunter2"))},
    )
    document = yaml.safe_load(node_files.write(options, Path("/run/other.sock")).read_text())
    mounts = {it["containerPath"]: it for it in document["nodes"][0]["extraMounts"]}
    assert mounts["/var/run/docker.sock"]["hostPath"] == "/run/other.sock"
    assert mounts["/etc/containerd/certs.d"]["readOnly"]
    logins = Path(mounts["/var/lib/kubelet/config.json"]["hostPath"])
    assert logins.stat().st_mode & 0o077 == 0
    assert "hunter2" not in (tmp_path / "kind.yaml").read_text()
    assert "config_path" in document["containerdConfigPatches"][0]


def test_an_image_without_kind_would_not_be_used() -> None:
    with pytest.raises(UsageError, match="without --cluster kind"):
        check_options(ProvisionOptions(kind_image="kindest/node:v1.34.0"))
    with pytest.raises(UsageError, match="is no image"):
        check_options(ProvisionOptions(cluster="kind", kind_image="no image"))
    check_options(ProvisionOptions(cluster="kind", kind_image="kindest/node:v1.34.0@sha256:" + "a" * 64))


def test_a_docker_that_resists_is_told(
    host: Host, options: KindOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = made(options, monkeypatch)
    monkeypatch.setattr(engine, "networks_of", lambda run_id: ["not-there"])
    with pytest.raises(HarnessError, match="network not-there can't be removed"):
        cluster.stop()


RUN_FAILED = (
    'failed to create cluster: command "docker run --name x-control-plane --privileged --volume /var '
    'kindest/node:v1.34.0" failed with error: exit status 127\n\nCommand Output: 419898a3e04b\n'
    "docker: Error response from daemon: failed to create task: OCI runtime create failed: unknown\n\n"
    "Run 'docker run --help' for more information\n"
)
INIT_FAILED = (
    'failed to create cluster: failed to init node with kubeadm: command "docker exec --privileged '
    'x-control-plane kubeadm init --skip-phases=preflight" failed with error: exit status 1\n\n'
    "Command Output: I1128 21:01:41 initconfiguration.go:255] loading configuration\n"
    "[kubelet-check] It seems like the kubelet isn't running or healthy.\n"
    "error execution phase wait-control-plane: couldn't initialize a Kubernetes cluster\n"
)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (RUN_FAILED, "docker run failed (exit status 127): docker: Error response from daemon: failed to"),
        (INIT_FAILED, "failed to init node with kubeadm (exit status 1): error execution phase wait"),
        ("failed to create cluster: node(s) already exist for a cluster", "node(s) already exist"),
    ],
)  # fmt: skip
def test_of_what_kind_says_the_cause_is_shown(said: str, words: str) -> None:
    assert words_of(said).startswith(words)
    assert "--privileged" not in words_of(said)
