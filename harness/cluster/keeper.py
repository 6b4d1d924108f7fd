"""The process on the host's side of a node: it makes what the node needs outside, and takes it away again.

    python -c COMMAND <state_dir>

It reads ``cluster.json`` there, says on standard output whether the node was started, and ends when asked to
(SIGTERM), when k3s ends, or when its standard input closes: that is the life line of the process that started
it.  The node's processes and the registry die with it, by the kernel's hand, even if it is killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from harness.artifacts.registry_server import RegistryServer, free_port
from harness.cluster import cgroups, dns, links, linux, logs, nat, node, registries
from harness.cluster.record import Record
from harness.errors import EnvironmentProblem, HarnessError
from harness.journal import LINK, RULES, note

COMMAND = "from harness.cluster.keeper import main; main()"
"""Not ``-m``: its package imports this module, which runpy warns of in every keeper's log."""

_KILL_TIMEOUT_S = 20.0


class _Stop(Exception):
    """Somebody asked for the end."""


class Keeper:
    """One node's outside."""

    def __init__(self, state_dir: Path) -> None:
        self._record = Record.load(state_dir)
        self._state_dir = state_dir
        self._reservation: socket.socket | None = None
        self._registry: RegistryServer | None = None
        self._child = 0
        self._messages = b""

    def run(self) -> int:
        """Start everything, wait for the end, clean up; returns the exit code."""
        # The node's first process is a grandchild: a host whose own first process is slow to reap
        # would show it as a zombie for a while after stop().
        linux.adopt_orphans()
        try:
            self._start()
            self._wait()
        except _Stop:
            return 0
        except HarnessError as error:
            return self._fail(error)
        except Exception as error:  # from netlink, the file system, a firewall: whoever waits must be told
            what = f"what the node needs on this host can't be made: {error or type(error).__name__}"
            return self._fail(EnvironmentProblem(what, evidence=traceback.format_exc()))
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._clean_up()
        return 0

    def _fail(self, error: HarnessError) -> int:
        """Tell the starter, and whoever looks later."""
        self._record.ended = error.message
        self._record.save(self._state_dir)
        self._tell({"event": "failed", "message": error.message, "hint": error.hint,
                    "evidence": error.evidence, "blame": error.blame.value})  # fmt: skip
        return error.exit_code

    def _start(self) -> None:
        record = self._record
        subnet, self._reservation = links.reserve()
        record.subnet, record.keeper, record.keeper_ticks = (
            subnet.number,
            os.getpid(),
            linux.start_ticks(os.getpid()),
        )
        record.link = links.link_name(record.run_id, subnet.number)
        for kind in (LINK, RULES):
            note(record.run_id, kind, record.link)
        record.save(self._state_dir)
        cgroups.create(record.cgroup)
        spec = self._spec(subnet)
        events, to_keeper = os.pipe()
        from_keeper, go = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            self._become_node(spec, to_keeper, from_keeper)
        os.close(to_keeper)
        os.close(from_keeper)
        self._events = events
        self._expect("entered")
        links.connect(subnet, record.run_id, record.name, self._child, spec.mtu)
        record.forwarding_was_off = links.open_forwarding(record.link, record.run_id, record.name)
        record.save(self._state_dir)
        if record.outgoing or nat.lack() is None:
            nat.Nat(record.run_id, record.link, subnet.network).open()
        self._serve_images(subnet)
        os.write(go, b"g")
        record.node = int(self._expect("forked")["pid"])
        record.node_ticks = linux.start_ticks(record.node)
        record.save(self._state_dir)
        record.notes += self._expect("started")["notes"]
        record.save(self._state_dir)
        self._tell({"event": "started"})

    def _serve_images(self, subnet: links.Subnet) -> None:
        """Start the bundle's registry, if there is one, and tell k3s where to pull from."""
        record = self._record
        if record.registry_program and record.storage:
            self._registry = RegistryServer(
                Path(record.registry_program),
                Path(record.storage),
                subnet.host_ip,
                free_port(subnet.host_ip, registries.PREFERRED_PORT),
                state_dir=self._state_dir / "registry",
            )
            self._registry.start()
            record.registry = self._registry.url
        settings = self._state_dir / "node/etc-rancher/k3s/registries.yaml"
        settings.parent.mkdir(exist_ok=True)
        settings.touch(0o600)
        settings.write_text(record.registries.replace(registries.LOCAL, record.registry))

    def _spec(self, subnet: links.Subnet) -> node.NodeSpec:
        record = self._record
        arguments = [it.format(node_ip=subnet.node_ip, host_ip=subnet.host_ip) for it in record.arguments]
        node_dir = self._state_dir / "node"
        for name in node.BOUND:
            (node_dir / name).mkdir(parents=True, exist_ok=True)
        (self._state_dir / "logs").mkdir(exist_ok=True)
        resolver = dns.resolver(air_gapped=bool(record.storage), node_ip=subnet.node_ip)
        record.notes += [f"the node asks no name server {it}" for it in resolver.dropped]
        return node.NodeSpec(
            name=record.name,
            cgroup=record.cgroup,
            state_dir=str(self._state_dir),
            k3s=record.k3s,
            arguments=arguments,
            subnet=subnet.number,
            resolv_conf=resolver.text,
            hosts=dns.hosts(record.name, subnet.node_ip, record.unreachable),
            docker_engine=record.docker_engine,
            write_template=not linux.has_capability(linux.CAP_SYS_RESOURCE),
            environment=record.proxies,
            mtu=links.uplink_mtu(),
        )

    def _become_node(self, spec: node.NodeSpec, to_keeper: int, from_keeper: int) -> None:
        """In the child: let go of what is the keeper's, and never come back."""
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if self._reservation:
                self._reservation.close()
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(2, 1)
            node.main_in_child(spec, to_keeper, from_keeper)
        finally:
            os._exit(1)

    def _expect(self, event: str) -> dict[str, Any]:
        """The next message of the node.  Raises EnvironmentProblem when it is another one."""
        message = self._next_message()
        if message.get("event") != event:
            raise EnvironmentProblem(
                str(message.get("message", f"the node's process ended before it had {event}")),
                "see runner-conformance doctor for what this host lacks",
                evidence=str(message.get("evidence", "")),
            )
        return message

    def _next_message(self) -> dict[str, Any]:
        while b"\n" not in self._messages:
            if not (chunk := os.read(self._events, 65536)):
                return {}
            self._messages += chunk
        line, _, self._messages = self._messages.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _wait(self) -> None:
        """Until k3s ends or the life line breaks.  Signals come as _Stop."""
        watched = [self._events] if self._record.keep else [self._events, sys.stdin.fileno()]
        while True:
            readable, _, _ = select.select(watched, [], [])
            if self._events in readable:
                message = self._next_message()
                if message.get("event") == "failed":
                    raise EnvironmentProblem(
                        str(message["message"]), evidence=str(message.get("evidence", ""))
                    )
                cause = logs.cause(self._state_dir / "logs/k3s.log")
                self._record.ended = f"k3s ended by itself with status {message.get('status', 'unknown')}" + (
                    f": {cause}" if cause else ""
                )
                self._record.save(self._state_dir)
                return
            if not os.read(sys.stdin.fileno(), 4096):
                return

    def _clean_up(self) -> None:
        record = self._record
        if self._child:
            with suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self._child, 0)
            if record.node:
                linux.reap(record.node, _KILL_TIMEOUT_S)
        if self._registry:
            self._registry.stop()
        if record.link:
            remove_outside(record)

    def _tell(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # the starter may be gone
            os.write(1, (json.dumps(message) + "\n").encode())


def remove_outside(record: Record) -> list[str]:
    """Remove link, rules and cgroups of a node whose processes are dead; returns what resisted."""
    left: list[str] = []
    if not linux.await_gone(record.node, record.node_ticks, _KILL_TIMEOUT_S):
        left.append(f"process {record.node}, the first of the node {record.name}")
    actions: dict[str, Callable[[], None]] = {
        f"firewall rules of {record.link}": lambda: nat.close(record.link),
        f"link {record.link}": lambda: links.remove(record.link),
    }
    for what, action in actions.items():
        try:
            action()
        except (HarnessError, OSError) as error:
            left.append(f"{what}: {error}")
    left += [f"cgroup {path}" for path in cgroups.remove(record.cgroup)]
    if record.forwarding_was_off:
        links.close_forwarding()
    return left


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    raise _Stop


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, _on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the starter's business
    sys.exit(Keeper(Path(sys.argv[1])).run())
