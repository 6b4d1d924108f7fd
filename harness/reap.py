"""What runs left behind: found by their journals, removed, and looked for again.

Only what the journal of a run of this state home knows is removed, and only when that run is over: neither
living nor kept. Things that carry our mark and that no journal here knows are listed: they may be another's.
What belongs to a node that runs is nobody's to remove but its own state home's.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness import journal as journals
from harness.errors import HarnessError, UsageError
from harness.inputs import gitlab_url, token_in
from harness.journal import (
    CGROUP,
    CLUSTER_PLACE,
    DIRECTORY,
    GITLAB_PLACE,
    KIND_CLUSTER,
    LINK,
    PROCESS,
    RULES,
    Account,
    Entry,
    Journal,
    Life,
)
from harness.ownership import state_home
from harness.redact import redact

if TYPE_CHECKING:
    from harness.cluster import KindCluster, Leftover
    from harness.gitlab.client import GitLabTarget


_RUN_ID = re.compile(r"\brc-[0-9a-f]{8}\b")


@dataclass(frozen=True)
class Access:
    """Credentials for clusters and GitLabs named in journals; without them, those that the run had."""

    kubeconfig: Path | None = None
    context: str | None = None
    gitlab_url: str | None = None
    gitlab_token_file: Path | None = None
    gitlab_ca_file: Path | None = None


AS_THE_RUN = Access()


@dataclass
class Left:
    """What is left of one run: things that are there, and places that could not be looked at."""

    account: Account
    things: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people: one line a thing."""
        return [f"{it} of {self.account}" for it in (*self.things, *self.unreachable)]


@dataclass
class Survey:
    """All that runs left: of runs that are over, and what carries our mark and is nobody's here."""

    over: list[Left] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What ``reap`` would remove, one line a thing; a dry run prints the same."""
        return [line for left in self.over for line in left.lines()]


def survey(access: Access = AS_THE_RUN) -> Survey:
    """Look at everything that runs of this state home wrote down, and at what carries our mark."""
    found = Survey()
    known, unreadable = journals.accounts()
    for account in known:
        life = account.life
        if life is Life.STALE:
            found.over.append(look(account, access))
        elif life is Life.KEPT and not _runs(account):
            found.notes.append(
                f"the kept stack {account.name} no longer runs: runner-conformance down {account.name}"
            )
    ids, living = {account.run_id for account in known}, _living()
    found.notes += [
        f"a node of {run_id} runs, which another state home keeps{where}: it stays"
        for run_id, where in living.items()
        if run_id not in ids
    ]
    found.unknown = [*unreadable, *_by_run(_unknown_things(known, living)), *_unknown_states(known)]
    return found


def look(account: Account, access: Access = AS_THE_RUN) -> Left:
    """What is left of a run, wherever its journal says that something was made."""
    left = Left(account)
    left.things += [str(it) for it in _host_things(account)]
    if _owns_state_dir(account) and account.state_dir.exists():
        left.things.append(f"directory {account.state_dir}")
    if account.this_boot and _gitlab_process(account):
        left.things.append("process of the embedded GitLab")
    if (kind := _kind(account)) is not None:
        try:
            left.things += kind.left()
        except HarnessError as error:
            left.unreachable.append(f"kind cluster {kind.cluster}, which can't be looked at: {error.message}")
    for where in _places(account):
        try:
            left.things += [f"{it} in {_address(account, where)}" for it in _there(account, where, access)]
        except HarnessError as error:
            left.unreachable.append(_not_looked_at(account, where, error))
    return left


def remove(account: Account, access: Access = AS_THE_RUN) -> list[str]:
    """Remove what a run left and look again; what is still there, or could not be looked at.

    The journal is struck out as far as things are gone, and goes when nothing is left in it. Raises
    UsageError while the run lives.
    """
    from harness.cluster import reap
    from harness.gitlab.embedded import EmbeddedGitLab

    journal = Journal.take(account)
    resisted: dict[str, str] = {}
    try:
        if (kind := _kind(account)) is not None:  # docker takes away the link of its network itself
            resisted |= _attempt("kind", kind.stop)
        if account.this_boot:
            resisted |= _attempt("the embedded GitLab", lambda: EmbeddedGitLab.stop_at(_gitlab_dir(account)))
            for sentence in reap(_host_things(account)):
                resisted[sentence] = sentence
        for where in _places(account):
            resisted |= _attempt(where, partial(_remove_there, account, where, access))
        if _owns_state_dir(account) and account.state_dir.exists():
            resisted |= _attempt(str(account.state_dir), partial(shutil.rmtree, account.state_dir))
        return settle(journal, access, list(resisted.values()))
    finally:
        journal.close()


def settle(journal: Journal, access: Access, resisted: list[str]) -> list[str]:
    """Strike out what is gone; what is left, in the words of what resisted where there are any."""
    account = journals.load(journal.path)
    left = look(account, access)
    there = "\n".join((*left.things, *left.unreachable))
    for entry in account.open:
        elsewhere = entry.where in account.places
        if elsewhere and f" in {_address(account, entry.where)}" in there:
            continue
        if not elsewhere and _still_on_host(entry, left.things):
            continue
        journal.gone(entry)
    if not left.things and not left.unreachable:
        return []
    return [*dict.fromkeys((*resisted, *left.things, *left.unreachable))]


def reap_all(access: Access = AS_THE_RUN) -> list[str]:
    """Remove what ``survey`` finds of runs that are over; a sentence for each thing that is still there."""
    resisted = []
    for account in sorted(
        journals.accounts()[0], key=lambda it: not it.beside
    ):  # whoever joined leaves first
        if account.life is Life.STALE:
            with suppress(UsageError):  # somebody else takes it down at this moment
                resisted += [f"{it} of {account}" for it in remove(account, access)]
    return resisted


def remove_unknown() -> list[str]:
    """Remove what carries our mark and no journal here knows; a sentence for each thing that resisted."""
    from harness.cluster import reap

    known, _ = journals.accounts()
    resisted = list(reap(_unknown_things(known, _living())))
    for path in [*_unreadable_journals(), *_state_dirs_of_nobody(known)]:
        resisted += _attempt(str(path), partial(_delete, path)).values()
    return resisted


# -- this host --------------------------------------------------------------------------------------------


def _host_things(account: Account) -> list[Leftover]:
    """Processes, cgroups, links and rules of a run that its journal knows, running or not."""
    from harness.cluster import find_leftovers

    if not account.this_boot:
        return []
    cgroups = {it.name for it in account.open if it.kind == CGROUP}
    found = []
    for it in find_leftovers(account.run_id, running=True):
        if it.kind == "directory":
            continue
        if it.kind == "cgroup" and Path(it.name).name not in cgroups:
            continue
        found.append(it)
    return found


def _living() -> dict[str, str]:
    """Runs whose node runs on this host, whoever's they are, and where its state is, if that is known."""
    from harness.cluster import living_nodes
    from harness.cluster.kind import engine

    found = {}
    with suppress(HarnessError):  # a docker that does not answer has no node that runs
        found = dict.fromkeys(engine.living_runs(), "")
    return {**found, **{run_id: f" in {directory}" for run_id, directory in living_nodes().items()}}


def _unknown_things(known: list[Account], living: Iterable[str]) -> list[Leftover]:
    """What carries our mark, is in no journal here, and belongs to no run whose node is ``living``."""
    from harness.cluster import find_leftovers

    ids = {it.run_id for it in known if it.this_boot}.union(living)
    return [it for it in find_leftovers(running=True) if it.run_id not in ids and it.kind != "directory"]


def _by_run(things: list[Leftover]) -> list[str]:
    """One line a run: a node has dozens of processes, and ten cgroups on v1."""
    runs: dict[str, Counter[str]] = {}
    for it in things:
        runs.setdefault(it.run_id, Counter())[it.kind] += 1
    return [
        f"{', '.join(f'{number} {kind}' for kind, number in kinds.items())} of {run_id or 'an unknown run'}"
        for run_id, kinds in runs.items()
    ]


def _unknown_states(known: list[Account]) -> list[str]:
    return [f"directory {it}, which no journal knows" for it in _state_dirs_of_nobody(known)]


def _state_dirs_of_nobody(known: list[Account]) -> list[Path]:
    owned = {account.state_dir.resolve() for account in known}
    stacks = state_home() / "stacks"
    found = sorted(it for it in stacks.iterdir() if it.is_dir()) if stacks.is_dir() else []
    return [it for it in found if it.resolve() not in owned and not _in_use(it)]


def _in_use(directory: Path) -> bool:
    """Whether a process holds the stack's lock: one of a version that has no journal."""
    from harness.state import is_held

    return is_held(directory)


def _unreadable_journals() -> Iterator[Path]:
    for path in journals.directory().glob("*.jsonl"):
        try:
            journals.load(path)
        except HarnessError:
            yield path


def _owns_state_dir(account: Account) -> bool:
    """Whether the directory is still this run's: a later one of the same name has it by now."""
    from harness.state import StackState

    try:
        return StackState.load(account.state_dir).run_id == account.run_id
    except HarnessError:
        others = (it for it in journals.accounts()[0] if it.run_id != account.run_id)
        return all(it.state_dir != account.state_dir for it in others)


def _runs(account: Account) -> bool:
    """Whether the node of a kept stack runs; others than k3s are not asked."""
    if not any(it.kind == CGROUP for it in account.open):
        return True
    return account.this_boot and any(it.kind == PROCESS for it in _host_things(account))


def _gitlab_dir(account: Account) -> Path:
    return account.state_dir / "gitlab"


def _gitlab_process(account: Account) -> bool:
    from harness.gitlab.embedded import EmbeddedGitLab

    return EmbeddedGitLab.runs_at(_gitlab_dir(account))


def _kind(account: Account) -> KindCluster | None:
    """The run's kind cluster, if its journal knows one that is not seen to be gone."""
    from harness.cluster import KindCluster, KindOptions

    if not any(it.kind == KIND_CLUSTER for it in account.open):
        return None
    place = account.state_dir / "cluster"
    return KindCluster(KindOptions(account.run_id, account.name, place, account.beside))


def _still_on_host(entry: Entry, things: list[str]) -> bool:
    """Whether one of the things that are there is the entry's, or may be."""
    if entry.kind == DIRECTORY:
        return Path(entry.name).exists() and any(entry.name in it for it in things)
    word = {CGROUP: "cgroup ", LINK: "link ", RULES: "firewall rule ", PROCESS: "process "}
    return any(it.startswith(word.get(entry.kind, entry.kind)) for it in things)


# -- elsewhere --------------------------------------------------------------------------------------------


def _places(account: Account) -> list[str]:
    """Places in which something was made and has not been seen to be gone."""
    return [name for name in account.places if any(it.where == name for it in account.open)]


def _address(account: Account, where: str) -> str:
    how = account.places[where]
    return f"{where} {how.get('url') or how.get('context') or how.get('kubeconfig', '')}"


def _not_looked_at(account: Account, where: str, error: HarnessError) -> str:
    number = sum(it.where == where for it in account.open)
    return f"{number} thing(s) in {_address(account, where)}, which can't be looked at: {error.message}"


def _there(account: Account, where: str, access: Access) -> list[str]:
    from harness import elsewhere

    if where == CLUSTER_PLACE:
        kube = elsewhere.reach_cluster(account.places[where], access.kubeconfig, access.context)
        return [str(it) for it in elsewhere.objects_of(kube, account.run_id, _written_down(account, where))]
    target = _target(account, access)
    return [str(it) for run_id in _ids(account) for it in elsewhere.made_in_gitlab(target, run_id)]


def _remove_there(account: Account, where: str, access: Access) -> None:
    from harness import elsewhere

    if where == CLUSTER_PLACE:
        kube = elsewhere.reach_cluster(account.places[where], access.kubeconfig, access.context)
        elsewhere.remove_objects(kube, account.run_id, _written_down(account, where))
    else:
        for run_id in _ids(account):
            elsewhere.remove_from_gitlab(_target(account, access), run_id)


def _ids(account: Account) -> list[str]:
    """The run's id, and those of runs that used its kept stack: they are in what these wrote down."""
    names = " ".join(it.name for it in account.open if it.where == GITLAB_PLACE)
    return list(dict.fromkeys((account.run_id, *_RUN_ID.findall(names))))


def _written_down(account: Account, where: str) -> list[tuple[str, str]]:
    return [(it.kind, it.name) for it in reversed(account.open) if it.where == where]


def _target(account: Account, access: Access) -> GitLabTarget:
    from harness.gitlab.client import GitLabTarget

    how = account.places[GITLAB_PLACE]
    url = how.get("url", "")
    if access.gitlab_url is not None and gitlab_url(access.gitlab_url) != url:
        raise UsageError(f"the run used {url}, not {access.gitlab_url}", "name that one with --gitlab-url")
    token_file = access.gitlab_token_file or Path(how.get("token_file", ""))
    ca_file = access.gitlab_ca_file or (Path(how["ca_file"]) if how.get("ca_file") else None)
    return GitLabTarget(url, token_in(token_file), ca_file, how.get("project") or None)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _attempt(what: str, action: Callable[[], object]) -> dict[str, str]:
    """What went wrong, told at the end: the removal goes on whatever happens."""
    try:
        action()
    except (HarnessError, OSError) as error:
        return {what: f"{what}: {redact(str(error)).splitlines()[0]}"}
    return {}
