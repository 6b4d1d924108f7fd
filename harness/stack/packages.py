"""What a catalog offers, by its PackageManifest: OLM tells more of it from v0.23.0 on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.profile import OperatorWish
from harness.versions import version_tuple

PACKAGE_MANIFEST = "packages.operators.coreos.com/v1/PackageManifest"


@dataclass(frozen=True)
class Channel:
    """A channel of a package: the CSV at its head, and its entries where OLM lists them (from v0.23.0)."""

    name: str
    head: str
    entries: tuple[str, ...] | None


def channels(package: Mapping[str, Any]) -> dict[str, Channel]:
    """The channels of a PackageManifest, by name."""
    found = {}
    for it in package.get("status", {}).get("channels") or ():
        entries = it.get("entries")
        names = tuple(str(entry["name"]) for entry in entries) if entries is not None else None
        found[it["name"]] = Channel(it["name"], str(it.get("currentCSV", "")), names)
    return found


def may_offer(package: Mapping[str, Any], channel: str, csv: str) -> bool:
    """Whether a CSV is among a channel's entries; True where OLM does not list them."""
    found = channels(package).get(channel)
    return found is not None and (found.entries is None or csv in found.entries)


def why_not_offered(package: Mapping[str, Any], wish: OperatorWish) -> str:
    """Empty when the CSV asked for is on offer in its channel, else what the catalog offers instead.

    Where OLM lists no entries, a head that is no older than the CSV asked for is all that can be read.
    """
    found = channels(package)
    if wish.channel not in found:
        return f"package {wish.package} has channels {sorted(found)}, not {wish.channel}"
    channel = found[wish.channel]
    if channel.entries is None:
        if _version(channel.head, wish) >= version_tuple(wish.version):
            return ""
        return f"channel {channel.name} of catalog {wish.catalog} has only got as far as {channel.head}"
    if wish.csv in channel.entries:
        return ""
    if not channel.entries:
        return f"channel {channel.name} of catalog {wish.catalog} is empty"
    ordered = sorted(channel.entries, key=lambda name: _version(name, wish))
    gone = "no longer" if _version(ordered[0], wish) > version_tuple(wish.version) else "does not"
    offers = "offers" if gone == "no longer" else "offer"
    return (
        f"channel {channel.name} of catalog {wish.catalog} {gone} {offers} {wish.csv}: "
        f"it has {len(ordered)} versions, from {ordered[0]} to {ordered[-1]}"
    )


def _version(csv: str, wish: OperatorWish) -> tuple[int, int, int]:
    return version_tuple(csv.removeprefix(f"{wish.package}."))
