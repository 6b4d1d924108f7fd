"""The environment of this process, read while another thread changes it, as pytest does after every test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, MutableMapping

import pytest

from harness import web
from harness.environment import for_child, snapshot
from harness.gitlab.patient import PatientGitlab
from harness.redact import register_environment

GITLAB = "https://gitlab.example"


class Changing(MutableMapping[str, str]):
    """os.environ while another thread takes a name out of it: listed, and gone when it is looked up."""

    def __init__(self, times: int) -> None:
        self.names = dict(os.environ)
        self.times = times

    def __iter__(self) -> Iterator[str]:
        yield from list(self.names)
        if self.times:
            self.times -= 1
            yield "PYTEST_CURRENT_TEST_OF_A_THREAD"

    def __getitem__(self, name: str) -> str:
        return self.names[name]

    def __setitem__(self, name: str, value: str) -> None:
        self.names[name] = value

    def __delitem__(self, name: str) -> None:
        del self.names[name]

    def __len__(self) -> int:
        return len(self.names)


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
def test_it_is_read_while_it_changes(read: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        environment = Changing(3)
        changed.setattr(os, "environ", environment)
        read()
    assert environment.times < 3, "it was not read at all"


def test_a_call_to_gitlab_reads_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    session = PatientGitlab(GITLAB, "glpat-of-nobody", True).session
    with monkeypatch.context() as changed:
        environment = Changing(1)
        changed.setattr(os, "environ", environment)
        session.merge_environment_settings(GITLAB, {}, False, None, None)
    assert environment.times == 1


def test_proxy_and_authorities_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "direct.example")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/company.pem")
    found = PatientGitlab(GITLAB, "glpat-of-nobody", True)
    assert found.session.proxies["https"] == "http://proxy.example:3128"
    assert found.ssl_verify == "/etc/company.pem"
    assert not PatientGitlab("https://direct.example", "glpat-of-nobody", True).session.proxies
    assert not PatientGitlab("https://10.99.3.1", "glpat-of-nobody", True).session.proxies
