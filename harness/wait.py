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
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import yaml

from harness.diagnose import SHARED_NAMESPACES, Diagnosis, Scope, diagnose
from harness.diagnosis import Fact, Patience, Reason, classify, with_others
from harness.errors import Blame, Cancelled, HarnessError
from harness.follow import Follower
from harness.kube import ApiError, KindUnknown, Kube, Object
from harness.patience import patience, slow_host
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
LOOK_CLOSER_S = 1.0
"""How often a wait asks whether there is still hope: that takes a handful of requests."""
LOOK_AROUND_S = 5.0
"""How often it looks at everything in its namespaces, beside what it waits for."""
MAX_OBJECT_CHARS = 4000
MAX_OTHERS = 5


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
        why: Reason,
        last: object,
        diagnosis: Diagnosis,
        elapsed_s: float,
        hopeless: bool,
    ) -> None:
        self.what = what
        self.why = why
        self.reason = why.sentence
        self.last = last
        self.pods = diagnosis.pods
        self.events = diagnosis.events
        self.elapsed_s = elapsed_s
        self.hopeless = hopeless
        end = "failed" if hopeless else "timed out"
        beside = "\n".join(f"Also: {other.sentence}" for other in why.others[:MAX_OTHERS])
        evidence = "\n".join(part for part in (beside, _last_text(last), diagnosis.text()) if part)
        super().__init__(
            redact(f"{what}: {end} after {elapsed_s:.1f} s: {why.sentence}"),
            why.do,
            blame=why.blame,
            evidence=redact(evidence),
            reason_id=why.id,
        )


def wait_for(
    read: Callable[[], T],
    *,
    ready: Callable[[T], object],
    what: str,
    timeout_s: float,
    hopeless: Callable[[T], str | Reason | None] | None = None,
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
    ``read`` is raised as it is. ``hopeless`` gives a reason that ends the wait once it has lasted as long as
    its rule asks for (a plain sentence: at once). ``watch`` names what wakes the wait (needs ``kube``),
    ``about`` the pods and events that explain a failure (default: the namespaces watched; empty: none).
    ``progress`` hears transitions, and a heartbeat every 15 s. All limits are stretched by harness.patience,
    and by what only takes its time, as an image that is still being pulled (Rule.stretches_s).

    Raises WaitError when hopeless or after ``timeout_s`` seconds; Cancelled when ``cancelled`` is set.
    """
    watched = tuple(watch)
    scopes = tuple(about) if about is not None else _scopes(watched)
    limit_s = timeout_s * patience()
    one = _Wait(read, ready, hopeless, what, limit_s, kube, scopes, describe or _describe, progress, clock)
    pause_s = poll_s if poll_s is not None else (RELIST_S if watched and kube else POLL_S)
    with _wakened(kube, watched, clock) as changed:
        return one.run(changed, pause_s, cancelled or threading.Event())


@dataclass
class _Wait(Generic[T]):
    read: Callable[[], T]
    ready: Callable[[T], object]
    hopeless: Callable[[T], str | Reason | None] | None
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
        self.patience, self.closer = Patience(), self.begin
        self.around = self.begin + LOOK_AROUND_S
        heartbeat = self.begin + HEARTBEAT_S
        self.matter: Reason | None = None
        self.beside: Reason | None = None
        self.counted, self.stretched_s = self.begin, 0.0
        while True:
            changed.clear()
            self.looked = self.clock.now()
            found, value = self._look()
            if found:
                if self.ready(value):
                    return value
                self._give_up_if_hopeless(value)
            self._look_around()
            now = self.clock.now()
            self._stretch(now)
            self._give_up_if_over(now)
            if now >= heartbeat:
                self._beat(now)
                heartbeat += HEARTBEAT_S
            pause = min(pause_s, LOOK_CLOSER_S) if self.matter or self.beside else pause_s
            until = min(now + pause, self._end(), heartbeat)
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
        """Say that we are still here, and what seems to be the matter."""
        known = self.matter or self.beside
        matter = known.sentence if known else self.state or "nothing yet"
        self.progress(f"{self.what}: still waiting after {now - self.begin:.0f} s: {redact(matter)}")

    def _give_up_if_hopeless(self, value: T) -> None:
        now = self.clock.now()
        if self.hopeless is None or now < self.closer:
            return
        self.closer = now + LOOK_CLOSER_S
        found = self.hopeless(value)
        self.matter = Reason(found) if isinstance(found, str) else found
        self._end_if_final(self.matter)

    def _look_around(self) -> None:
        """Everything in the namespaces, now and then, but for those that others share."""
        now = self.clock.now()
        if self.kube is None or self.failing or not self.scopes or now < self.around:
            return
        self.around = now + LOOK_AROUND_S
        self.beside = diagnose(self.kube, self._ours()).reason
        self._end_if_final(self.beside)

    def _ours(self) -> list[Scope]:
        """The scopes in which whatever is wrong has to do with what is waited for."""
        return [it for it in self.scopes if it.label_selector or it.namespace not in SHARED_NAMESPACES]

    def _end_if_final(self, reason: Reason | None) -> None:
        final = self.patience.final(reason, self.clock.now())
        if final is not None:
            self._fail(final, hopeless=True)

    def _give_up_if_over(self, now: float) -> None:
        if (
            self.failing
            and not self.failing[1].behind
            and now - self.failing[0] >= UNREACHABLE_LIMIT_S * patience()
        ):
            self._fail(self.failing[1].why, hopeless=True, look=False)
        if now >= self._end():
            self._fail(None, hopeless=False)

    def _stretch(self, now: float) -> None:
        """Don't count the time since the last look, where something is seen that only takes its time."""
        known = [it for seen in (self.matter, self.beside) if seen for it in (seen, *seen.others)]
        most_s = max((it.stretches_s for it in known), default=0.0) * patience()
        if self.stretched_s < most_s:
            self.stretched_s = min(self.stretched_s + now - self.counted, most_s)
        self.counted = now

    def _end(self) -> float:
        return self.begin + self.timeout_s + self.stretched_s

    def _fail(self, why: Reason | None, *, hopeless: bool, look: bool = True) -> None:
        diagnosis = diagnose(self.kube, self.scopes) if look and self.kube else Diagnosis()
        if self.kube is not None and look and len(self._ours()) < len(self.scopes):
            diagnosis.reason = diagnose(self.kube, self._ours()).reason
        if why is None:
            why = self._why_late(self.matter or diagnosis.reason)
        elif diagnosis.reason is not None:
            why = with_others(why, (*why.others, diagnosis.reason, *diagnosis.reason.others))
        raise WaitError(self.what, why, self.last, diagnosis, self.clock.now() - self.begin, hopeless)

    def _why_late(self, seen_last: Reason | None) -> Reason:
        """What explains a wait that ran out: never a guess, and never a slow host taken for a failure."""
        seen = f"last seen: {self.state or 'nothing at all'}"
        known = self.failing[1].why if self.failing else seen_last
        if known is not None and known.final_after_s is not None:
            return replace(known, sentence=f"{known.sentence} ({seen})")
        slow = overloaded()
        if slow is not None:
            return with_others(replace(slow, sentence=f"{slow.sentence} ({seen})"), [known] if known else [])
        if known is not None:
            return replace(known, sentence=f"{known.sentence} ({seen})")
        return Reason(f"unknown why; {seen}", Blame.PRODUCT)

    def _pause(self, changed: threading.Event, until: float, cancelled: threading.Event) -> None:
        while (left := until - self.clock.now()) > 0:
            if cancelled.is_set():
                raise Cancelled(f"{self.what}: interrupted, {self.state or 'nothing seen yet'}")
            if self.clock.wait(changed, min(left, CANCEL_CHECK_S)):
                self.clock.wait(cancelled, self.looked + SETTLE_S - self.clock.now())
                return


def overloaded() -> Reason | None:
    """That this host is so slow that things are late, if it is."""
    slow = slow_host()
    return classify([Fact("node", "this host", slow)]) if slow else None


@contextmanager
def _wakened(kube: Kube | None, watched: Sequence[Watched], clock: Clock) -> Iterator[threading.Event]:
    """An event that is set whenever something watched changes."""
    changed = threading.Event()
    if kube is None or not watched:
        yield changed
        return
    followers = [_follower(kube, one, changed, clock) for one in watched]
    for follower in followers:
        follower.start()
    try:
        yield changed
    finally:
        for follower in followers:
            follower.stop()


def _follower(kube: Kube, where: Watched, changed: threading.Event, clock: Clock) -> Follower:
    return Follower(
        kube,
        where.kind,
        where.namespace,
        lambda objects: changed.set(),
        label_selector=where.label_selector,
        field_selector=f"metadata.name={where.name}" if where.name else None,
        pause=lambda ended: clock.wait(ended, POLL_S),
    )


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
