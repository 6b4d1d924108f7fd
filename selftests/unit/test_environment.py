"""The environment of this process, read while another thread changes it, as pytest does after every test."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from harness import web
from harness.environment import for_child, snapshot
from harness.gitlab.patient import PatientGitlab
from harness.redact import register_environment

NAMES = [f"PYTEST_CURRENT_TEST_{number}" for number in range(50)]
GITLAB = "https://gitlab.example"


@pytest.fixture
def changing() -> Iterator[None]:
    """Names come into the environment and go out of it, as fast as can be."""
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            os.environ.update(dict.fromkeys(NAMES, "x"))
            for name in NAMES:
                os.environ.pop(name, None)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=change)
    thread.start()
    yield
    ended.set()
    thread.join()
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("changing")
@pytest.mark.parametrize(
    "read",
    [
        snapshot,
        for_child,
        register_environment,
        lambda: web.client(GITLAB, timeout=1).close(),
        lambda: PatientGitlab(GITLAB, "glpat-of-nobody", True),
    ],
    ids=["snapshot", "for a child", "secrets", "sites", "GitLab"],
)
def test_it_is_read_while_it_changes(read: Callable[[], object]) -> None:
    for _ in range(100):
        read()


@pytest.mark.usefixtures("changing")
def test_a_call_to_gitlab_reads_nothing_anew() -> None:
    session = PatientGitlab(GITLAB, "glpat-of-nobody", True).session
    for _ in range(1000):
        session.merge_environment_settings(GITLAB, {}, False, None, None)


def test_proxy_and_authorities_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "direct.example")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/company.pem")
    found = PatientGitlab(GITLAB, "glpat-of-nobody", True)
    assert found.session.proxies["https"] == "http://proxy.example:3128"
    assert found.ssl_verify == "/etc/company.pem"
    assert not PatientGitlab("https://direct.example", "glpat-of-nobody", True).session.proxies
    assert not PatientGitlab("https://10.99.3.1", "glpat-of-nobody", True).session.proxies
