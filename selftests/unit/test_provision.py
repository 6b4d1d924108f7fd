"""A run's life without a cluster: options, plan, state, lock, teardown; and the command line around it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import attach as attaching
from harness import cli, provision
from harness.attach import attach
from harness.cluster import nat, preflight
from harness.errors import EnvironmentProblem, LeftoversError, UsageError
from harness.options import ProvisionOptions, check_options
from harness.provision import Provisioner
from harness.stack import Layer
from harness.stack.catalogue import LAYERS
from harness.state import StackState, directory_of
from harness.teardown import take_down

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:9"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


class FakeArtifacts:
    source = "bundle /fake (named by --artifacts)"
    rehearsal = ("k3s", "operator")
    versions: Mapping[str, str] = {"k3s": "v1.28.15+lab1", "operator": "1.15.1"}
    stands_for: Mapping[str, str] = {"k3s": "v1.28.5+k3s1"}

    def first_image(self, references: Sequence[str]) -> str:
        """The how-to's is gone, and the next one is there."""
        return references[1]


class FakeCluster:
    """Starts by writing a kubeconfig; ``fail`` makes a step go wrong."""

    name, context, node_ip, host_ip, version = "t", None, "10.99.0.2", "10.99.0.1", ""
    abilities: frozenset[str] = frozenset()
    notes = ("this kernel has no vxlan",)

    def __init__(self, state_dir: Path, fail: str = "") -> None:
        self.kubeconfig = state_dir / "kubeconfig"
        self.fail = fail
        self.stops = 0

    def start(self) -> Path:
        if self.fail == "start":
            raise EnvironmentProblem("the node did not start")
        self.kubeconfig.write_text(KUBECONFIG)
        return self.kubeconfig

    def stop(self) -> None:
        self.stops += 1
        if self.fail == "stop":
            raise EnvironmentProblem("the link is busy")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNNER_CONFORMANCE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(provision, "open_artifacts", lambda *args, **kwargs: FakeArtifacts())
    layers: Any = LAYERS
    for name in list(layers):
        monkeypatch.delitem(layers, name)
    monkeypatch.setitem(layers, "a", Layer("a", lambda ctx: None))
    monkeypatch.setattr(provision, "check_host", lambda options, state_dir: None)
    return tmp_path / "home"


@pytest.fixture
def cluster(home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    one = FakeCluster(home.parent)
    monkeypatch.setattr(provision, "make_cluster", lambda *args: one)
    monkeypatch.setattr(attaching, "cluster_of", lambda *args: one)
    return one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ProvisionOptions(name="Up per"), "can't name a stack"),
        (ProvisionOptions(cluster="minikube"), "unknown"),
        (ProvisionOptions(cluster="existing"), "would act on whichever cluster is current"),
        (ProvisionOptions(kubeconfig=Path("x"), context="y"), "not the one that you named"),
        (ProvisionOptions(gitlab_url="https://x"), "go together"),
        (ProvisionOptions(gitlab_project="g/p"), "--gitlab-project without --gitlab-url"),
    ],
)
def test_contradictions_are_refused_before_anything_exists(
    home: Path, options: ProvisionOptions, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_options(options)
    with pytest.raises(UsageError, match=message):
        Provisioner(options)
    assert not home.exists()


def test_plan_names_stand_ins_first_and_what_they_stand_for(home: Path) -> None:
    lines = Provisioner(ProvisionOptions(name="t")).plan(["a"]).lines()
    assert lines[0].startswith("Rehearsal of profile seed")
    assert "k3s, operator" in lines[1]
    assert any("k3s v1.28.15+lab1 (stand-in for v1.28.5+k3s1)" in line for line in lines)
    assert not (home / "stacks").exists()


def test_up_writes_a_state_that_others_attach_to_and_down_removes_it(
    home: Path, cluster: FakeCluster
) -> None:
    run = Provisioner(ProvisionOptions(name="t", keep=True))
    run.up(["a"])
    state = json.loads((home / "stacks" / "t" / "stack.json").read_text())
    assert state["layers"] == {"artifacts": True, "cluster": True, "a": True}
    assert (home / "stacks" / "t").stat().st_mode & 0o077 == 0

    found = attach("t")
    assert (found.run_id, found.name) == (run.run_id, "t")
    assert found.options == run.options
    chosen = list(found.profile.image_substitutions.values())
    assert chosen == ["quay.io/brancz/kube-rbac-proxy:v0.8.0"]

    assert run.down() == []
    assert run.down() == []
    assert cluster.stops == 2
    assert not (home / "stacks" / "t").exists()


def test_what_the_node_does_unusually_on_this_host_is_told(home: Path, cluster: FakeCluster) -> None:
    told: list[tuple[str, str]] = []
    run = Provisioner(ProvisionOptions(name="t"), progress=lambda *words: told.append(words))
    run.start()
    run.down()
    assert ("cluster", "this kernel has no vxlan") in told


def attach_without_bundle(*args: Any) -> FakeArtifacts:
    return FakeArtifacts()


@pytest.fixture(autouse=True)
def reopened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attaching, "_reopen", attach_without_bundle)


def end(run: Provisioner) -> None:
    """As when the process that kept a stack has ended."""
    run._lock.release()
    run.keep()


def test_a_name_in_use_is_refused_and_left_alone(home: Path, cluster: FakeCluster) -> None:
    first = Provisioner(ProvisionOptions(name="t"))
    first.start()
    second = Provisioner(ProvisionOptions(name="t"))
    with pytest.raises(UsageError, match="in use by process"):
        second.start()
    assert second.down() == []
    assert (home / "stacks" / "t" / "stack.json").exists()
    assert cluster.stops == 0
    first.down()


def test_two_runs_in_one_project_of_a_user_know_their_own_by_their_ids(
    home: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(provision, "check_inputs", lambda options: None)
    monkeypatch.setattr(provision, "check_gitlab", lambda target: None)
    removed: list[str] = []
    monkeypatch.setattr(provision, "remove_from_gitlab", lambda target, run_id: removed.append(run_id) or [])
    token = tmp_path / "token"
    token.write_text("glpat-0123456789")
    theirs = ProvisionOptions(
        gitlab_url="https://gitlab.example", gitlab_token_file=token, gitlab_project="group/one"
    )
    first, second = Provisioner(theirs), Provisioner(theirs)
    first.start()
    second.start()
    assert removed == []
    assert first.down() == []
    assert removed == [first.run_id]
    assert second.down() == []
    assert removed == [first.run_id, second.run_id]


def test_a_kept_stack_is_not_overwritten(home: Path, cluster: FakeCluster) -> None:
    first = Provisioner(ProvisionOptions(name="t", keep=True))
    first.start()
    end(first)
    with pytest.raises(UsageError, match="exists already"):
        Provisioner(ProvisionOptions(name="t")).start()
    assert take_down("t") == []
    assert not (home / "stacks" / "t").exists()


def test_down_removes_what_was_made_beside_and_no_other_stack(home: Path, cluster: FakeCluster) -> None:
    first = Provisioner(ProvisionOptions(name="t", keep=True))
    for run in (
        first,
        Provisioner(ProvisionOptions(name="t-b", keep=True, beside=first.run_id)),
        Provisioner(ProvisionOptions(name="t-b2", keep=True, beside="rc-00000000")),
    ):
        run.start()
        end(run)
    assert take_down("t") == []
    assert [path.name for path in (home / "stacks").iterdir()] == ["t-b2"]


def test_a_stack_beside_that_is_in_use_is_told_and_left(home: Path, cluster: FakeCluster) -> None:
    first = Provisioner(ProvisionOptions(name="t", keep=True))
    first.start()
    end(first)
    second = Provisioner(ProvisionOptions(name="t-b", keep=True, beside=first.run_id))
    second.start()
    (left,) = take_down("t")
    assert re.match(r"stack t-b: run rc-\w+ \(t-b, since .*, process \d+\) is in use", left)
    second.down()


def test_a_failed_start_leaves_nothing(home: Path, cluster: FakeCluster) -> None:
    cluster.fail = "start"
    run = Provisioner(ProvisionOptions(name="t"))
    with pytest.raises(EnvironmentProblem, match="did not start"):
        run.start()
    assert run.down() == []
    assert not (home / "stacks" / "t").exists()


def test_what_resists_is_told_and_the_state_stays_for_the_next_try(home: Path, cluster: FakeCluster) -> None:
    cluster.fail = "stop"
    run = Provisioner(ProvisionOptions(name="t"))
    run.start()
    assert run.down() == ["cluster: the link is busy", f"directory {home / 'stacks' / 't'}"]
    assert (home / "stacks" / "t" / "stack.json").exists()


def test_state_of_nobody_is_a_usage_error_that_names_those_there_are(
    home: Path, cluster: FakeCluster
) -> None:
    run = Provisioner(ProvisionOptions(name="mine"))
    run.start()
    with pytest.raises(UsageError) as caught:
        StackState.load(directory_of("yours"))
    assert "mine" in caught.value.hint
    run.down()


@dataclass
class Said:
    code: object
    out: str
    err: str


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """The program, in this process: its exit code and what it printed."""
    monkeypatch.setenv("RUNNER_CONFORMANCE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("signal.signal", lambda *args: None)

    def run(*words: str) -> Said:
        monkeypatch.setattr("sys.argv", ["runner-conformance", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Said(ended.value.code, *capsys.readouterr())

    return run


def test_bad_usage_is_told_before_what_the_host_lacks(
    command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    done = command("up", "--artifacts", "/nowhere")
    assert (done.code, "neither auto, upstream, china" in done.err) == (4, True), done.err
    assert command("up", "--artifacts", "upstream").code == 10


SUBCOMMANDS = ("doctor", "up", "status", "explain", "kubeconfig", "shell", "down", "reap", "bundle")


@pytest.mark.parametrize("word", SUBCOMMANDS)
def test_every_subcommand_has_help_with_an_example(command: Callable[..., Said], word: str) -> None:
    done = command(word, "--help")
    assert done.code == 0
    assert "Example: " in done.out
    assert f"runner-conformance {word}" in done.out


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["up", "--k3s-version", "v1.20.0+k3s1"], 4, "too old"),
        (["up", "--only", "nothing"], 4, "no layer is called"),
        (["up", "--gitlab-ca-file", "ca.pem"], 4, "so yours would not be used"),
        (["up", "--artifacts", "/nowhere"], 4, "neither auto, upstream, china"),
        (["up", "--nonsense"], 4, "No such option"),
        (["down", "nobody"], 4, "there is no stack"),
        (["kubeconfig", "nobody"], 4, "there is no stack"),
    ],
)
def test_bad_usage_is_a_sentence_and_an_exit_code(
    command: Callable[..., Said], words: list[str], code: int, text: str
) -> None:
    done = command(*words)
    assert text in done.err
    assert done.code == code
    assert "Traceback" not in done.err


def test_leftovers_have_an_exit_code_of_their_own() -> None:
    assert LeftoversError("x").exit_code == 11


class TestWhatTheHostLacks:
    """It is said before artifacts are downloaded or built, and only where it is needed."""

    @pytest.fixture
    def opened(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Choices of artifacts that were opened, on a host that has no program but git."""
        seen: list[str] = []

        def open_artifacts(choice: str, *args: Any, **kwargs: Any) -> FakeArtifacts:
            seen.append(choice)
            return FakeArtifacts()

        monkeypatch.setenv("RUNNER_CONFORMANCE_HOME", str(tmp_path))
        monkeypatch.setattr(provision, "open_artifacts", open_artifacts)
        monkeypatch.setattr(provision, "check_inputs", lambda options: None)
        monkeypatch.setattr(nat.shutil, "which", lambda name: "/usr/bin/git" if name == "git" else None)
        monkeypatch.setattr(preflight, "host_problems", problems_of_a_bare_host)
        return seen

    def test_a_bundle_needs_no_firewall_program(self, opened: list[str]) -> None:
        assert Provisioner(ProvisionOptions(artifacts="/a/bundle")).artifacts.rehearsal
        assert opened == ["/a/bundle"]

    @pytest.mark.parametrize(
        "options",
        [
            ProvisionOptions(artifacts="upstream"),
            ProvisionOptions(artifacts="china"),
            ProvisionOptions(
                artifacts="/a/bundle", gitlab_url="https://gitlab.example", gitlab_token_file=Path(__file__)
            ),
        ],
    )
    def test_a_node_that_must_reach_the_world_does(
        self, opened: list[str], options: ProvisionOptions
    ) -> None:
        with pytest.raises(EnvironmentProblem, match="neither nft nor iptables") as raised:
            _ = Provisioner(options).artifacts
        assert "apt-get install nftables" in raised.value.hint
        assert opened == []

    def test_git_is_asked_for_where_the_embedded_gitlab_is_used(
        self, opened: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nat.shutil, "which", lambda name: None)
        with pytest.raises(EnvironmentProblem, match="git, which this host has not"):
            _ = Provisioner(ProvisionOptions(artifacts="/a/bundle")).artifacts
        assert opened == []

    def test_an_existing_cluster_needs_nothing_of_a_node(
        self, opened: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = ProvisionOptions(
            artifacts="upstream", cluster="existing", kubeconfig=Path("k"), context="mine"
        )
        assert Provisioner(options).artifacts.rehearsal
        assert opened == ["upstream"]


def problems_of_a_bare_host(state_dir: Path, *, outgoing: bool) -> list[EnvironmentProblem]:
    """The rest of the host suffices, whoever runs this test."""
    problem = nat.lack()
    return [problem] if outgoing and problem else []
