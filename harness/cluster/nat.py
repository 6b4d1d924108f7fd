"""Outgoing traffic of a node: translation, and a way through host firewalls that drop what is forwarded.

All rules carry the run id.  A table of our own translates addresses.  A packet that any other base chain
drops is lost, whatever our table says; so accept rules go to the head of every foreign chain on the hooks
input and forward.  Chains that iptables manages are changed by iptables, all others by nft.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import EnvironmentProblem

_TABLE = "runner_conformance_"
_IPTABLES = ("iptables", "iptables-legacy")
_TIMEOUT_S = 20


def lack() -> EnvironmentProblem | None:
    """What this host lacks for rules: a program that makes them."""
    if shutil.which("nft") or shutil.which("iptables"):
        return None
    return EnvironmentProblem(
        "this host has neither nft nor iptables, and the node must reach what is beyond it",
        "apt-get install nftables, or use a bundle (--artifacts DIR) and the embedded GitLab",
    )


@dataclass(frozen=True)
class Nat:
    """The rules of one node.  ``link`` is the host's end of its veth pair."""

    run_id: str
    link: str
    network: str

    @property
    def table(self) -> str:
        """Name of our nft table; holds the link's name, which holds run id and subnet."""
        return f"{_TABLE}{self.link}"

    def open(self) -> None:
        """Put the rules in place.  Raises EnvironmentProblem when the host has neither nft nor iptables."""
        if (problem := lack()) is not None:
            raise problem
        if shutil.which("nft"):
            _nft_script(self._own_table())
            self.pass_nft_chains(("input", "forward"))
        else:
            rule = ["-s", self.network, "!", "-o", self.link, *self._comment(), "-j", "MASQUERADE"]
            _run(["iptables", "-w", "-t", "nat", "-I", "POSTROUTING", "1", *rule])
        self.pass_iptables_chains(("INPUT", "FORWARD"))

    def _own_table(self) -> str:
        return f"""
            table ip {self.table} {{
              comment "{self.run_id}"
              chain postrouting {{
                type nat hook postrouting priority srcnat; policy accept;
                ip saddr {self.network} oifname != "{self.link}" masquerade comment "{self.run_id}"
              }}
            }}"""

    def _comment(self) -> list[str]:
        return ["-m", "comment", "--comment", f"{self.run_id} {self.link}"]

    def pass_nft_chains(self, hooks: Collection[str]) -> None:
        """Accept what comes from the link, and answers to it, in every foreign chain on these hooks."""
        for chain in filtering_chains(_nft_json("list", "chains")):
            if chain["hook"] not in hooks:
                continue
            where = f"{chain['family']} {chain['table']} {chain['name']}"
            tag = f'comment "{self.run_id} {self.link}"'
            rules = [f'insert rule {where} iifname "{self.link}" accept {tag}']
            if chain["hook"] == "forward":
                rules.append(
                    f'insert rule {where} oifname "{self.link}" ct state established,related accept {tag}'
                )
            _nft_script("\n".join(rules))

    def pass_iptables_chains(self, chains: Collection[str]) -> None:
        """The same in the chains that iptables manages."""
        answers = ["-o", self.link, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"]
        for command, chain in _iptables_that_filter():
            if chain not in chains:
                continue
            for rule in (["-i", self.link], *([answers] if chain == "FORWARD" else [])):
                _run([command, "-w", "-I", chain, "1", *rule, *self._comment(), "-j", "ACCEPT"])


def admit(run_id: str, link: str) -> None:
    """Let in what comes from a link of ours and asks this host itself; docker does the rest for its networks.

    A host firewall (ufw, firewalld) drops what containers send to the host.
    """
    nat = Nat(run_id, link, "")
    if shutil.which("nft"):
        nat.pass_nft_chains(("input",))
    nat.pass_iptables_chains(("INPUT",))


def filtering_chains(ruleset: dict[str, Any]) -> list[dict[str, str]]:
    """Base chains on the input and forward hooks that nft may change: not ours, and not iptables' own.

    ``ruleset`` is the output of ``nft -j list chains``.
    """
    return [
        chain
        for entry in ruleset.get("nftables", [])
        if (chain := entry.get("chain"))
        and chain.get("hook") in {"input", "forward"}
        and chain.get("family") in {"ip", "inet"}
        and chain.get("type") == "filter"
        and not chain["table"].startswith(_TABLE)
        and not (chain["family"] == "ip" and chain["table"] in {"filter", "mangle", "raw", "security", "nat"})
    ]


def _iptables_that_filter() -> list[tuple[str, str]]:
    """Command, one a flavour, and chain where iptables does more than accept.

    A rule in another chain would make that chain, and leave it there.
    """
    found: dict[tuple[str, str], str] = {}
    for command in _IPTABLES:
        if not shutil.which(command):
            continue
        flavour = "legacy" if "legacy" in _output([command, "--version"]) else "nft"
        rules = "" if flavour == "legacy" and not _legacy_loaded() else _output([command, "-w", "-S"])
        for chain in ("INPUT", "FORWARD"):
            if re.search(rf"^(-A {chain}\b|-P {chain} DROP)", rules, re.MULTILINE):
                found.setdefault((flavour, chain), command)
    return [(command, chain) for (_, chain), command in found.items()]


def _legacy_loaded() -> bool:
    """Whether the legacy filter table exists; listing it would create it."""
    try:
        return "filter" in Path("/proc/net/ip_tables_names").read_text().split()
    except OSError:
        return False


@dataclass(frozen=True)
class Rule:
    """A rule or table of ours in place on this host: the node's link, and the command that removes it."""

    link: str
    removal: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.link}, removed by: {shlex.join(self.removal)}"


def owned() -> list[Rule]:
    """What of ours is in place on this host."""
    found: list[Rule] = []
    if shutil.which("nft"):
        for entry in _nft_json("list", "ruleset").get("nftables", []):
            table, rule = entry.get("table"), entry.get("rule")
            if table and table["name"].startswith(_TABLE):
                link = table["name"].removeprefix(_TABLE)
                found.append(Rule(link, ("nft", "delete", "table", table["family"], table["name"])))
            elif rule and (link := _link_of(str(rule.get("comment", "")))):
                where = (rule["family"], rule["table"], rule["chain"], "handle", str(rule["handle"]))
                found.append(Rule(link, ("nft", "delete", "rule", *where)))
    for command in _IPTABLES:
        for table, words in _iptables_rules(command):
            comment = words[words.index("--comment") + 1] if "--comment" in words else ""
            if link := _link_of(comment):
                found.append(Rule(link, (command, "-w", "-t", table, "-D", *words[1:])))
    return found


def _link_of(comment: str) -> str:
    """The link named in a comment of ours, ``<run id> <link>``; empty if it is none."""
    run_id, _, link = comment.partition(" ")
    name = re.escape(run_id.replace("-", ""))
    return link if re.fullmatch(rf"{name}(n\d+|k0)", link) else ""


def _iptables_rules(command: str) -> list[tuple[str, list[str]]]:
    """Table and words (``-A``, chain, …) of every rule that this flavour of iptables shows."""
    if not shutil.which(command):
        return []
    if "legacy" in _output([command, "--version"]) and not _legacy_loaded():
        return []
    return [
        (table, shlex.split(line))
        for table in ("filter", "nat")
        for line in _output([command, "-w", "-t", table, "-S"]).splitlines()
        if line.startswith("-A")
    ]


def close(link: str) -> None:
    """Remove every rule of the node with this link.  No error if there is none."""
    for rule in owned():
        if rule.link == link:
            _run(rule.removal)


def _nft_json(*arguments: str) -> dict[str, Any]:
    loaded = json.loads(_output(["nft", "-j", *arguments]) or "{}")
    return loaded if isinstance(loaded, dict) else {}


def _nft_script(script: str) -> None:
    _run(["nft", "-f", "-"], script)


def _output(argv: Sequence[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False).stdout


def _run(argv: Sequence[str], script: str | None = None) -> None:
    done = subprocess.run(argv, input=script, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise EnvironmentProblem(
            f"the firewall refused a rule for the node: {done.stderr.strip()}",
            "check that this kernel has nf_tables with nat, and that no other program holds its lock",
            evidence=script or " ".join(argv),
        )
