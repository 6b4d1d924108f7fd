"""What is said of a node that does not come up, or that ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cluster import cgroups, keeper, logs
from harness.cluster.record import Record
from harness.errors import EnvironmentProblem

#: As kubelet 1.21 in k3s ends where it can't start: klog's fatal line, then every goroutine.
KUBELET = [
    'time="2026-11-25T10:00:00Z" level=info msg="Starting k3s v1.21.2+k3s1 (5a67e8dc)"',
    "F1125 10:00:09.118117   17 server.go:269] failed to run Kubelet: misconfiguration: cgroup driver",
    *(line for number in range(40) for line in (f"goroutine {number} [running]:", "\t/go/src/main.go:12")),
]
REFUSED_FLAG = [
    "NAME:",
    "   k3s server - Run management server",
    'time="2026-11-25T10:00:00Z" level=fatal msg="flag provided but not defined: -disable-\\"x\\""',
]
#: As a real k3s ends whose containerd could not start.
PANIC = [
    'time="2026-11-25T10:00:00Z" level=info msg="Running kubelet"',
    "panic: runtime error: invalid memory address or nil pointer dereference",
    "[signal SIGSEGV: segmentation violation code=0x1]",
    *["goroutine 1 [running]:"] * 30,
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "k3s.log"


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (KUBELET, KUBELET[1]),
        (REFUSED_FLAG, 'flag provided but not defined: -disable-"x"'),
        (PANIC, PANIC[1]),
        (['time="…" level=info msg="all is well"'], ""),
        ([], ""),
    ],
    ids=["kubelet", "refused flag", "panic", "no last words", "nothing"],
)
def test_the_cause_is_found_in_what_k3s_wrote(log: Path, lines: list[str], cause: str) -> None:
    log.write_text("\n".join(lines))
    assert logs.cause(log) == cause


def test_the_tail_holds_the_last_words_where_a_dump_follows_them(log: Path) -> None:
    log.write_text("\n".join(KUBELET))
    shown = logs.tail(log).splitlines()
    assert KUBELET[1] in shown
    assert shown[-1] == KUBELET[-1]
    assert len(shown) < 40


def test_the_tail_of_a_short_log_is_all_of_it(log: Path) -> None:
    log.write_text("\n".join(REFUSED_FLAG))
    assert logs.tail(log).splitlines() == REFUSED_FLAG


def test_there_may_be_no_log_at_all(log: Path) -> None:
    assert logs.tail(log) == logs.cause(log) == ""


class TestKeeper:
    @pytest.fixture
    def one(self, tmp_path: Path) -> keeper.Keeper:
        Record("rc-0a1b2c3d", "n", "/k3s", "v1.28.5+k3s1", [], "mirrors: {}").save(tmp_path)
        return keeper.Keeper(tmp_path)

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (EnvironmentProblem("no cgroups here", "mount them"), "no cgroups here"),
            (OSError(28, "No space left on device"),
             "what the node needs on this host can't be made: [Errno 28] No space left on device"),
        ],
        ids=["foreseen", "unforeseen"],
    )  # fmt: skip
    def test_why_it_failed_is_told_to_the_starter_and_to_whoever_looks_later(
        self,
        one: keeper.Keeper,
        tmp_path: Path,
        error: Exception,
        said: str,
        monkeypatch: pytest.MonkeyPatch,
        capfdbinary: pytest.CaptureFixture[bytes],
    ) -> None:
        def fail() -> None:
            raise error

        monkeypatch.setattr(one, "_start", fail)
        monkeypatch.setattr(keeper.signal, "signal", lambda *_: None)
        monkeypatch.setattr(keeper.linux, "adopt_orphans", lambda: None)
        assert one.run() == 10
        message = json.loads(capfdbinary.readouterr().out)
        assert message["event"] == "failed"
        assert message["message"] == said
        assert message["blame"] == "environment"
        assert Record.load(tmp_path).ended == said


def test_a_group_that_vanishes_while_its_processes_are_listed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, pid in (("a", 11), ("b", 12), ("b/c", 13)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text(f"{pid}\n")
    listing = cgroups.os.scandir

    def vanishing(path: str) -> object:
        if str(path).endswith("/b"):
            raise FileNotFoundError(path)
        return listing(path)

    monkeypatch.setattr(cgroups.os, "scandir", vanishing)
    assert cgroups.processes(tmp_path) == {11}
