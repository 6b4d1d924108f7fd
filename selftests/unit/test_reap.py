"""What is removed, and what is not: living, kept, killed and half-removed runs, look-alikes, garbage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import elsewhere, reap
from harness import journal as journals
from harness.cluster import Leftover, keeper, linux, living_nodes
from harness.cluster.record import Record
from harness.errors import EnvironmentProblem, UsageError
from harness.journal import CGROUP, CLUSTER_PLACE, DIRECTORY, GITLAB_PLACE, Entry, Journal, Life
from harness.options import ProvisionOptions
from harness.ownership import LABEL, stack_dir
from harness.state import StackState

NODES = ("rc-0000000e",)
"""Of tests; others run on this host, too."""

HOLDER = """
import sys, time
from pathlib import Path
from harness.journal import Journal
journal = Journal.begin(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNNER_CONFORMANCE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> list[Leftover]:
    """What carries a mark on this host; ``reap`` removes from it."""
    things: list[Leftover] = []

    def find(run_id: str | None = None, **_: object) -> list[Leftover]:
        return [it for it in things if run_id in (None, it.run_id)]

    def remove(found: list[Leftover]) -> list[str]:
        for it in found:
            things.remove(it)
        return []

    nodes = living_nodes

    monkeypatch.setattr("harness.cluster.find_leftovers", find)
    monkeypatch.setattr(
        "harness.cluster.living_nodes", lambda: {it: where for it, where in nodes().items() if it in NODES}
    )
    monkeypatch.setattr("harness.cluster.reap", remove)
    return things


Start = Callable[[str, str], "subprocess.Popen[str]"]


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Starts a process that holds a run: ``start("rc-…", "name")``."""
    running = []

    def begin(run_id: str, name: str) -> subprocess.Popen[str]:
        make_state(run_id, name)
        command = [sys.executable, "-c", HOLDER, run_id, name, str(stack_dir(name))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def make_state(run_id: str, name: str) -> None:
    directory = stack_dir(name)
    directory.mkdir(parents=True, exist_ok=True)
    options = ProvisionOptions(name=name)
    StackState(name, run_id, os.getpid(), "2024-01-20T00:00:00+00:00", options, "/b").save(directory)


def over(run_id: str, name: str, *entries: tuple[str, str]) -> Journal:
    """A run of this process that is over, with a state directory."""
    make_state(run_id, name)
    journal = Journal.begin(run_id, name, stack_dir(name))
    journal.will_make(DIRECTORY, str(stack_dir(name)))
    for kind, what in entries:
        journal.will_make(kind, what)
    return journal


def test_a_journal_goes_with_its_last_entry(home: Path) -> None:
    journal = Journal.begin("rc-00000001", "a", stack_dir("a"))
    journal.will_make("link", "x")
    journals.note("rc-00000001", "link", "y")  # as the keeper does
    journal.gone(Entry("link", "x"))
    journal.close()
    (account,) = journals.accounts()[0]
    assert account.open == (Entry("link", "y"),)
    again = Journal.take(account)
    again.gone(Entry("link", "y"))
    again.close()
    assert list(journals.directory().iterdir()) == []


def test_a_journal_is_private_and_outlives_a_line_cut_short(home: Path) -> None:
    journal = over("rc-00000001", "a")
    assert journal.path.stat().st_mode & 0o777 == 0o600
    assert journal.path.parent.stat().st_mode & 0o777 == 0o700
    with journal.path.open("ab") as file:
        file.write(b'{"make": "li')
    assert journals.load(journal.path).open == (Entry(DIRECTORY, str(stack_dir("a"))),)


def test_a_living_run_is_left_alone_and_a_killed_one_removed(
    home: Path, start: Start, on_host: list[Leftover]
) -> None:
    process = start("rc-00000001", "a")
    journals.note("rc-00000001", CGROUP, "rc-00000001-a")
    on_host += [Leftover("cgroup", "/sys/fs/cgroup/rc-00000001-a", "rc-00000001")]
    (account,) = journals.accounts()[0]
    assert account.life is Life.LIVING
    assert reap.survey() == reap.Survey()
    assert reap.reap_all() == []
    assert len(on_host) == 1
    with pytest.raises(UsageError, match=f"in use\n.* kill {process.pid}"):
        reap.remove(account)

    process.send_signal(signal.SIGKILL)
    process.wait()
    said = reap.survey().lines()
    assert [line.split(" of ")[0] for line in said] == [
        "cgroup /sys/fs/cgroup/rc-00000001-a",
        f"directory {stack_dir('a')}",
    ]
    assert reap.survey().lines() == said
    assert reap.reap_all() == []
    assert on_host == []
    assert not stack_dir("a").exists()
    assert reap.survey() == reap.Survey()
    assert reap.reap_all() == []
    assert list(journals.directory().iterdir()) == []


def test_a_kept_stack_is_never_stale(home: Path, on_host: list[Leftover]) -> None:
    journal = over("rc-00000001", "a", (CGROUP, "rc-00000001-a"))
    journal.keep()
    journal.close()
    found = reap.survey()
    assert found.lines() == []
    assert found.notes == ["the kept stack a no longer runs: runner-conformance down a"]
    assert reap.reap_all() == []
    assert stack_dir("a").exists()


def test_keep_counts_only_once_the_stack_is_finished(home: Path, on_host: list[Leftover]) -> None:
    over("rc-00000001", "a").close()
    assert reap.survey().lines() != []


def test_look_alikes_survive_and_are_listed(home: Path, on_host: list[Leftover]) -> None:
    over("rc-00000001", "a", (CGROUP, "rc-00000001-a")).close()
    decoys = [
        Leftover("cgroup", "/sys/fs/cgroup/rc-00000001-b", "rc-00000001"),  # our id, and nobody wrote it down
        Leftover("cgroup", "/sys/fs/cgroup/rc-0000000f-a", "rc-0000000f"),
        Leftover("process", "1", ""),
    ]
    on_host += [*decoys, Leftover("cgroup", "/sys/fs/cgroup/rc-00000001-a", "rc-00000001")]
    assert reap.reap_all() == []
    assert on_host == decoys
    assert reap.survey().unknown == [
        "1 cgroup of rc-00000001",
        "1 cgroup of rc-0000000f",
        "1 process of an unknown run",
    ]
    assert reap.remove_unknown() == []
    assert on_host == []


def test_a_node_that_runs_is_spared_whoever_s_it_is(
    home: Path, on_host: list[Leftover], tmp_path: Path
) -> None:
    """What --unknown finds in another state home may be a living run, or a kept stack."""
    theirs = tmp_path / "another home/stacks/theirs/cluster"
    theirs.mkdir(parents=True)
    command = [sys.executable, "-c", keeper.COMMAND, str(theirs)]
    # a process with the keeper's words that waits where the keeper would begin
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(600)")
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    try:
        record = Record("rc-0000000e", "theirs", "/k3s", "v1.28.15", [], "")
        record.keeper, record.keeper_ticks = process.pid, linux.start_ticks(process.pid)
        record.save(theirs)
        living = Leftover("process", str(process.pid), "rc-0000000e")
        group = Leftover("cgroup", "/sys/fs/cgroup/rc-0000000e-theirs", "rc-0000000e")
        on_host += [living, group]
        found = reap.survey()
        assert found.unknown == []
        assert found.notes == [
            f"a node of rc-0000000e runs, which another state home keeps in {theirs}: it stays"
        ]
        assert reap.remove_unknown() == []
        assert on_host == [living, group]
    finally:
        process.kill()
        process.wait()
    assert reap.survey().unknown == ["1 process, 1 cgroup of rc-0000000e"]
    assert reap.remove_unknown() == []
    assert on_host == []


def test_what_an_earlier_boot_made_on_this_host_cannot_be_there(
    home: Path, on_host: list[Leftover], monkeypatch: pytest.MonkeyPatch
) -> None:
    over("rc-00000001", "a", (CGROUP, "rc-00000001-a")).close()
    on_host.append(Leftover("cgroup", "/sys/fs/cgroup/rc-00000001-a", "rc-00000001"))
    monkeypatch.setattr(journals, "boot_id", lambda: "another")
    assert reap.reap_all() == []
    assert len(on_host) == 1
    assert not stack_dir("a").exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 99}', '{"format": 1, "name": 3}', "\0\xff"])
def test_a_state_or_a_journal_that_is_none_disables_nothing(
    home: Path, on_host: list[Leftover], content: str
) -> None:
    over("rc-00000001", "a").close()
    (stack_dir("a") / "stack.json").write_text(content)
    garbage = stack_dir("garbage")
    garbage.mkdir()
    (garbage / "stack.json").write_text(content)
    (journals.directory() / "rc-0000000f.jsonl").write_text(content)
    found = reap.survey()
    assert len(found.over) == 1
    assert len(found.unknown) == 2
    assert reap.reap_all() == []
    assert not stack_dir("a").exists()
    assert garbage.exists()
    assert reap.remove_unknown() == []
    assert reap.survey() == reap.Survey()


def test_half_removed_is_removed_to_the_end(home: Path, on_host: list[Leftover]) -> None:
    over("rc-00000001", "a", (CGROUP, "rc-00000001-a")).close()
    shutil.rmtree(stack_dir("a"))
    on_host.append(Leftover("cgroup", "/sys/fs/cgroup/rc-00000001-a", "rc-00000001"))
    assert reap.reap_all() == []
    assert on_host == []
    assert list(journals.directory().iterdir()) == []


def test_a_later_run_of_the_same_name_keeps_its_directory(
    home: Path, start: Start, on_host: list[Leftover]
) -> None:
    over("rc-00000001", "a").close()
    start("rc-00000002", "a")
    assert reap.reap_all() == []
    assert StackState.load(stack_dir("a")).run_id == "rc-00000002"
    assert [it.run_id for it in journals.accounts()[0]] == ["rc-00000002"]


class Cluster:
    """Just enough of a cluster's API: objects by (kind, namespace, name)."""

    kubeconfig, context = Path("/k"), "c"

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str | None, str], dict[str, object]] = {}

    def put(self, kind: str, name: str, namespace: str | None, run_id: str | None) -> None:
        labels = {LABEL: run_id} if run_id else {}
        metadata = {"name": name, "namespace": namespace, "uid": f"{kind}/{name}", "labels": labels}
        self.objects[kind, namespace, name] = {"metadata": metadata}

    def get(self, kind: str, name: str, namespace: str | None = None) -> object:
        return self.objects.get((kind, namespace, name))

    def list(self, kind: str, namespace: str | None = None, *, label_selector: str = "") -> list[object]:
        name, _, value = label_selector.partition("=")
        return [
            it
            for (k, n, _), it in self.objects.items()
            if k == kind and namespace in (None, n) and it["metadata"]["labels"].get(name) == (value or None)  # type: ignore[index]
        ]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    one = Cluster()

    def delete(kube: Cluster, kind: str, manifest: dict[str, dict[str, str]]) -> None:
        metadata = manifest["metadata"]
        del kube.objects[kind, metadata["namespace"], metadata["name"]]

    def reach(*_: object) -> Cluster:
        return one

    monkeypatch.setattr(elsewhere, "reach_cluster", reach)
    monkeypatch.setattr(elsewhere, "_delete", delete)
    monkeypatch.setattr(elsewhere, "wait_for", lambda read, **_: read())
    return one


def made_in_cluster(run_id: str) -> None:
    journal = over(run_id, "a")
    journal.place(CLUSTER_PLACE, kubeconfig="/k", context="c")
    journal.will_make("v1/Namespace", "ours", CLUSTER_PLACE)
    journal.will_make("v1/Secret", "ours/token", CLUSTER_PLACE)
    journal.will_make("rbac.authorization.k8s.io/v1/ClusterRole", "probe", CLUSTER_PLACE)
    journal.close()


def test_a_killed_run_on_somebodys_cluster_is_taken_back_there(
    home: Path, on_host: list[Leftover], cluster: Cluster
) -> None:
    made_in_cluster("rc-00000001")
    cluster.put("v1/Namespace", "ours", None, "rc-00000001")
    cluster.put("v1/Namespace", "theirs", None, None)
    cluster.put("v1/Namespace", "another-runs", None, "rc-00000002")
    cluster.put("rbac.authorization.k8s.io/v1/ClusterRole", "probe", None, "rc-00000001")
    said = reap.survey().lines()
    assert sum("in cluster c" in line for line in said) == 2
    assert reap.reap_all() == []
    assert sorted(name for _, _, name in cluster.objects) == ["another-runs", "theirs"]
    assert list(journals.directory().iterdir()) == []


def test_an_object_of_the_same_name_that_is_not_ours_stays(
    home: Path, on_host: list[Leftover], cluster: Cluster
) -> None:
    made_in_cluster("rc-00000001")
    cluster.put("v1/Namespace", "ours", None, None)
    cluster.put("rbac.authorization.k8s.io/v1/ClusterRole", "probe", None, "rc-000000010")
    assert reap.reap_all() == []
    assert len(cluster.objects) == 2


def test_a_cluster_out_of_reach_is_told_and_remembered(
    home: Path, on_host: list[Leftover], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_in_cluster("rc-00000001")
    cluster.put("v1/Namespace", "ours", None, "rc-00000001")

    def silent(*_: object) -> Cluster:
        raise EnvironmentProblem("no route to it")

    with monkeypatch.context() as patch:
        patch.setattr(elsewhere, "reach_cluster", silent)
        (line,) = [it for it in reap.reap_all() if "3 thing(s)" in it]
        assert "in cluster c, which can't be looked at: no route to it of run rc-00000001" in line
        assert not stack_dir("a").exists()
        assert reap.survey().lines() != []
    assert reap.reap_all() == []
    assert cluster.objects == {}


def test_a_gitlab_without_its_token_is_told_and_remembered(home: Path, on_host: list[Leftover]) -> None:
    journal = over("rc-00000001", "a")
    journal.place(GITLAB_PLACE, url="https://gitlab.example", token_file=str(home / "gone"))
    journal.will_make("runner", "dind (rc-00000001)", GITLAB_PLACE)
    journal.close()
    (line,) = [it for it in reap.reap_all() if "thing(s)" in it]
    assert "1 thing(s) in GitLab https://gitlab.example" in line
    assert "there is no file" in line
    (account,) = journals.accounts()[0]
    assert [it.kind for it in account.open] == ["runner"]


def test_a_journal_holds_no_secret(home: Path) -> None:
    journal = over("rc-00000001", "a")
    journal.place(GITLAB_PLACE, url="https://gitlab.example", token_file="/t", ca_file="", project="")
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert lines[-1] == {"place": "GitLab", "url": "https://gitlab.example", "token_file": "/t"}
