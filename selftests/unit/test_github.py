"""GitHub out of reach for one thread: the others are at work meanwhile."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from fixtures.github import github_unreachable


def test_only_the_thread_that_is_blocked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    monkeypatch.setattr(
        "fixtures.github._resolve", lambda host, *args, **kwargs: looked_up.append(host) or []
    )
    with ThreadPoolExecutor(1) as other, github_unreachable() as asked:
        with pytest.raises(socket.gaierror, match="out of reach"):
            socket.getaddrinfo("objects.githubusercontent.com", 443)
        assert other.submit(socket.getaddrinfo, "github.com", 443).result() == []
        socket.getaddrinfo("quay.io", 443)
    assert asked == ["objects.githubusercontent.com"]
    assert looked_up == ["github.com", "quay.io"]
    assert socket.getaddrinfo("github.com", 443) == []
