"""Compares two OLM timelines: per object the sequence of states, whatever the interleaving of the objects.

A timeline is a list of entries as in recordings/olm/*.jsonl: `t` (s), `kind`, `name`, `namespace`, `event`
(ADDED, MODIFIED, DELETED) and the `status` that matters. The recordings are of OLM v0.26.0, trimmed to OLM's
own kinds and the objects it makes. What may differ is in ALLOWANCES, each with its reason; all else is told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORDINGS = Path(__file__).parent / "recordings/olm"
Entry = Mapping[str, Any]
Sequences = dict[str, list[str]]

# Random or content-dependent parts of names and messages.
MASKS = (
    (re.compile(r"\binstall-[a-z0-9]{5}\b"), "install-<id>"),
    (re.compile(r"\b\d+\.\d+\.\d+\.\d+:\d+"), "<address>"),
    (re.compile(r"\b(old|new) hash=\w+"), r"\1 hash=<hash>"),
    (re.compile(r"^[0-9a-f]{63}$"), "<bundle>"),
    (re.compile(r"(\.kb\.io)-\w{5}$"), r"\1-<id>"),
    (re.compile(r"(gitlab-runner-operator\.v[\d.]+\d(?:-default)?)-[a-z0-9]{7,10}$"), r"\1-<hash>"),
)


@dataclass(frozen=True)
class Allowance:
    """Entries that may be missing on either side: in sequences `where` (scenario:sequence) matches."""

    where: str
    entry: str
    reason: str


ALLOWANCES = (
    Allowance(
        ".*:ClusterServiceVersion/",
        r"Installing/InstallWaiting: .*spec update of deployment .* to be observed",
        "seen only when OLM looks between the edit and the Deployment controller's answer to it",
    ),
    Allowance(
        "(06|13|15|16|07|08|11).*:ClusterServiceVersion/",
        r"Installing/InstallWaiting: .*(outdated replica|not available)",
        "which of these waits is seen, and whether one is, depends on how fast pods start",
    ),
    Allowance(
        "(06|13|15).*:ClusterServiceVersion/.*1.20.0",
        "Pending/RequirementsNotMet",
        "in an upgrade recorded both ways: whether the CSV or its CRD and RBAC come first",
    ),
    Allowance(
        "(07|08|16).*:ClusterServiceVersion/",
        "(Failed/ComponentUnhealthy|Pending/NeedsReinstall): .*outdated|InstallReady/AllRequirementsMet",
        "whether a breaking edit is seen before or after the rollout started decides about one more round",
    ),
    Allowance(
        ".*:Subscription/condition/CatalogSourcesUnhealthy",
        ".*/(CatalogSourcesAdded|CatalogSourcesDeleted): .*",
        "the real one's two writers overwrite each other, so this passing reason comes once or several times",
    ),
    Allowance(
        ".*:Subscription/condition/InstallPlanPending",
        "True/Installing: ",
        "passes within a second; recorded also after the plan's end, from a stale copy",
    ),
    Allowance(
        ".*:Subscription/condition/InstallPlanPending",
        "gone",
        "from stale copies the real one drops and sets it again",
    ),
    Allowance(
        ".*:Subscription/condition/BundleUnpacking",
        "False/: |gone",
        "cleared by the next resolution that changes nothing; recorded with and without",
    ),
    Allowance(
        "(06|13|15|failure-b).*:Subscription/condition/ResolutionFailed",
        "gone|True/(ConstraintsNotSatisfiable|ErrorPreventedResolution): .*",
        "passing: while a replaced CSV still exists, or before a catalog is READY",
    ),
    Allowance(
        "(06|13|15|failure-b).*:Event/",
        "Warning ResolutionFailed .*",
        "as above: the Event of a passing failure",
    ),
    Allowance(
        ".*:(CatalogSource)/",
        "IDLE|CONNECTING|TRANSIENT_FAILURE",
        "gRPC's back-off; the lasting state is compared as the last one",
    ),
    Allowance(
        "(07|13|15).*:(Job/|Subscription/condition/BundleUnpacking)",
        "Complete .*|True/UnpackingInProgress: ",
        "recorded with the bundle already unpacked by an earlier step; here it is the first one on its node",
    ),
    Allowance(
        "10.*:Event/",
        ".*",
        "none recorded: client-go's filter stops an object's events after the 25th, earlier in the recording",
    ),
    Allowance(
        "(01|11).*:objects/removed",
        "Service/(operatorhubio-catalog|packageserver-service|gitlab-runner-controller-manager-service)",
        "left out: a second sync from a stale cache deletes and makes them again",
    ),
    Allowance(
        "(?!11|12).*:CustomResourceDefinition/",
        "conversion (None|Webhook)",
        "the recorded package had no webhooks but in 11 and 12, the published one has",
    ),
    Allowance(
        ".*:Event/",
        "Normal InstallWaiting .*|Normal RequirementsNotMet .*|.* (NeedsReinstall|ComponentUnhealthy) .*",
        "as for the phases that the Events announce",
    ),
)

#: Where the real one goes round once more: from this state to the next coming of the one before it. Left out:
#: the real catalog and olm operator undo each other's CRD conversion once, from stale caches, and reinstall.
ROUND = ("11.*:ClusterServiceVersion/", "Pending/NeedsReinstall: calculated deployment install is bad")


def mask(text: str) -> str:
    for pattern, replacement in MASKS:
        text = pattern.sub(replacement, text)
    prefix = "constraints not satisfiable: "
    if text.startswith(prefix):  # the solver gives its clauses in any order, and pairs either way round
        clauses = [" and ".join(sorted(c.split(" and "))) for c in text.removeprefix(prefix).split(", ")]
        text = prefix + ", ".join(sorted(clauses))
    return text


def _conditions(found: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    said = {}
    for c in found or ():
        reason = (c.get("reason") or "").replace("None", "")
        said[c["type"]] = f"{c['status']}/{reason}: {mask(c.get('message') or '')}"
    return said


def _states(entry: Entry) -> Iterator[tuple[str, str]]:
    """(sequence, state) pairs that one entry contributes."""
    kind, status = entry["kind"], entry.get("status") or {}
    label = f"{kind}/{mask(entry['name'])}"
    if kind == "Event":
        message = mask(status["message"])
        yield f"Event/{entry['name']}", f"{status['type']} {status['reason']} {message}"
    elif kind == "ClusterServiceVersion" and status.get("phase"):
        yield label, f"{status['phase']}/{status['reason']}: {mask(status['message'])}"
    elif kind == "InstallPlan":
        csvs = ",".join(status.get("csvs") or ())
        if status.get("phase"):
            approved = "approved" if status.get("approved") else "not approved"
            failed = _conditions(status.get("conditions")).values()
            yield f"InstallPlan/{csvs}", " ".join([status["phase"], approved, *failed])
    elif kind == "CatalogSource" and status.get("lastObservedState"):
        yield label, status["lastObservedState"]
    elif kind == "OperatorGroup" and status.get("namespaces"):
        apis = (status.get("annotations") or {}).get("olm.providedAPIs")
        complaints = [f"{t} {c}" for t, c in _conditions(status.get("conditions")).items()]
        yield label, f"{status['namespaces']} apis={apis or ''} {complaints}"
    elif kind == "Job":
        for type_, said in _conditions(status.get("conditions")).items():
            if type_ in ("Complete", "Failed"):
                yield label, f"{type_} {said}"
    elif kind == "CustomResourceDefinition" and status.get("conversion"):
        yield label, f"conversion {status['conversion']}"


def _subscription(entry: Entry, known: dict[str, str]) -> Iterator[tuple[str, str]]:
    status = entry.get("status") or {}
    if status.get("state"):
        at = f"{status['state']} current={status.get('currentCSV')} installed={status.get('installedCSV')}"
        yield "Subscription/state", at
    now = _conditions(status.get("conditions"))
    for type_ in known.keys() | now.keys():
        yield f"Subscription/condition/{type_}", now.get(type_, "gone")
    known.clear()
    known.update(now)


def sequences(timeline: Iterable[Entry]) -> Sequences:
    """Every object's states in order, repeats dropped; and the sets of objects that came and went."""
    found: Sequences = {}
    came: set[str] = set()
    went: set[str] = set()
    known: dict[str, str] = {}
    for entry in timeline:
        label = f"{entry['kind']}/{mask(entry['name'])}"
        if entry["kind"] != "Event" and entry["event"] == "ADDED":
            came.add(label)
        if entry["event"] == "DELETED":
            went.add(label)
            continue
        pairs = _subscription(entry, known) if entry["kind"] == "Subscription" else _states(entry)
        for where, state in pairs:
            states = found.setdefault(where, [])
            if where.startswith(("CatalogSource/", "CustomResourceDefinition/")):
                states[:] = [state]
            elif where.startswith("Event/"):
                states.append(state) if state not in states else None
            elif not states or states[-1] != state:
                states.append(state)
    found["objects/made"], found["objects/removed"] = sorted(came), sorted(went)
    return found


def _allowed(scenario: str, where: str, state: str) -> bool:
    return any(
        re.match(a.where, f"{scenario}:{where}") and re.fullmatch(f"({a.entry}).*", state) for a in ALLOWANCES
    )


def compare(
    scenario: str, recorded: Iterable[Entry], seen: Iterable[Entry], extra: Iterable[str] = ()
) -> list[str]:
    """Where `seen` parts from `recorded`: one line a difference; objects matching `extra` don't count."""
    wanted, have = sequences(recorded), sequences(seen)
    differences = []
    made = any(o.startswith("Subscription/") for o in wanted["objects/made"])
    for where in sorted(wanted.keys() | have.keys()):
        a, b = (_without_round(scenario, where, x.get(where, [])) for x in (wanted, have))
        a, b = ([s for s in x if not _allowed(scenario, where, s)] for x in (a, b))
        if where.startswith("objects/"):
            a, b = ([o for o in x if not any(re.fullmatch(e, o) for e in extra)] for x in (a, b))
            differences += [f"{where}: recorded, not seen: {o}" for o in a if o not in b]
            differences += [f"{where}: seen, not recorded: {o}" for o in b if o not in a]
            continue
        a, b = (_without_repeats(x) for x in (a, b))
        if where.startswith("Event/"):
            a, b = sorted(a), sorted(b)
        if where.startswith("Subscription/") and not made and len(a + b) == 1:
            continue  # an entry tells the whole status, also where only another part of it changed
        for n in range(max(len(a), len(b))):
            x, y = (s[n] if n < len(s) else "(nothing more)" for s in (a, b))
            if x != y:
                differences.append(f"{where} [{n}]: recorded {x!r}, seen {y!r}")
                break
    return differences


def _without_round(scenario: str, where: str, states: list[str]) -> list[str]:
    place, state = ROUND
    if not re.match(place, f"{scenario}:{where}") or state not in states:
        return states
    at = states.index(state)
    before, after = states[:at], states[at + 1 :]
    return before + (after[after.index(before[-1]) + 1 :] if before[-1] in after else after)


def _without_repeats(states: list[str]) -> list[str]:
    return [s for n, s in enumerate(states) if n == 0 or states[n - 1] != s]


def load(scenario: str) -> list[Entry]:
    """The recording of a scenario, by the start of its file's name."""
    path = next(iter(sorted(RECORDINGS.glob(f"{scenario}*.jsonl"))))
    return [json.loads(line) for line in path.read_text().splitlines()]
