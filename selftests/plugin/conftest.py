"""An example project for the plugin's tests: its steps do what the test says, its cluster holds nothing."""

from __future__ import annotations

import pytest

pytest_plugins = ("pytester",)

CONFTEST = '''
"""The conftest of an example project."""
import dataclasses
import json
import pathlib
import time
import pytest
from fixtures.plugin.outcomes import NotApplicable
from fixtures.plugin.needs import needs_step, result_of, wait_for_step
from harness.graph import Step
from harness.plan import Subject
from harness.step_files import StepKey
from harness.errors import EnvironmentProblem, ProductFailure
from harness.redact import Secret
from harness.verdict import Component

pytest_plugins = ("fixtures.plugin.hooks",)
HERE = pathlib.Path(__file__).parent
PLAN = json.loads((HERE / "plan.json").read_text())
SECRET = Secret("hunter2-hunter2")


@dataclasses.dataclass(frozen=True)
class Made:
    made: str


class ExampleProvisioning:
    name = "example"
    run_id = PLAN.get("run_id", "rc-00000000")
    steps_dir = HERE / "steps"

    def subject(self):
        kind = "stand-in" if PLAN.get("rehearsal") else "real"
        promised = "v1.28.15+lab1" if PLAN.get("rehearsal") else ""
        component = Component("k3s", "v1.28.5+k3s1", promised, "", kind)
        return Subject("seed", "an example", "no artifacts", "no GitLab", (component,))

    def plan(self, steps):
        return [f"creates {name}" for name in steps]

    def steps(self):
        needs = {"cluster": (), "olm": ("cluster",), "operator": ("olm",)}
        return {name: Step(name, lambda name=name: self.make(name), needs[name]) for name in needs}

    def make(self, name):
        with (HERE / "made.txt").open("a") as made_steps:
            made_steps.write(name + "\\n")
        time.sleep(PLAN.get("seconds", 0))
        if name == PLAN.get("pointless"):
            raise NotApplicable(f"{name} has no meaning here")
        if name == PLAN.get("fails"):
            kind = ProductFailure if PLAN.get("blame") == "product" else EnvironmentProblem
            raise kind(f"{name} broke over {SECRET.reveal()}", "mend it", evidence="pod x: CrashLoopBackOff")
        return Made(name)

    def cancel(self):
        (HERE / "cancelled.txt").write_text("yes")

    def evidence(self, step, directory):
        directory.mkdir(parents=True, exist_ok=True)
        time.sleep(PLAN.get("evidence_seconds", 0))
        (directory / "why.txt").write_text(f"{step} broke")

    def notes(self):
        return ["the moon is full"]

    def close(self, *, cancel):
        time.sleep(PLAN.get("close_seconds", 0))
        (HERE / "closed.txt").write_text(str(cancel))
        return PLAN.get("leftovers", [])


def pytest_conformance_provisioning(options):
    if "opening_seconds" in PLAN:
        (HERE / "begun.txt").touch()
        time.sleep(PLAN["opening_seconds"])
    return ExampleProvisioning()


def pytest_conformance_evidence(item, section, directory):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pods.txt").write_text("pod x: CrashLoopBackOff")
    return "pod x: CrashLoopBackOff", [directory / "pods.txt"]


@pytest.fixture
@needs_step("cluster")
def cluster(request):
    return result_of(request.config, StepKey("cluster", Made))


@pytest.fixture
@needs_step("olm")
def olm(request):
    state = wait_for_step(request.config, "olm", even_if_failed=["olm"] if PLAN.get("looks") else ())
    return StepKey("olm", Made).read(state) if state.ok else None


@pytest.fixture
@needs_step("operator")
def operator(request):
    return result_of(request.config, StepKey("operator", Made))
'''


class ExampleProject:
    """Writes an example project and runs pytest on it, in a process of its own."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        pytester.makeini("[pytest]\naddopts = -p no:pytest-kind --import-mode=importlib\ntestpaths = tests\n")
        pytester.makeconftest(CONFTEST)
        self.plan()

    def plan(self, **plan: object) -> None:
        """What its steps do: fails/pointless=<step>, blame=product, seconds, leftovers, rehearsal."""
        import json

        (self.pytester.path / "plan.json").write_text(json.dumps(plan))

    def test(self, source: str, name: str = "test_example.py") -> None:
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

    def made_steps(self) -> list[str]:
        """The steps that were run."""
        path = self.pytester.path / "made.txt"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def project(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> ExampleProject:
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))
    return ExampleProject(pytester)
