"""How long the client of a GitLab that does not answer goes on asking, and what it says in the end."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.errors import Blame, EnvironmentProblem
from harness.gitlab.errors import gitlab_errors
from harness.gitlab.patient import PatientGitlab

LATEST_RED_S = 45.0


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between two tries, none of which is made."""
    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    return pauses


@pytest.fixture
def port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def ask(port: int, *, verb: str = "get", patient: bool = True) -> Any:
    url = f"http://127.0.0.1:{port}"
    with gitlab_errors("asking", url):
        return PatientGitlab(url, "glpat-of-nobody", True, patient=patient).http_request(verb, "/user")


@contextlib.contextmanager
def answering(port: int, status: Callable[[], int], headers: dict[str, str] | None = None) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status())
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@pytest.mark.parametrize("verb", ["get", "post"])
def test_refused_connections_are_told_after_ten_seconds(slept: list[float], port: int, verb: str) -> None:
    with pytest.raises(EnvironmentProblem, match=r"can't be reached.*Connection refused") as caught:
        ask(port, verb=verb)
    assert (caught.value.reason_id, caught.value.blame) == ("gitlab/unreachable", Blame.ENVIRONMENT)
    assert 8 <= sum(slept) <= 10


def test_before_a_run_they_are_told_at_once(slept: list[float], port: int) -> None:
    with pytest.raises(EnvironmentProblem, match="can't be reached"):
        ask(port, patient=False)
    assert sum(slept) < 2


def test_a_server_that_restarts_within_ten_seconds_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    with contextlib.ExitStack() as stack:
        slept: list[float] = []

        def pause(seconds: float) -> None:
            slept.append(seconds)
            if sum(slept) > 9:
                stack.enter_context(answering(port, lambda: 200))

        monkeypatch.setattr("tenacity.nap.time.sleep", pause)
        assert ask(port).status_code == 200
        assert sum(slept) > 9


def test_an_error_of_its_own_is_told_within_the_limit_of_all_faults(slept: list[float], port: int) -> None:
    with (
        answering(port, lambda: 502),
        pytest.raises(EnvironmentProblem, match="answers with an error of its own: HTTP 502") as caught,
    ):
        ask(port)
    assert caught.value.reason_id == "gitlab/server-error"
    assert 35 <= sum(slept) <= LATEST_RED_S


def test_a_limit_without_a_time_is_waited_for_longer(slept: list[float], port: int) -> None:
    with (
        answering(port, lambda: 429),
        pytest.raises(EnvironmentProblem, match="keeps limiting the rate") as caught,
    ):
        ask(port)
    assert caught.value.reason_id == "gitlab/rate-limited"
    assert 60 <= sum(slept) <= 120


def test_a_limit_of_a_minute_is_waited_for(slept: list[float], port: int) -> None:
    answers = iter([429, 429, 200])
    with answering(port, lambda: next(answers), {"Retry-After": "55"}):
        assert ask(port).status_code == 200
    assert slept == [55.0, 55.0]
