"""What this host lacks for a node, and what doctor says of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness import doctor
from harness.cluster import cgroups, links, linux, node, preflight
from harness.cluster.cgroups import Hierarchy
from harness.errors import EnvironmentProblem


def _named(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {it.what: it for it in findings}


class TestHierarchies:
    HYBRID = """
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
cgroup2 /somewhere/else cgroup2 rw 0 0"""

    def test_a_mixed_host_is_v1(self) -> None:
        found = cgroups.hierarchies(self.HYBRID.strip())
        assert [str(it.path) for it in found] == ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"]
        assert cgroups.is_v1(found)

    def test_a_unified_host_is_not(self) -> None:
        assert not cgroups.is_v1(cgroups.hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0"))


class TestCgroups:
    V1 = ("cpuset", "cpu,cpuacct", "memory", "pids")

    def _lack(self, monkeypatch: pytest.MonkeyPatch, mounted: list[Hierarchy]) -> EnvironmentProblem | None:
        monkeypatch.setattr(cgroups, "hierarchies", lambda: mounted)
        return cgroups.lack()

    def test_none_mounted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        problem = self._lack(monkeypatch, [])
        assert problem
        assert "no cgroup hierarchy is mounted" in problem.message

    def test_v1_has_its_controllers_as_mounts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mounted = [Hierarchy(cgroups.ROOT / it, False) for it in self.V1]
        assert self._lack(monkeypatch, mounted) is None
        problem = self._lack(monkeypatch, mounted[:2])
        assert problem
        assert problem.message == "cgroup controllers memory, pids are not mounted below /sys/fs/cgroup"

    def test_v2_has_them_in_a_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(cgroups, "ROOT", tmp_path)
        (tmp_path / "cgroup.controllers").write_text("cpuset cpu io pids\n")
        problem = self._lack(monkeypatch, [Hierarchy(tmp_path, True)])
        assert problem
        assert problem.message == f"cgroup controllers memory are not available in {tmp_path}"
        assert "cgroup_enable=memory" in problem.hint


def test_too_few_inotify_instances_are_told_with_the_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(linux, "free_inotify_instances", lambda wanted: wanted - 20)
    found = [it for it in preflight.host_problems(tmp_path, outgoing=False) if "inotify" in it.message]
    assert [it.message for it in found] == ["4 more inotify instances can be had; a cluster needs 24"]
    assert "fs.inotify.max_user_instances" in found[0].hint


def test_inotify_instances_are_counted_by_having_them() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    assert linux.free_inotify_instances(3) == 3
    assert set(Path("/proc/self/fd").iterdir()) == before


class TestDoctor:
    def test_modules_that_cannot_be_had_are_named_with_their_use(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(linux, "has_module", lambda name: name != "vxlan")
        found = _named(doctor._modules())
        assert found["module br_netfilter"].ok
        assert not found["module vxlan"].ok
        assert "flannel uses host-gw" in found["module vxlan"].found
        assert found["module vxlan"].mend.startswith("modprobe vxlan")

    def test_a_proxy_that_nodes_cannot_reach(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@127.0.0.1:3128")
        finding = _named(doctor._names(needed=True))["a node's proxy"]
        assert not finding.ok
        assert "on this host's loopback" in finding.found
        assert "secret" not in finding.found + finding.mend

    def test_a_node_that_can_ask_no_name_server(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        from harness.cluster import dns

        (tmp_path / "resolv.conf").write_text("nameserver ::1\n")
        real = dns.resolver
        files = (tmp_path / "resolv.conf",)
        monkeypatch.setattr(dns, "resolver", lambda **given: real(**given, files=files))
        finding = _named(doctor._names(needed=False))["a node's name servers"]
        assert not finding.ok
        assert finding.optional
        assert "::1 (on this host's loopback)" in finding.found


class TestNetwork:
    SPEC = node.NodeSpec("n", "g", "/s", "/k3s", ["server"], 1, "", "", "", False, 1500, {})

    def test_k3s_is_left_its_own_choice_where_the_kernel_has_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(links, "has_vxlan", lambda: True)
        assert node._with_network(self.SPEC) == (self.SPEC, [])

    def test_without_vxlan_it_is_host_gw_and_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(links, "has_vxlan", lambda: False)
        spec, (note,) = node._with_network(self.SPEC)
        assert spec.arguments == ["server", "--flannel-backend=host-gw"]
        assert "no vxlan" in note

    def test_what_the_user_asks_for_is_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(links, "has_vxlan", lambda: False)
        asked = replace(self.SPEC, arguments=["server", "--flannel-backend=none"])
        assert node._with_network(asked) == (asked, [])


@pytest.mark.parametrize(
    "section",
    ["[plugins.cri]", '[plugins."io.containerd.grpc.v1.cri"]', "[plugins.'io.containerd.cri.v1.runtime']"],
)
def test_containerd_s_configuration_is_whole_when_it_has_its_section(section: str) -> None:
    assert node._CRI_SECTION.search(f"version = 2\n  {section}\n")
    assert not node._CRI_SECTION.search("version = 2\n[plugins.opt]\n")


def test_a_node_may_open_as_many_files_as_its_host_allows() -> None:
    script = (
        "import resource\nfrom harness.cluster import linux\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096))\nlinux.raise_open_files(2048)\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    soft, hard = map(int, done.stdout.split())
    assert soft >= 2048
    assert hard == 4096
