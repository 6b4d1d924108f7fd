"""Which bundle each Subscription of a namespace gets next. Dependencies of packages aren't resolved."""

from __future__ import annotations

import json
from dataclasses import dataclass

from olmlab.csvspec import provided_apis
from olmlab.kube import Obj, annotations_of, name_of, namespace_of
from olmlab.registry import Message


class Unsatisfiable(Exception):
    """No choice satisfies all Subscriptions; the clauses are joined as OLM joins them."""

    def __init__(self, *clauses: str) -> None:
        super().__init__("constraints not satisfiable: " + ", ".join(clauses))


@dataclass(frozen=True)
class Choice:
    """What to install for a Subscription; `bundle` is None when the CSV in the cluster is the right one."""

    sub: Obj
    csv_name: str
    bundle: Message | None
    catalog: Obj


def version_key(text: str) -> tuple[object, ...]:
    """Semantic version order: a release is higher than its pre-releases."""
    core, _, pre = text.split("+")[0].partition("-")
    numbers = tuple(int(n) for n in core.split("."))
    return (
        numbers,
        pre == "",
        tuple((not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in pre.split(".")),
    )


def in_range(version: str, wanted: str) -> bool:
    """Whether a version is in a skipRange such as ">=1.0.0 <1.2.0 || 1.3.0"."""
    compare = {
        ">=": lambda a, b: a >= b,
        "<=": lambda a, b: a <= b,
        "!": lambda a, b: a != b,
        ">": lambda a, b: a > b,
        "<": lambda a, b: a < b,
        "=": lambda a, b: a == b,
    }
    for part in wanted.split("||"):
        ok = bool(part.split())
        for term in part.split():
            sign = next((s for s in compare if term.startswith(s)), "")
            ok &= compare[sign or "="](version_key(version), version_key(term.removeprefix(sign)))
        if ok:
            return True
    return False


def package_of(csv: Obj) -> str:
    """The package a CSV came from, by its properties annotation."""
    text = annotations_of(csv).get("operatorframework.io/properties")
    found = json.loads(text)["properties"] if text else []
    return next((p["value"]["packageName"] for p in found if p["type"] == "olm.package"), "")


def _channel(sub: Obj, bundles: list[Message], package: Message | None, catalog: Obj | None) -> list[Message]:
    """The bundles of the Subscription's channel, or the clause that says what isn't there."""
    spec, exists = sub["spec"], f"subscription {name_of(sub)} exists"
    referenced = f"in the catalog referenced by subscription {name_of(sub)}"
    if catalog is None:
        where = f"from catalog {spec['source']} in namespace {spec['sourceNamespace']}"
        raise Unsatisfiable(f"no operators found {where} referenced by subscription {name_of(sub)}", exists)
    found = [b for b in bundles if b["packageName"] == spec["name"]]
    if not found:
        raise Unsatisfiable(f"no operators found in package {spec['name']} {referenced}", exists)
    channel = spec.get("channel") or (package or {}).get("defaultChannelName")
    in_channel = [b for b in found if b["channelName"] == channel]
    if not in_channel:
        raise Unsatisfiable(
            f"no operators found in channel {channel} of package {spec['name']} {referenced}", exists
        )
    starting = spec.get("startingCSV")
    if starting and not (sub.get("status") or {}).get("currentCSV"):
        named = [b for b in in_channel if b["csvName"] == starting]
        where = f"in channel {channel} of package {spec['name']} {referenced}"
        if not named:
            raise Unsatisfiable(f"no operators found with name {starting} {where}", exists)
        return named
    return in_channel


def _heads(bundles: list[Message]) -> list[Message]:
    """A channel from its head down."""
    by_name = {b["csvName"]: b for b in bundles}
    passed = {n for b in bundles for n in [b["replaces"], *b["skips"]]}
    order = [b for b in bundles if b["csvName"] not in passed]
    while order and (below := by_name.get(order[-1]["replaces"])) and below not in order:
        order.append(below)
    return order


def _update_of(csv: Obj, channel: list[Message]) -> Message | None:
    """The channel's newest entry that replaces, skips or range-skips the CSV in the cluster."""
    version = str(csv["spec"].get("version", "0.0.0"))
    for bundle in _heads(channel):
        if bundle["csvName"] == name_of(csv):
            return None
        ranged = bundle["skipRange"] and in_range(version, bundle["skipRange"])
        if bundle["replaces"] == name_of(csv) or name_of(csv) in bundle["skips"] or ranged:
            return bundle
    return None


def _identifier(bundle: Message | None, catalog: Obj, csv_name: str, namespace: str) -> str:
    if bundle is None:
        return f"@existing/{namespace}//{csv_name}"
    return f"{name_of(catalog)}/{namespace_of(catalog)}/{bundle['channelName']}/{csv_name}"


def choose(
    sub: Obj, bundles: list[Message], package: Message | None, catalog: Obj | None, csvs: list[Obj]
) -> Choice:
    """The next bundle for `sub`, given its catalog's bundles and the CSVs (no copies) of its namespace."""
    channel = _channel(sub, bundles, package, catalog)
    assert catalog is not None
    current = (sub.get("status") or {}).get("currentCSV", "")
    installed = next((c for c in csvs if name_of(c) == current), None)
    chosen = _update_of(installed, channel) if installed else _heads(channel)[0]
    name = chosen["csvName"] if chosen else current
    return Choice(sub, name, chosen, catalog)


def refuse_strangers(choices: list[Choice], csvs: list[Obj]) -> None:
    """An existing CSV that no Subscription refers to blocks others of its package or with its APIs."""
    known = {n for c in choices for n in (c.csv_name, (c.sub.get("status") or {}).get("currentCSV"))}
    for choice in choices:
        sub, namespace = name_of(choice.sub), namespace_of(choice.sub)
        mine = _identifier(choice.bundle, choice.catalog, choice.csv_name, namespace)
        installed = next((c for c in csvs if name_of(c) == choice.csv_name), None)
        for csv in csvs:
            if choice.bundle is None and name_of(csv) in known:
                continue
            if choice.bundle is not None and name_of(csv) == (choice.sub.get("status") or {}).get(
                "currentCSV"
            ):
                continue
            other = f"@existing/{namespace}//{name_of(csv)}"
            if package_of(csv) == choice.sub["spec"]["name"]:
                why = f"{mine} and {other} originate from package {package_of(csv)}"
            elif installed and (shared := provided_apis(csv) & provided_apis(installed)):
                kind, version, group = sorted(shared)[0].split(".", 2)
                why = f"{mine} and {other} provide {kind} ({group}/{version})"
            else:
                continue
            stranger = f"clusterserviceversion {name_of(csv)} exists and is not referenced by a subscription"
            raise Unsatisfiable(
                f"subscription {sub} requires {mine}", f"subscription {sub} exists", stranger, why
            )
