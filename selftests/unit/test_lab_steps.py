"""The lab's step runner: what is made again and what is not, and what a failure leaves."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from lab.build import _only_build
from lab.errors import CommandFailed, LabError
from lab.gobuild import ENVIRONMENT, module_source
from lab.progress import Progress
from lab.steps import KEPT_RESULTS, BuildStep, StepRunner, Work, remove_unfinished, tree_digest


class Bench:
    """A cache, and steps that count how often they were made."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.made: list[str] = []
        self.output = io.StringIO()

    def runner(self) -> StepRunner:
        """A runner as a new process would have it."""
        return StepRunner(self.cache, Progress(Console(file=self.output, force_terminal=False)))

    def step(self, name: str, content: str = "content", **options: object) -> BuildStep:
        """A step whose result is one file."""

        def build(work: Work) -> None:
            self.made.append(name)
            (work.out / "result").write_text(content)

        return BuildStep(name, build, **options)  # type: ignore[arg-type]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "cache")


def test_result_is_kept(bench: Bench) -> None:
    first = bench.runner().run(bench.step("a"))
    again = bench.runner().run(bench.step("a"))
    assert bench.made == ["a"]
    assert (first.path, first.digest) == (again.path, again.digest)
    assert again.cached
    assert (again.path / "result").read_text() == "content"


def test_other_parameters_make_it_again(bench: Bench) -> None:
    bench.runner().run(bench.step("a", params={"version": 1}))
    bench.runner().run(bench.step("a", params={"version": 2}))
    assert bench.made == ["a", "a"]


def touch_later(path: Path) -> None:
    path.touch()


def make_executable(path: Path) -> None:
    path.chmod(0o755)


def change_content(path: Path) -> None:
    path.write_text("other")


@pytest.mark.parametrize(
    ("change", "times"),
    [(touch_later, 1), (make_executable, 2), (change_content, 2)],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
@pytest.mark.parametrize("whole_directory", [True, False])
def test_sources_count_by_content(
    bench: Bench, tmp_path: Path, change: Callable[[Path], None], times: int, whole_directory: bool
) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    file = folder / "main.py"
    file.write_text("first")
    source = folder if whole_directory else file
    bench.runner().run(bench.step("a", sources=[source]))
    change(file)
    bench.runner().run(bench.step("a", sources=[source]))
    assert len(bench.made) == times


def test_python_caches_do_not_count(tmp_path: Path) -> None:
    before = tree_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/x.pyc").write_bytes(b"x")
    assert tree_digest(tmp_path) == before


def test_need_that_comes_out_equal_changes_nothing_above(bench: Bench) -> None:
    bench.runner().run(bench.step("above", needs=[bench.step("below", params={"n": 1})]))
    bench.runner().run(bench.step("above", needs=[bench.step("below", params={"n": 2})]))
    assert bench.made == ["below", "above", "below"]


def test_need_that_comes_out_other_changes_what_is_above(bench: Bench) -> None:
    bench.runner().run(bench.step("above", needs=[bench.step("below", "x", params={"n": 1})]))
    bench.runner().run(bench.step("above", needs=[bench.step("below", "y", params={"n": 2})]))
    assert bench.made == ["below", "above"] * 2


def test_a_step_that_comes_after_another_is_not_made_of_it(bench: Bench) -> None:
    for content in ("x", "y"):
        earlier = bench.step("earlier", content, params={"content": content})
        later = bench.step("later", after=[earlier])
        bench.runner().run_all([later, earlier])
    assert bench.made == ["earlier", "later", "earlier"]


def test_interrupted_step_leaves_no_result(bench: Bench) -> None:
    def interrupted(work: Work) -> None:
        (work.out / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.runner().run(BuildStep("a", interrupted))
    assert list((bench.cache / "steps/a").iterdir()) == []
    assert "✗" in bench.output.getvalue()


def test_interrupt_ends_the_program_that_runs(bench: Bench, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    program = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    interrupter = threading.Thread(target=_interrupt_once_there, args=(pid_file,))
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        bench.runner().run(failing(program))
    interrupter.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def _interrupt_once_there(pid_file: Path) -> None:
    for _ in range(1000):
        if pid_file.exists() and pid_file.read_text():
            break
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def test_killed_step_is_removed_by_the_next_build(bench: Bench) -> None:
    def killed(work: Work) -> None:
        (work.out / "half").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(
        target=lambda: bench.runner().run(BuildStep("a", killed))
    )
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert [p.suffix for p in (bench.cache / "steps/a").iterdir()] == [".making"]
    remove_unfinished(bench.cache)
    assert list((bench.cache / "steps/a").iterdir()) == []


def test_full_disk_in_a_step_is_said_in_words(bench: Bench) -> None:
    def full(work: Work) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(LabError, match="a: no space left on the disk") as caught:
        bench.runner().run(BuildStep("a", full))
    assert "lab doctor" in caught.value.hint
    assert list(bench.cache.glob("steps/a/.*")) == [], "the unfinished result takes no space"


def test_build_goes_on_where_it_stopped(bench: Bench) -> None:
    def fails(work: Work) -> None:
        raise OSError("no")

    below = bench.step("below")
    with pytest.raises(OSError, match="no"):
        bench.runner().run(BuildStep("above", fails, needs=[below]))
    bench.runner().run(bench.step("above", needs=[bench.step("below")]))
    assert bench.made == ["below", "above"]


def failing(program: str) -> BuildStep:
    def build(work: Work) -> None:
        work.run([sys.executable, "-c", program])

    return BuildStep("go thing", build)


def test_failing_program_shows_its_end_and_names_the_log(bench: Bench) -> None:
    program = "import sys; [print('line', n, file=sys.stderr) for n in range(40)]; sys.exit(3)"
    with pytest.raises(CommandFailed) as caught:
        bench.runner().run(failing(program))
    error = caught.value
    assert "exit code 3" in error.message
    assert error.evidence.splitlines()[-1] == "line 39"
    assert "line 0\n" not in error.evidence
    log = Path(error.hint.rpartition("full output: ")[2])
    assert "line 0\n" in log.read_text()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("write /x: no space left on device".replace("no", "No"), "go thing: no space left on the disk"),
        ("dial tcp: lookup example.test: no such host", "go thing: a package registry cannot be reached"),
        ("Temporary failure resolving 'example.test'", "go thing: a package registry cannot be reached"),
        ("undefined: x", "failed with exit code 1"),
    ],
)
def test_known_reasons_are_said_in_words(bench: Bench, said: str, message: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        bench.runner().run(failing(f"import sys; sys.exit({said!r})"))
    assert message in caught.value.message


def test_only_the_newest_results_are_kept(bench: Bench) -> None:
    for number in range(KEPT_RESULTS + 2):
        bench.runner().run(bench.step("a", params={"number": number}))
    assert len(list((bench.cache / "steps/a").iterdir())) == KEPT_RESULTS


def hold_the_lock(cache: Path, held: object, release: object) -> None:
    with _only_build(cache, Progress(Console(file=io.StringIO()))):
        held.set()  # type: ignore[attr-defined]
        release.wait(30)  # type: ignore[attr-defined]
        time.sleep(0.3)  # a second build that does not wait would get here first
        (cache / "first").touch()


def test_second_build_says_so_and_waits(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    first = context.Process(target=hold_the_lock, args=(tmp_path, held, release))
    first.start()
    assert held.wait(30)
    output = Announcing(release)
    with _only_build(tmp_path, Progress(Console(file=output, width=200))):
        assert (tmp_path / "first").exists(), "the lock was taken while the first build held it"
    first.join(10)
    assert first.exitcode == 0
    assert f"another build (process {first.pid}) is running; waiting for it" in output.getvalue()


class Announcing(io.StringIO):
    """Lets the first build go as soon as the second has said that it waits."""

    def __init__(self, release: object) -> None:
        super().__init__()
        self._release = release

    def write(self, text: str) -> int:
        if "waiting" in text:
            self._release.set()  # type: ignore[attr-defined]
        return super().write(text)


def test_progress_says_name_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    now = iter([100.0, 102.5])
    monkeypatch.setattr("lab.progress.time", SimpleNamespace(monotonic=lambda: next(now)))
    with Progress(Console(file=output, force_terminal=False)).step("go [thing]"):
        pass
    assert output.getvalue().splitlines()[-1].split() == ["✓", "2.5", "s", "go", "[thing]"]


def test_steps_that_need_nothing_of_each_other_run_side_by_side(bench: Bench) -> None:
    meet = threading.Barrier(2, timeout=20)

    def meets(_: Work) -> None:
        meet.wait()

    bench.runner().run_all([BuildStep(name, meets) for name in ("a", "b")])


def test_what_two_steps_need_is_made_once(bench: Bench) -> None:
    need = bench.step("need")
    steps = [bench.step(name, needs=[need]) for name in ("a", "b", "c")]
    runner = bench.runner()
    runner.run_all([*steps, need])
    assert sorted(bench.made) == ["a", "b", "c", "need"]
    assert runner.path(need).is_dir()


def test_a_failure_ends_what_runs_beside_it(bench: Bench) -> None:
    started = threading.Event()

    def long(work: Work) -> None:
        started.set()
        work.run(["sleep", "60"])
        work.run(["sleep", "60"])

    def fails(_: Work) -> None:
        assert started.wait(20)
        raise LabError("it failed")

    begun = time.monotonic()
    with pytest.raises(LabError, match="it failed"):
        bench.runner().run_all([BuildStep("long", long), BuildStep("fails", fails)])
    assert time.monotonic() - begun < 30, "a program went on"
    assert not list((bench.cache / "steps").glob("*/*")), "an unfinished result was kept"


def test_a_failure_ends_also_while_steps_still_wait_for_their_turn(bench: Bench) -> None:
    def fails(_: Work) -> None:
        raise LabError("it failed")

    waiting = [bench.step(f"later {number}") for number in range(8)]
    ended = threading.Event()

    def run() -> None:
        with pytest.raises(LabError, match="it failed"):
            bench.runner().run_all([BuildStep("fails", fails), *waiting])
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    assert ended.wait(20), "the build hangs"


def test_a_modules_sources_are_downloaded_where_no_step_has_yet(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = tmp_path / "proxy" / "example.test" / "thing" / "@v"
    published.mkdir(parents=True)
    (published / "v1.0.0.info").write_text('{"Version": "v1.0.0"}')
    (published / "v1.0.0.mod").write_text("module example.test/thing\n")
    with zipfile.ZipFile(published / "v1.0.0.zip", "w") as archive:
        archive.writestr("example.test/thing@v1.0.0/go.mod", "module example.test/thing\n")
        archive.writestr("example.test/thing@v1.0.0/deploy/chart.yaml", "kind: Chart\n")
    module = tmp_path / "module"
    module.mkdir()
    (module / "go.mod").write_text("module lab/test\n\ngo 1.26\n\nrequire example.test/thing v1.0.0\n")
    for name, value in {
        "GOPROXY": f"file://{tmp_path / 'proxy'}",
        "GOSUMDB": "off",
        "GOMODCACHE": str(tmp_path / "modules"),
        "GOFLAGS": "-modcacherw",
    }.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setitem(cast("dict[str, str]", ENVIRONMENT), name, value)

    def build(work: Work) -> None:
        source = module_source(work, module, "example.test/thing")
        shutil.copy(source / "deploy" / "chart.yaml", work.out)

    step = BuildStep("manifest", build)
    runner = bench.runner()
    runner.run(step)
    assert (runner.path(step) / "chart.yaml").read_text() == "kind: Chart\n"
