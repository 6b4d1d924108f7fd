"""A play world for the plugin's tests: steps that do what the test says, and a cluster that holds nothing."""

from __future__ import annotations

import pytest

pytest_plugins = ("pytester",)

PLAY = '''
"""The conftest of a play project."""
import json
import pathlib
import time
import pytest
from fixtures.plugin.outcomes import NotApplicable
from fixtures.plugin.hooks import on_stage, stands_on
from fixtures.steps.graph import Step
from fixtures.plugin.provisioning import Headline
from harness.errors import EnvironmentProblem, ProductFailure
from harness.redact import Secret
from harness.verdict import Component

pytest_plugins = ("fixtures.plugin.hooks",)
HERE = pathlib.Path(__file__).parent
PLAN = json.loads((HERE / "play.json").read_text())
SECRET = Secret("hunter2-hunter2")


class PlayWorld:
    name = "play"
    run_id = "rc-0000play"
    stage_dir = HERE / "stage"

    def headline(self):
        kind = "stand-in" if PLAN.get("rehearsal") else "real"
        promised = "v1.28.15+lab1" if PLAN.get("rehearsal") else ""
        component = Component("k3s", "v1.28.5+k3s1", promised, "", kind)
        return Headline("seed", "a play", "no artifacts", "no GitLab", (component,))

    def plan(self, steps):
        return [f"creates {name}" for name in steps]

    def steps(self, view):
        needs = {"cluster": (), "olm": ("cluster",), "operator": ("olm",)}
        return {name: Step(name, lambda name=name: self.act(name), needs[name]) for name in needs}

    def act(self, name):
        with (HERE / "acted.txt").open("a") as acted:
            acted.write(name + "\\n")
        time.sleep(PLAN.get("seconds", 0))
        if name == PLAN.get("pointless"):
            raise NotApplicable(f"{name} has no meaning here")
        if name == PLAN.get("fails"):
            kind = ProductFailure if PLAN.get("blame") == "product" else EnvironmentProblem
            raise kind(f"{name} broke over {SECRET.reveal()}", "mend it", evidence="pod x: CrashLoopBackOff")
        return {"made": name}

    def cancel(self):
        (HERE / "cancelled.txt").write_text("yes")

    def close(self, *, cancel):
        (HERE / "closed.txt").write_text(str(cancel))
        return PLAN.get("leftovers", [])


def pytest_conformance_world(config, options):
    return PlayWorld()


def pytest_conformance_evidence(item, section, directory):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pods.txt").write_text("pod x: CrashLoopBackOff")
    return "pod x: CrashLoopBackOff", [directory / "pods.txt"]


@stands_on("cluster")
@pytest.fixture
def cluster(request):
    return on_stage(request.config, "cluster")


@stands_on("olm")
@pytest.fixture
def olm(request):
    return on_stage(request.config, "olm", even_if_failed=["olm"] if PLAN.get("looks") else ())


@stands_on("operator")
@pytest.fixture
def operator(request):
    return on_stage(request.config, "operator")
'''


class Play:
    """Writes a play project and runs pytest on it, in a process of its own."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        pytester.makeini("[pytest]\naddopts = -p no:pytest-kind --import-mode=importlib\ntestpaths = tests\n")
        pytester.makeconftest(PLAY)
        self.plan()

    def plan(self, **plan: object) -> None:
        """What the play world does: fails/pointless=<step>, blame=product, seconds, leftovers, rehearsal."""
        import json

        (self.pytester.path / "play.json").write_text(json.dumps(plan))

    def test(self, source: str, name: str = "test_play.py") -> None:
        """Put a test module into tests/."""
        import textwrap

        path = self.pytester.path / "tests" / name
        path.parent.mkdir(exist_ok=True)
        head = "import pytest\noutcome = pytest.mark.outcome\n"
        path.write_text(head + textwrap.dedent(source))

    def run(self, *args: str) -> pytest.RunResult:
        return self.pytester.runpytest_subprocess(*args)

    def document(self) -> dict:
        """conformance.json of the last run."""
        import json

        return json.loads((self.pytester.path / "report" / "conformance.json").read_text())

    def statuses(self) -> dict[str, str]:
        return {o["id"]: o["status"] for o in self.document()["outcomes"]}

    def acted(self) -> list[str]:
        """The steps that were run."""
        path = self.pytester.path / "acted.txt"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def play(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Play:
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))
    return Play(pytester)
