"""A node's name servers, made of the host's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cluster import dns
from harness.errors import EnvironmentProblem


class TestDns:
    @pytest.fixture
    def resolve(self, tmp_path: Path) -> Callable[..., dns.Resolver]:
        def read(*texts: str) -> dns.Resolver:
            files = [tmp_path / f"resolv.conf.{number}" for number in range(len(texts))]
            for file, text in zip(files, texts, strict=True):
                file.write_text(text)
            return dns.resolver(air_gapped=False, node_ip="10.99.4.2", files=tuple(files))

        return read

    def test_air_gapped_nodes_ask_themselves(self) -> None:
        found = dns.resolver(air_gapped=True, node_ip="10.99.4.2", files=())
        assert found.text.startswith("nameserver 10.99.4.2\n")

    def test_a_stub_on_loopback_gives_way_to_the_server_behind_it(
        self, resolve: Callable[..., dns.Resolver]
    ) -> None:
        found = resolve(
            "nameserver 127.0.0.53\noptions edns0\n", "nameserver 192.0.2.53\nsearch example.com\n"
        )
        assert found == dns.Resolver("nameserver 192.0.2.53\nsearch example.com\n")

    def test_servers_that_the_node_cannot_ask_are_left_out_and_named(
        self, resolve: Callable[..., dns.Resolver]
    ) -> None:
        found = resolve("nameserver fe80::1%eth0\nnameserver 2001:db8::53\nnameserver 192.0.2.53\n")
        assert found.text == "nameserver 192.0.2.53\n"
        assert found.dropped == (
            "fe80::1%eth0 (an address of one of this host's links alone)",
            "2001:db8::53 (IPv6, and the node has IPv4)",
        )

    def test_ipv6_alone_behind_the_stub_is_an_error_that_names_each(
        self, resolve: Callable[..., dns.Resolver]
    ) -> None:
        with pytest.raises(EnvironmentProblem, match="none of this host's name servers") as caught:
            resolve("nameserver 127.0.0.53\n", "nameserver 2001:db8::53\n")
        assert "127.0.0.53 (on this host's loopback), 2001:db8::53 (IPv6" in caught.value.message

    def test_unreachable_docker_hub_means_the_hosts_that_its_pulls_go_to(self) -> None:
        lines = dns.hosts("n", "10.99.4.2", ["docker.io"]).splitlines()
        assert "127.0.0.1 registry-1.docker.io" in lines
        assert "10.99.4.2 n" in lines
