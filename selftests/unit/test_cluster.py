"""The cluster providers' decisions, without root and without a node."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from harness.artifacts.registry_server import RegistryServer, free_port
from harness.cluster import (
    ClusterOptions,
    ExistingCluster,
    K3sCluster,
    cgroups,
    links,
    nat,
    node,
    preflight,
)
from harness.cluster.arguments import server_arguments
from harness.cluster.leftovers import DIRECTORY, find_leftovers, reap
from harness.cluster.record import Record
from harness.cluster.registries import registries_yaml
from harness.errors import EnvironmentProblem, UsageError

RUN_ID = "rc-0a1b2c3d"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., ClusterOptions]:
    """Options with what a test says about them."""

    def options(**given: object) -> ClusterOptions:
        settings = {
            "run_id": RUN_ID,
            "name": "n",
            "k3s": tmp_path / "k3s",
            "state_dir": tmp_path / "state",
        } | given
        return ClusterOptions(**settings)  # type: ignore[arg-type]

    return options


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Path]:
    """A shell script at the path where the options look for k3s."""

    def write(script: str) -> Path:
        path = tmp_path / "k3s"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


class TestRegistries:
    def test_a_bundle_is_served_under_the_upstream_names(self, make: Callable[..., ClusterOptions]) -> None:
        options = make(registry_program=Path("/r"), storage=Path("/s"), upstream_registries=("quay.io",))
        assert registries_yaml(options, "http://10.99.4.1:5000") == {
            "mirrors": {
                "quay.io": {"endpoint": ["http://10.99.4.1:5000"], "rewrite": {"^(.*)$": "quay.io/$1"}}
            }
        }

    def test_online_only_the_mirrors_asked_for_are_named(self, make: Callable[..., ClusterOptions]) -> None:
        options = make(registry_endpoints={"docker.io": ("https://mirror.example",)})
        assert registries_yaml(options, "") == {
            "mirrors": {"docker.io": {"endpoint": ["https://mirror.example"]}}
        }

    def test_an_unreachable_registry_leads_nowhere_even_with_a_bundle(
        self, make: Callable[..., ClusterOptions]
    ) -> None:
        options = make(registry_program=Path("/r"), storage=Path("/s"), unreachable_registries=("gcr.io",))
        mirrors = registries_yaml(options, "http://10.99.4.1:5000")["mirrors"]
        assert mirrors["gcr.io"] == {"endpoint": ["http://127.0.0.1:9"]}
        assert mirrors["quay.io"]["endpoint"] == ["http://10.99.4.1:5000"]


class TestServerArguments:
    KNOWN = frozenset(
        f"--{it}"
        for it in (
            "node-name", "node-ip", "advertise-address", "tls-san", "disable", "disable-network-policy",
            "disable-helm-controller", "disable-default-registry-endpoint", "kube-proxy-arg",
            "kube-controller-manager-arg", "kubelet-arg", "snapshotter",
        )
    )  # fmt: skip

    def test_cgroup_v1_is_allowed_only_where_kubelet_would_refuse_it(
        self, make: Callable[..., ClusterOptions], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            cgroups, "hierarchies", lambda: [cgroups.Hierarchy(Path("/sys/fs/cgroup/cpu"), False)]
        )
        flag = "--kubelet-arg=fail-cgroupv1=false"
        assert flag in server_arguments(make(), "v1.37.2+k3s1", self.KNOWN)
        assert flag not in server_arguments(make(), "v1.28.5+k3s1", self.KNOWN)

    def test_only_an_air_gapped_node_is_kept_from_the_upstream_registries(
        self, make: Callable[..., ClusterOptions]
    ) -> None:
        flag = "--disable-default-registry-endpoint"
        air_gapped = make(registry_program=Path("/r"), storage=Path("/s"))
        assert flag in server_arguments(air_gapped, "v1.30.1+k3s1", self.KNOWN)
        assert flag not in server_arguments(make(), "v1.30.1+k3s1", self.KNOWN)

    @pytest.mark.parametrize("flag", sorted(KNOWN - {"--snapshotter"}))
    def test_a_flag_that_this_k3s_does_not_know_is_not_given(
        self, make: Callable[..., ClusterOptions], flag: str
    ) -> None:
        air_gapped = make(registry_program=Path("/r"), storage=Path("/s"))
        names = [
            {it.partition("=")[0] for it in server_arguments(air_gapped, "v1.28.5+k3s1", known)}
            for known in (self.KNOWN, self.KNOWN - {flag})
        ]
        assert names[0] - names[1] == {flag}

    def test_addresses_are_put_in_later_and_braces_of_the_user_survive(
        self, make: Callable[..., ClusterOptions]
    ) -> None:
        arguments = server_arguments(make(extra_args=("--node-label=a={b}",)), "v1.28.5+k3s1", self.KNOWN)
        formatted = [it.format(node_ip="10.99.4.2", host_ip="10.99.4.1") for it in arguments]
        assert "--node-ip=10.99.4.2" in formatted
        assert formatted[-1] == "--node-label=a={b}"

    def test_pods_are_evicted_at_a_size_and_not_at_a_share_of_the_disk(
        self, make: Callable[..., ClusterOptions]
    ) -> None:
        given = server_arguments(make(), "v1.28.5+k3s1", self.KNOWN)
        evictions = [it for it in given if "eviction" in it]
        assert len(evictions) == 2
        assert not any("%" in it for it in evictions)


class TestSubnets:
    @staticmethod
    def claims(*taken: int) -> Callable[[int], socket.socket | None]:
        return lambda number: None if number in taken else socket.socket()

    def test_the_first_that_neither_the_host_nor_another_cluster_has(self) -> None:
        networks = [ipaddress.IPv4Network(it) for it in ("10.99.1.0/30", "192.0.2.0/24")]
        subnet, reservation = links.reserve(networks, self.claims(2))
        reservation.close()
        assert (subnet.host_ip, subnet.node_ip) == ("10.99.3.1", "10.99.3.2")

    def test_a_vpn_over_all_of_it_does_not_matter(self) -> None:
        subnet, reservation = links.reserve([ipaddress.IPv4Network("10.0.0.0/8")], self.claims())
        reservation.close()
        assert subnet.number == 1

    def test_none_left_is_an_error_that_names_the_way_out(self) -> None:
        with pytest.raises(EnvironmentProblem, match=r"10\.99\.1\.0/30 to 10\.99\.63\.0/30") as caught:
            links.reserve([ipaddress.IPv4Network("10.99.0.0/17")], self.claims())
        assert "reap" in caught.value.hint

    def test_link_names_fit_the_kernel_and_lead_back_to_the_run(self) -> None:
        name = links.link_name(RUN_ID, 63)
        assert len(name) <= 15
        assert links.run_id_of(name) == RUN_ID
        assert links.run_id_of("veth0") == ""


class TestContainerdTemplate:
    @pytest.mark.parametrize(
        ("config", "section"),
        [
            ('version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  x = 1\n',
             '[plugins."io.containerd.grpc.v1.cri"]'),
            ("version = 3\n[plugins.'io.containerd.cri.v1.runtime']\n  x = 1\n",
             "[plugins.'io.containerd.cri.v1.runtime']"),
            ("version = 3\n[plugins.'io.containerd.grpc.v1.cri']\n  stream_server_port = \"10010\"\n"
             "[plugins.'io.containerd.cri.v1.runtime']\n  x = 1\n",
             "[plugins.'io.containerd.cri.v1.runtime']"),
        ],
        ids=["containerd 1", "containerd 2", "as k3s 1.32 and newer write it"],
    )  # fmt: skip
    def test_the_setting_goes_into_the_section_that_is_there(self, config: str, section: str) -> None:
        lines = node.with_restricted_oom_score(config).splitlines()
        assert lines[lines.index(section) + 1] == "  restrict_oom_score_adj = true"
        assert lines.count(section) == 1
        assert "  x = 1" in lines

    def test_a_missing_section_is_made(self) -> None:
        lines = node.with_restricted_oom_score("version = 2\n").splitlines()
        assert lines[-2:] == ['[plugins."io.containerd.grpc.v1.cri"]', "  restrict_oom_score_adj = true"]

    def test_containerd_s_first_version_of_the_file(self) -> None:
        """k3s 1.21's; containerd ignores a section of version 2 in it."""
        lines = node.with_restricted_oom_score("[plugins.cri]\n  x = 1\n").splitlines()
        assert lines == ["[plugins.cri]", "  restrict_oom_score_adj = true", "  x = 1"]
        assert node.with_restricted_oom_score("[plugins.opt]\n").splitlines()[-2] == '[plugins."cri"]'

    def test_an_earlier_value_is_replaced_and_template_braces_are_kept(self) -> None:
        section = 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n'
        config = section + '  restrict_oom_score_adj = false\n  y = "{{"\n'
        text = node.with_restricted_oom_score(config)
        assert "false" not in text
        assert '{{"{{"}}' in text


class TestFirewall:
    RULESET = json.dumps(
        {
            "nftables": [
                {"chain": {"family": "inet", "table": "firewalld", "name": "filter_FORWARD",
                           "hook": "forward", "type": "filter", "handle": 1}},
                {"chain": {"family": "inet", "table": "firewalld", "name": "nat_POST", "hook": "postrouting",
                           "type": "nat", "handle": 2}},
                {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward",
                           "type": "filter", "handle": 3}},
                {"chain": {"family": "ip", "table": "runner_conformance_x", "name": "f", "hook": "forward",
                           "type": "filter", "handle": 4}},
                {"chain": {"family": "inet", "table": "firewalld", "name": "helper", "handle": 5}},
            ]
        }
    )  # fmt: skip

    def test_foreign_chains_that_filter_are_opened_but_not_those_of_iptables(self) -> None:
        found = nat.filtering_chains(json.loads(self.RULESET))
        assert [(it["table"], it["name"]) for it in found] == [("firewalld", "filter_FORWARD")]


class TestPreflight:
    def test_a_binary_that_is_no_k3s_is_told_by_what_it_prints(self, program: Callable[[str], Path]) -> None:
        with pytest.raises(EnvironmentProblem, match="is no k3s: its --version prints 'busybox v1'"):
            preflight.k3s_version(program("echo busybox v1"))

    def test_a_file_that_cannot_run_here_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "k3s"
        path.write_bytes(b"\x7fELF not for this machine")
        path.chmod(0o755)
        with pytest.raises(EnvironmentProblem, match="can't be run: Exec format error"):
            preflight.k3s_version(path)

    def test_a_missing_file_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(EnvironmentProblem, match="there is no k3s at"):
            preflight.k3s_version(tmp_path / "none")

    @pytest.mark.parametrize("name", ["k3s", "ff34ea10b5ba"])
    def test_the_version_is_read_whatever_the_file_is_called(
        self, program: Callable[[str], Path], name: str
    ) -> None:
        prints = """echo "$(basename "$0") version v1.28.5+k3s1 (5b2d1271)"; echo 'go version go1.20.12'"""
        path = program(prints)
        assert preflight.k3s_version(path.rename(path.with_name(name))) == "v1.28.5+k3s1"

    def test_flags_are_read_from_the_help_and_nothing_of_k3s_stays(
        self, program: Callable[[str], Path], tmp_path: Path
    ) -> None:
        path = program(
            'mkdir "${2#--data-dir=}/data"; echo "  --data-dir value, -d value"; echo "  --disable value"'
        )
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        assert preflight.server_flags(path, scratch) == {"--data-dir", "--disable"}
        assert list(scratch.iterdir()) == []

    def test_without_root_there_is_one_sentence(
        self, make: Callable[..., ClusterOptions], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(EnvironmentProblem, match="needs root"):
            K3sCluster(make()).start()

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"run_id": "mine"}, "is no run id"),
            ({"name": "No_Name"}, "is no name for a node"),
            ({"storage": Path("/s")}, "belong together"),
        ],
    )
    def test_options_that_contradict_are_usage_errors(
        self, make: Callable[..., ClusterOptions], given: dict[str, object], message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            preflight.check(make(**given))

    def test_a_full_disk_is_told_before_anything_starts(
        self, make: Callable[..., ClusterOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = type("Usage", (), {"free": 10_000_000})
        monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(preflight.linux, "has_capability", lambda _: True)
        monkeypatch.setattr(preflight, "_has_filesystem", lambda _: True)
        with pytest.raises(EnvironmentProblem, match=r"has 0\.0 GB left; a cluster needs"):
            preflight.check_host(make().state_dir, outgoing=False)


class TestExistingCluster:
    @pytest.fixture
    def kubeconfig(self, tmp_path: Path) -> Path:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        path = tmp_path / "config"
        cluster = {"server": f"http://127.0.0.1:{port}"}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {}}],
                    "contexts": [{"name": "staging", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "staging",
                }
            )
        )
        return path

    def test_the_current_context_is_never_assumed(self, kubeconfig: Path) -> None:
        with pytest.raises(UsageError, match="no context was named") as caught:
            ExistingCluster(kubeconfig, None).start()
        assert "staging" in caught.value.hint

    def test_a_wrong_context_lists_the_right_ones(self, kubeconfig: Path) -> None:
        with pytest.raises(UsageError, match="has no context 'production'") as caught:
            ExistingCluster(kubeconfig, "production").start()
        assert "staging" in caught.value.hint

    def test_a_server_that_is_not_there_is_the_environments_fault(self, kubeconfig: Path) -> None:
        with pytest.raises(EnvironmentProblem, match="does not answer"):
            ExistingCluster(kubeconfig, "staging").start()

    @pytest.mark.parametrize("content", ["a: [", "just text", "{}"])
    def test_a_file_that_is_no_kubeconfig(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "config"
        path.write_text(content)
        with pytest.raises(UsageError, match=r"is no (kubeconfig|YAML)"):
            ExistingCluster(path, "staging").start()

    def test_stopping_touches_nothing(self, kubeconfig: Path) -> None:
        ExistingCluster(kubeconfig, "staging").stop()
        assert kubeconfig.exists()


class TestRecord:
    @pytest.fixture
    def record(self) -> Record:
        return Record(RUN_ID, "n", "/k3s", "v1.28.5+k3s1", [], "mirrors: {}")

    def test_it_comes_back_as_it_was(self, record: Record, tmp_path: Path) -> None:
        record.save(tmp_path)
        assert Record.load(tmp_path) == record
        assert (tmp_path / "cluster.json").stat().st_mode & 0o777 == 0o600

    def test_a_process_that_got_the_id_later_is_not_the_keeper(self, record: Record) -> None:
        record.keeper, record.keeper_ticks = os.getpid(), 1
        assert not record.alive

    def test_attaching_to_nothing_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(EnvironmentProblem, match="there is no cluster in"):
            K3sCluster.attach(tmp_path)

    def test_attaching_to_a_dead_cluster_tells_how_it_ended(self, record: Record, tmp_path: Path) -> None:
        record.ended = "k3s ended by itself with status 1"
        record.save(tmp_path)
        with pytest.raises(EnvironmentProblem, match="no longer runs: k3s ended by itself with status 1"):
            K3sCluster.attach(tmp_path)

    def test_a_state_directory_of_a_dead_run_is_found_and_reaped(
        self, record: Record, tmp_path: Path
    ) -> None:
        state_dir = tmp_path / "state"
        state_dir.mkdir()
        record.save(state_dir)
        found = [it for it in find_leftovers(RUN_ID, places=[state_dir]) if it.kind == DIRECTORY]
        assert [it.name for it in found] == [str(state_dir)]
        assert reap(found) == []
        assert not state_dir.exists()


class TestRegistryServer:
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Path:
        (tmp_path / "storage/docker/registry/v2").mkdir(parents=True)
        return tmp_path / "storage"

    def test_a_directory_that_is_no_storage_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(EnvironmentProblem, match="holds no registry storage"):
            RegistryServer(Path("/bin/true"), tmp_path, "127.0.0.1", 1, state_dir=tmp_path).start()

    def test_a_program_that_ends_is_told_with_its_output(
        self, storage: Path, tmp_path: Path, program: Callable[[str], Path]
    ) -> None:
        port = free_port("127.0.0.1", 0)
        broken = program("echo configuration error: no such driver >&2; exit 3")
        with pytest.raises(EnvironmentProblem, match="ended with status 3") as caught:
            RegistryServer(broken, storage, "127.0.0.1", port, state_dir=tmp_path).start()
        assert "no such driver" in caught.value.evidence

    def test_a_taken_port_is_told(self, storage: Path, tmp_path: Path) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(EnvironmentProblem, match=f"can't listen on 127.0.0.1:{port}"):
                RegistryServer(Path("/bin/true"), storage, "127.0.0.1", port, state_dir=tmp_path).start()

    def test_the_preferred_port_gives_way_to_a_free_one(self) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            taken = other.getsockname()[1]
            assert free_port("127.0.0.1", taken) not in (0, taken)
