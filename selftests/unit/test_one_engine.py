"""`up` and the tests make a stack by the same code: what is put in a layer's place is called by both."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fixtures.plugin.run import ConformanceRun
from fixtures.steps import stack as stacks
from harness import provision
from harness.options import ProvisionOptions
from harness.provision import Provisioner
from harness.stack import StackContext
from harness.stack.catalogue import CLUSTER, LAYERS
from harness.step_files import StepFiles
from selftests.unit.test_provision import FakeArtifacts, FakeCluster


class Artifacts(FakeArtifacts):
    """With images, which the tests' set-ups ask for."""

    def images(self) -> tuple[str, ...]:
        return ()


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose install was called: that of layer images, replaced, on a cluster that is none."""
    seen: list[str] = []
    monkeypatch.setenv("RUNNER_CONFORMANCE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(provision, "open_artifacts", lambda *args, **kwargs: Artifacts())
    monkeypatch.setattr(provision, "check_host", lambda options, state_dir: None)
    monkeypatch.setattr(stacks, "notes", lambda context: [])  # nobody answers on this cluster
    monkeypatch.setattr(provision, "make_cluster", lambda *args: FakeCluster(tmp_path))

    def install(context: StackContext) -> None:
        seen.append(context.name)

    layers: Any = LAYERS
    monkeypatch.setitem(layers, "images", replace(LAYERS["images"], install=install))
    return seen


def test_up_calls_it(calls: list[str]) -> None:
    run = Provisioner(ProvisionOptions(name="by-up"))
    run.up(["images"])
    assert calls == ["by-up"]
    assert [state.name for state in run.graph.critical_path()] == ["artifacts", CLUSTER, "images"]
    assert run.down() == []


def test_the_tests_call_it(calls: list[str], tmp_path: Path) -> None:
    said: list[str] = []
    stack = stacks.NewStack(ProvisionOptions(name="by-pytest"), said.append)
    run = ConformanceRun(stack, ["images"], said.append, tmp_path, threading.Event())
    run.start()
    files = StepFiles(stack.steps_dir)
    assert files.wait(CLUSTER).ok, said
    assert files.wait("images").ok, said
    assert run.close(cancel=False) == []
    assert calls == ["by-pytest"]
