"""The one way to wait: woken by watches, ends at once when it has failed, and always says why.

>>> deployment = wait_for(
...     lambda: kube.get("apps/v1/Deployment", "coredns", "kube-system"),
...     ready=lambda it: it is not None and it["status"].get("availableReplicas", 0) >= 1,
...     what="deployment kube-system/coredns available",
...     timeout_s=60,
...     kube=kube,
...     watch=[Watched("apps/v1/Deployment", "kube-system")],
... )
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import yaml

from harness.diagnose import Diagnosis, Problem, Scope, diagnose
from harness.errors import Blame, Cancelled, HarnessError
from harness.kube import ApiError, KindUnknown, Kube, Object, Watch, WatchExpired
from harness.redact import redact

log = logging.getLogger("harness.wait")

T = TypeVar("T")

HEARTBEAT_S = 15.0
POLL_S = 0.5
"""How often to look when nothing can be watched (GitLab, a file)."""
RELIST_S = 5.0
"""How often to look although watches run: a watch that died silently costs at most this."""
SETTLE_S = 0.02
"""Events come in bursts: the first is looked at at once, then at most one look in this time."""
CANCEL_CHECK_S = 0.25
UNREACHABLE_LIMIT_S = 20.0
"""An API server that restarts is back sooner; after this the cluster is gone."""
WATCH_S = 240.0
"""Shorter than the API server's own limit (30 to 60 min), long enough to be rare."""
MAX_OBJECT_CHARS = 4000


class Clock(Protocol):
    """Time as the wait sees it, so that its tests don't take any."""

    def now(self) -> float:
        """Seconds, monotonic."""

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait for the event; whether it was set."""


class RealClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        return event.wait(max(0.0, timeout_s))


REAL_CLOCK = RealClock()


@dataclass(frozen=True)
class Watched:
    """Objects whose changes wake the wait."""

    kind: str
    namespace: str | None = None
    name: str | None = None
    label_selector: str | None = None


class WaitError(HarnessError):
    """The wait ended without success. ``reason`` is one line; ``last`` what was seen last (None: nothing)."""

    def __init__(
        self,
        what: str,
        problem: Problem,
        last: object,
        diagnosis: Diagnosis,
        elapsed_s: float,
        hopeless: bool,
    ) -> None:
        self.what = what
        self.reason = problem.reason
        self.last = last
        self.pods = diagnosis.pods
        self.events = diagnosis.events
        self.elapsed_s = elapsed_s
        self.hopeless = hopeless
        end = "failed" if hopeless else "timed out"
        evidence = "\n".join(part for part in (_last_text(last), diagnosis.text()) if part)
        super().__init__(
            redact(f"{what}: {end} after {elapsed_s:.1f} s: {problem.reason}"),
            blame=problem.blame,
            evidence=redact(evidence),
        )


def wait_for(
    read: Callable[[], T],
    *,
    ready: Callable[[T], object],
    what: str,
    timeout_s: float,
    hopeless: Callable[[T], str | Problem | None] | None = None,
    kube: Kube | None = None,
    watch: Iterable[Watched] = (),
    about: Iterable[Scope] | None = None,
    describe: Callable[[T], str] | None = None,
    progress: Callable[[str], None] = log.info,
    cancelled: threading.Event | None = None,
    poll_s: float | None = None,
    clock: Clock = REAL_CLOCK,
) -> T:
    """Call ``read`` until ``ready`` says yes, and return what it read.

    ``read`` may return None for "not there (yet)"; ``ready`` and ``hopeless`` get it as it is. A missing
    object, an unserved kind and an API server that is restarting are waited through; any other error of
    ``read`` is raised as it is. ``hopeless`` gives a reason to end at once. ``watch`` names what wakes the
    wait (needs ``kube``), ``about`` the pods and events that explain a failure (default: the namespaces
    watched). ``progress`` hears transitions, and a heartbeat every 15 s.

    Raises WaitError when hopeless or after ``timeout_s`` seconds; Cancelled when ``cancelled`` is set.
    """
    watched = tuple(watch)
    scopes = tuple(about) if about is not None else _scopes(watched)
    one = _Wait(read, ready, hopeless, what, timeout_s, kube, scopes, describe or _describe, progress, clock)
    pause_s = poll_s if poll_s is not None else (RELIST_S if watched and kube else POLL_S)
    with _wakened(kube, watched, clock) as changed:
        return one.run(changed, pause_s, cancelled or threading.Event())


@dataclass
class _Wait(Generic[T]):
    read: Callable[[], T]
    ready: Callable[[T], object]
    hopeless: Callable[[T], str | Problem | None] | None
    what: str
    timeout_s: float
    kube: Kube | None
    scopes: Sequence[Scope]
    describe: Callable[[T], str]
    progress: Callable[[str], None]
    clock: Clock

    def run(self, changed: threading.Event, pause_s: float, cancelled: threading.Event) -> T:
        self.begin = self.clock.now()
        self.last: object = None
        self.state = ""
        self.failing: tuple[float, ApiError] | None = None
        heartbeat = self.begin + HEARTBEAT_S
        while True:
            changed.clear()
            self.looked = self.clock.now()
            found, value = self._look()
            if found:
                if self.ready(value):
                    return value
                self._give_up_if_hopeless(value)
            now = self.clock.now()
            self._give_up_if_over(now)
            if now >= heartbeat:
                self._beat(now)
                heartbeat += HEARTBEAT_S
            until = min(now + pause_s, self.begin + self.timeout_s, heartbeat)
            self._pause(changed, until, cancelled)

    def _look(self) -> tuple[bool, T]:
        """Whether there was an answer, and which; tells transitions."""
        value: Any = None
        try:
            value = self.read()
        except KindUnknown:
            pass  # as good as not found: its CRD comes later
        except ApiError as error:
            if error.status == 404:
                pass
            elif error.transient:
                since = self.failing[0] if self.failing else self.clock.now()
                self.failing = (since, error)
                self._tell(f"the API doesn't answer: {error.api_message}")
                return False, value
            else:
                raise
        self.failing = None
        self.last = value
        self._tell(self.describe(value))
        return True, value

    def _tell(self, state: str) -> None:
        if state and state != self.state:
            self.state = state
            self.progress(f"{self.what}: {state}")

    def _beat(self, now: float) -> None:
        """Say that we are still here, and what seems to be the matter; end if that won't mend."""
        problem = diagnose(self.kube, self.scopes).problem if self.kube and not self.failing else None
        matter = problem.reason if problem else self.state or "nothing yet"
        self.progress(f"{self.what}: still waiting after {now - self.begin:.0f} s: {redact(matter)}")
        if problem is not None and problem.terminal:
            self._fail(problem, hopeless=True)

    def _give_up_if_hopeless(self, value: T) -> None:
        verdict = self.hopeless(value) if self.hopeless else None
        if verdict:
            self._fail(verdict if isinstance(verdict, Problem) else Problem(verdict), hopeless=True)

    def _give_up_if_over(self, now: float) -> None:
        if self.failing and now - self.failing[0] >= UNREACHABLE_LIMIT_S:
            since, error = self.failing
            reason = f"the API server hasn't answered for {now - since:.0f} s: {error.api_message}"
            self._fail(Problem(reason, Blame.ENVIRONMENT), hopeless=True, look=False)
        if now - self.begin >= self.timeout_s:
            self._fail(None, hopeless=False)

    def _fail(self, problem: Problem | None, *, hopeless: bool, look: bool = True) -> None:
        diagnosis = diagnose(self.kube, self.scopes) if look and self.kube else Diagnosis()
        seen = f"last seen: {self.state or 'nothing at all'}"
        if problem is None:
            problem = diagnosis.problem or Problem(seen)
            if diagnosis.problem:
                problem = Problem(f"{diagnosis.problem.reason} ({seen})", diagnosis.problem.blame)
        raise WaitError(self.what, problem, self.last, diagnosis, self.clock.now() - self.begin, hopeless)

    def _pause(self, changed: threading.Event, until: float, cancelled: threading.Event) -> None:
        while (left := until - self.clock.now()) > 0:
            if cancelled.is_set():
                raise Cancelled(f"{self.what}: interrupted, {self.state or 'nothing seen yet'}")
            if self.clock.wait(changed, min(left, CANCEL_CHECK_S)):
                self.clock.wait(cancelled, self.looked + SETTLE_S - self.clock.now())
                return


@contextmanager
def _wakened(kube: Kube | None, watched: Sequence[Watched], clock: Clock) -> Iterator[threading.Event]:
    """An event that is set whenever something watched changes."""
    changed = threading.Event()
    if kube is None or not watched:
        yield changed
        return
    followers = [_Follower(kube, one, changed, clock) for one in watched]
    for follower in followers:
        follower.start()
    try:
        yield changed
    finally:
        for follower in followers:
            follower.stop()


class _Follower(threading.Thread):
    """Lists and watches one kind for as long as the wait lasts; lists again whenever the watch ends."""

    def __init__(self, kube: Kube, watched: Watched, changed: threading.Event, clock: Clock) -> None:
        super().__init__(name=f"watch-{watched.kind}", daemon=True)
        self._kube = kube
        self._watched = watched
        self._changed = changed
        self._clock = clock
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._watch: Watch | None = None

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._follow()
            except WatchExpired:
                continue
            except HarnessError:  # not served yet, or the API is away: read() reports it, here only try again
                self._clock.wait(self._ended, POLL_S)

    def _follow(self) -> None:
        where = self._watched
        field = f"metadata.name={where.name}" if where.name else None
        selectors = {"label_selector": where.label_selector, "field_selector": field}
        _, version = self._kube.list_with_version(where.kind, where.namespace, **selectors)
        watch = self._kube.watch(
            where.kind, where.namespace, resource_version=version, timeout_s=WATCH_S, **selectors
        )
        with self._lock:
            self._watch = watch
            if self._ended.is_set():
                watch.stop()
        self._changed.set()  # what happened before the watch began
        for _ in watch:
            self._changed.set()

    def stop(self) -> None:
        self._ended.set()
        with self._lock:
            if self._watch is not None:
                self._watch.stop()


def _scopes(watched: Iterable[Watched]) -> tuple[Scope, ...]:
    return tuple(dict.fromkeys(Scope(one.namespace) for one in watched if one.namespace))


def _describe(value: object) -> str:
    """The state that most kinds have, in a few words."""
    if value is None:
        return "not there"
    if isinstance(value, list):
        return f"{len(value)} found"
    if not isinstance(value, dict):
        return str(value)
    status: Any = value.get("status") or {}
    if "phase" in status:
        return " ".join(str(status[key]) for key in ("phase", "reason", "message") if status.get(key))
    if "replicas" in status:
        return f"{status.get('availableReplicas', 0)} of {status['replicas']} available"
    conditions = status.get("conditions") or []
    return ", ".join(f"{it['type']}={it['status']}" for it in conditions) or "there"


def _last_text(last: object) -> str:
    """The last object without its noise, as YAML."""
    if last is None:
        return ""
    if not isinstance(last, dict):
        return f"Last seen: {str(last)[:MAX_OBJECT_CHARS]}"
    metadata: Object = last.get("metadata") or {}
    kept = {
        "apiVersion": last.get("apiVersion"),
        "kind": last.get("kind"),
        "metadata": {key: metadata[key] for key in ("namespace", "name", "generation") if key in metadata},
        "status": last.get("status"),
    }
    text = yaml.safe_dump(kept, sort_keys=False, width=120)
    return "Last seen:\n" + "\n".join(f"  {line}" for line in text[:MAX_OBJECT_CHARS].splitlines())
