"""wait_for with a clock that takes no time and an API that does what the test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.diagnose import Scope, diagnose
from harness.diagnosis import BY_ID, Reason
from harness.diagnosis.model import TRANSIENT_S
from harness.errors import Blame, Cancelled, UsageError
from harness.kube import ApiError, ApiUnreachable, KindUnknown, WatchExpired
from harness.patience import VARIABLE, patience
from harness.wait import (
    HEARTBEAT_S,
    LOOK_AROUND_S,
    UNREACHABLE_LIMIT_S,
    WaitError,
    Watched,
    overloaded,
    wait_for,
)


class FakeClock:
    """Time that only passes in wait(); ``at`` runs something at a moment."""

    def __init__(self) -> None:
        self.time = 0.0
        self.plan: list[tuple[float, Callable[[], object]]] = []

    def at(self, when: float, do: Callable[[], object]) -> None:
        self.plan.append((when, do))

    def now(self) -> float:
        return self.time

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        if event.is_set():
            return True
        self.time += max(timeout_s, 0.001)
        for when, do in [it for it in self.plan if it[0] <= self.time]:
            self.plan.remove((when, do))
            do()
        return event.is_set()


class FakeApi:
    """Lists what it is told; watches that the test feeds."""

    def __init__(self, **objects: list[dict[str, Any]]) -> None:
        self.objects = objects
        self.lists = 0
        self.watches: list[FakeWatch] = []
        self.first_watch: Callable[[], FakeWatch] = FakeWatch

    def list(self, kind: str, namespace: str | None = None, **selectors: Any) -> list[dict[str, Any]]:
        return self.objects.get(kind.rpartition("/")[2], [])

    def logs(self, *args: Any, **options: Any) -> str:
        return ""

    def list_with_version(self, *args: Any, **selectors: Any) -> tuple[list[dict[str, Any]], str]:
        self.lists += 1
        return [], "1"

    def watch(self, *args: Any, **selectors: Any) -> FakeWatch:
        watch = self.first_watch() if not self.watches else FakeWatch()
        self.watches.append(watch)
        return watch


class FakeWatch:
    def __init__(self, expire: bool = False) -> None:
        self.expire = expire
        self.wake = threading.Event()
        self.stopped = False

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if self.expire:
            raise WatchExpired("too old")
        while not self.stopped:
            if self.wake.wait(0.01):
                self.wake.clear()
                if not self.stopped:
                    yield "MODIFIED", {}

    def stop(self) -> None:
        self.stopped = True
        self.wake.set()


def waiting_pod(reason: str, message: str = "", restarts: int = 0) -> dict[str, Any]:
    return {
        "metadata": {"name": "p-1", "namespace": "ns", "uid": "u"},
        "spec": {"containers": [{"name": "c", "image": "gcr.io/x:1"}]},
        "status": {
            "phase": "Pending",
            "containerStatuses": [
                {
                    "name": "c",
                    "image": "gcr.io/x:1",
                    "ready": False,
                    "restartCount": restarts,
                    "state": {"waiting": {"reason": reason, "message": message}},
                }
            ],
        },
    }


def event(message: str, reason: str = "Failed") -> dict[str, Any]:
    return {
        "metadata": {"name": "e", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "involvedObject": {"kind": "Pod", "name": "p-1", "uid": "u"},
    }


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def phase(value: str) -> dict[str, Any]:
    return {"kind": "Thing", "apiVersion": "v1", "metadata": {"name": "t"}, "status": {"phase": value}}


def test_returns_what_was_read_once_ready(clock: FakeClock) -> None:
    values = [None, phase("Pending"), phase("Succeeded")]
    found = wait_for(
        lambda: values.pop(0),
        ready=lambda it: it is not None and it["status"]["phase"] == "Succeeded",
        what="t",
        timeout_s=60,
        clock=clock,
    )
    assert found["status"]["phase"] == "Succeeded"
    assert values == []


def test_timeout_says_the_last_state_pods_events_and_reason(clock: FakeClock) -> None:
    api = FakeApi(
        Pod=[waiting_pod("CrashLoopBackOff", "back-off", restarts=1)], Event=[event("it hurts", "BackOff")]
    )
    with pytest.raises(WaitError) as caught:
        wait_for(
            lambda: phase("Installing"),
            ready=lambda it: False,
            what="CSV x",
            timeout_s=30,
            kube=api,  # type: ignore[arg-type]
            about=[Scope("ns")],
            clock=clock,
        )
    error = caught.value
    assert "CrashLoopBackOff" in error.reason
    assert "Installing" in error.reason
    assert not error.hopeless
    assert error.last == phase("Installing")
    assert any("p-1 0/1 Pending" in line for line in error.pods)
    assert any("it hurts" in line for line in error.events)
    assert "phase: Installing" in error.evidence
    assert error.blame is Blame.PRODUCT
    assert clock.time == pytest.approx(30, abs=0.1)


def test_timeout_without_any_finding_still_says_what_was_seen(clock: FakeClock) -> None:
    with pytest.raises(WaitError, match="last seen: not there"):
        wait_for(lambda: None, ready=lambda it: it, what="x", timeout_s=5, clock=clock)


def test_hopeless_ends_at_once(clock: FakeClock) -> None:
    with pytest.raises(WaitError, match=r"failed after 0\.0 s: Failed, really") as caught:
        wait_for(
            lambda: phase("Failed"),
            ready=lambda it: False,
            hopeless=lambda it: Reason("Failed, really", Blame.ENVIRONMENT),
            what="x",
            timeout_s=300,
            clock=clock,
        )
    assert caught.value.hopeless
    assert caught.value.exit_code == 10


def test_tells_transitions_only_and_a_heartbeat(clock: FakeClock) -> None:
    heard: list[str] = []
    states = {0: "Pending", 20: "Installing"}
    with pytest.raises(WaitError):
        wait_for(
            lambda: phase(states[max(t for t in states if t <= clock.time)]),
            ready=lambda it: False,
            what="x",
            timeout_s=40,
            progress=heard.append,
            clock=clock,
        )
    assert heard[0] == "x: Pending"
    assert [line for line in heard if "still waiting" not in line] == ["x: Pending", "x: Installing"]
    assert len([line for line in heard if "still waiting" in line]) == int(40 // HEARTBEAT_S)


def test_waits_through_missing_kind_and_restarting_api(clock: FakeClock) -> None:
    answers: list[Any] = [
        KindUnknown("no such kind"),
        ApiError(404, "NotFound", "not found", doing="GET"),
        ApiUnreachable("connection refused", doing="GET"),
        ApiError(503, "ServiceUnavailable", "starting", doing="GET"),
        phase("Succeeded"),
    ]

    def read() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert wait_for(read, ready=lambda it: it is not None, what="x", timeout_s=60, clock=clock)
    assert answers == []


def test_any_other_error_is_raised_as_it_is(clock: FakeClock) -> None:
    def read() -> Any:
        raise ApiError(403, "Forbidden", "no", doing="GET")

    with pytest.raises(ApiError, match="403"):
        wait_for(read, ready=lambda it: True, what="x", timeout_s=60, clock=clock)


def test_an_api_that_stays_away_ends_the_wait_as_environment(clock: FakeClock) -> None:
    def read() -> Any:
        raise ApiUnreachable("connection refused", doing="GET")

    with pytest.raises(WaitError, match="connection refused") as caught:
        wait_for(read, ready=lambda it: True, what="x", timeout_s=600, clock=clock)
    assert caught.value.blame is Blame.ENVIRONMENT
    assert clock.time == pytest.approx(UNREACHABLE_LIMIT_S, abs=1)


def test_cancelled_ends_it(clock: FakeClock) -> None:
    cancelled = threading.Event()
    clock.at(3, cancelled.set)
    with pytest.raises(Cancelled):
        wait_for(
            lambda: None, ready=lambda it: False, what="x", timeout_s=600, cancelled=cancelled, clock=clock
        )
    assert clock.time < 4


def test_it_ends_when_no_sandbox_can_be_made(clock: FakeClock) -> None:
    stuck = event("plugin type=bridge failed (add)", "FailedCreatePodSandBox")
    with pytest.raises(WaitError, match=r"pod network does not work.*plugin type=bridge") as caught:
        wait_for(
            lambda: None,
            ready=lambda it: False,
            what="x",
            timeout_s=600,
            kube=FakeApi(Pod=[waiting_pod("ContainerCreating")], Event=[stuck]),  # type: ignore[arg-type]
            about=[Scope("ns")],
            clock=clock,
        )
    assert caught.value.blame is Blame.ENVIRONMENT
    assert TRANSIENT_S <= clock.time - LOOK_AROUND_S < TRANSIENT_S + 2 * LOOK_AROUND_S


def test_a_watch_event_wakes_it_and_an_expired_watch_is_renewed() -> None:
    """Real time: the wait polls every 60 s only, so that only the watch can have woken it."""
    api = FakeApi()
    api.first_watch = lambda: FakeWatch(expire=True)
    state = ["Pending"]

    def change() -> None:
        deadline = time.monotonic() + 5
        while len(api.watches) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)  # past the look that follows the beginning of a watch
        state[0] = "Succeeded"
        api.watches[-1].wake.set()

    begin = time.monotonic()
    threading.Thread(target=change, daemon=True).start()
    found = wait_for(
        lambda: phase(state[0]),
        ready=lambda it: it["status"]["phase"] == "Succeeded",
        what="x",
        timeout_s=10,
        kube=api,  # type: ignore[arg-type]
        watch=[Watched("v1/Thing", "ns")],
        poll_s=60,
    )
    assert found["status"]["phase"] == "Succeeded"
    assert time.monotonic() - begin < 5, "it was the last look before the timeout, not the watch"
    assert api.lists == 2
    assert api.watches[1].stopped


def test_no_secret_in_the_error(clock: FakeClock) -> None:
    token = "glrt-" + "x" * 20
    with pytest.raises(WaitError) as caught:
        wait_for(
            lambda: {"status": {"phase": token}}, ready=lambda it: False, what="x", timeout_s=1, clock=clock
        )
    assert token not in str(caught.value)


def test_what_is_wrong_with_somebody_elses_pods_ends_no_wait(clock: FakeClock) -> None:
    """In namespaces that others use too, their trouble is shown and explains nothing."""
    gone = waiting_pod("ErrImagePull", "not found")
    for namespace, ended_s in (("default", 30), ("ours", LOOK_AROUND_S)):
        begin = clock.time
        with pytest.raises(WaitError) as caught:
            wait_for(
                lambda: None,
                ready=lambda it: False,
                what="x",
                timeout_s=30,
                kube=FakeApi(Pod=[gone]),  # type: ignore[arg-type]
                about=[Scope(namespace)],
                clock=clock,
            )
        assert clock.time - begin == pytest.approx(ended_s, abs=1)
        assert (caught.value.reason_id == "pull/not-found") is (namespace == "ours")
        assert any("p-1" in line for line in caught.value.pods)


def test_a_slow_host_is_not_taken_for_a_failure(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    for load, blame in ((1.0, Blame.PRODUCT), (1000.0, Blame.ENVIRONMENT)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, load, load))
        with pytest.raises(WaitError, match="last seen: not there") as caught:
            wait_for(lambda: None, ready=lambda it: it, what="x", timeout_s=5, clock=clock)
        assert caught.value.blame is blame


def pulling(clock: FakeClock, seconds: float, then: Callable[[], object]) -> FakeApi:
    """An API with a pod whose image is being pulled for so long."""
    api = FakeApi(
        Pod=[waiting_pod("ContainerCreating")], Event=[event('Pulling image "gcr.io/x:1"', "Pulling")]
    )

    def pulled() -> None:
        api.objects = {"Pod": [waiting_pod("ContainerCreating")], "Event": []}
        then()

    clock.at(seconds, pulled)
    return api


@pytest.mark.parametrize("by", ["what is around", "what is waited for"])
def test_while_an_image_is_being_pulled_no_time_passes(clock: FakeClock, by: str) -> None:
    """And what it takes to start afterwards is still allowed."""
    started: list[float] = []
    api = pulling(clock, 100, lambda: clock.at(clock.time + 20, lambda: started.append(clock.time)))

    def hopeless(_: object) -> Reason | None:
        return diagnose(api, [Scope("ns")]).reason  # type: ignore[arg-type]

    wait_for(
        lambda: bool(started),
        ready=lambda it: it,
        what="pod",
        timeout_s=30,
        kube=api,  # type: ignore[arg-type]
        about=[Scope("ns")] if by == "what is around" else [],
        hopeless=hopeless if by == "what is waited for" else None,
        clock=clock,
    )
    assert clock.time == pytest.approx(120, abs=1.1)


def test_a_pull_that_never_ends_ends_the_wait_in_the_end(clock: FakeClock) -> None:
    with pytest.raises(WaitError, match="still being pulled") as caught:
        wait_for(
            lambda: None,
            ready=lambda it: it,
            what="pod",
            timeout_s=30,
            kube=pulling(clock, 1e9, lambda: None),  # type: ignore[arg-type]
            about=[Scope("ns")],
            clock=clock,
        )
    assert caught.value.blame is Blame.ENVIRONMENT
    assert clock.time == pytest.approx(30 + BY_ID["pull/slow"].stretches_s, abs=10)


def test_an_api_behind_the_api_server_that_is_silent_is_not_the_api_server_itself(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be silent for longer than an API server that restarts, and is named."""

    monkeypatch.setattr("os.getloadavg", lambda: (1.0, 1.0, 1.0))

    def read() -> Any:
        path = "GET /apis/packages.operators.coreos.com/v1/namespaces/a/packagemanifests/b"
        raise ApiError(503, "Service Unavailable", "service unavailable", doing=path)

    with pytest.raises(WaitError, match="behind the API server does not answer") as caught:
        wait_for(read, ready=lambda it: True, what="x", timeout_s=60, clock=clock)
    assert clock.time == pytest.approx(60, abs=1)
    assert caught.value.reason_id == "api/aggregated"


def test_patience_stretches_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.wait.patience", lambda: 10.0)
    with pytest.raises(WaitError, match=r"timed out after 50\.0 s"):
        wait_for(lambda: 1, ready=lambda _: False, what="x", timeout_s=5.0, clock=FakeClock())


@pytest.mark.parametrize("text", ["0.5", "ten", "1e9", "nan"])
def test_a_patience_that_is_no_factor_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    patience.cache_clear()
    with pytest.raises(UsageError, match="factor for time limits"):
        patience()
    patience.cache_clear()


def test_a_host_that_is_said_to_be_slow_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.1, 0.1, 0.1))
    assert overloaded() is None
    monkeypatch.setattr("harness.patience.patience", lambda: 10.0)
    found = overloaded()
    assert found is not None
    assert (found.id, found.blame) == ("node/overloaded", Blame.ENVIRONMENT)
