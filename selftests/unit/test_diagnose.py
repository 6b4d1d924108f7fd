"""Reasons and blame from pods and events; evidence that is bounded and holds no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.diagnose import (
    Scope,
    container_state,
    diagnose,
    event_lines,
    hopeless_pods,
    pod_lines,
    pod_problem,
)
from harness.errors import Blame
from harness.evidence import collect
from harness.kube import ApiUnreachable
from harness.redact import register
from harness.stack import StackContext

IMAGE = "gcr.io/kubebuilder/kube-rbac-proxy:v0.8.0"


def pod(reason: str, message: str = "", restarts: int = 0, **changes: Any) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}} if reason else {"running": {}}
    container = {"name": "c", "image": IMAGE, "ready": not reason, "restartCount": restarts, "state": state}
    container |= changes.pop("container", {})
    return {
        "metadata": {"name": "p", "namespace": "operators", "uid": "u", **changes},
        "spec": {"containers": [{"name": "c", "image": IMAGE}]},
        "status": {"phase": "Running", "containerStatuses": [container]},
    }


def event(message: str, reason: str = "Failed", when: int = 0, kind: str = "Warning") -> dict[str, Any]:
    return {
        "metadata": {"name": f"e{when}"},
        "lastTimestamp": f"2026-01-01T00:00:{when:02}Z",
        "type": kind,
        "reason": reason,
        "message": message,
        "involvedObject": {"kind": "Pod", "name": "p", "uid": "u"},
    }


@pytest.mark.parametrize(
    ("kubelets_words", "blame"),
    [
        ("dial tcp 173.194.174.82:443: i/o timeout", Blame.ENVIRONMENT),
        ("dial tcp: lookup gcr.io: no such host", Blame.ENVIRONMENT),
        ("connect: connection refused", Blame.ENVIRONMENT),
        ("failed commit on ref: unexpected commit digest sha256:00, expected sha256:11", Blame.ENVIRONMENT),
        ("not found", Blame.PRODUCT),
        ("manifest unknown", Blame.PRODUCT),
    ],
)
def test_a_pull_that_fails_is_explained_by_the_kubelets_event(kubelets_words: str, blame: Blame) -> None:
    events = [event(f'Failed to pull image "{IMAGE}": {kubelets_words}')]
    problem = pod_problem(pod("ImagePullBackOff", "Back-off pulling image"), events)
    assert problem is not None
    assert kubelets_words in problem.reason
    assert problem.terminal
    assert problem.blame is blame


def test_a_first_failed_pull_may_still_mend_itself() -> None:
    problem = pod_problem(pod("ErrImagePull", "i/o timeout"))
    assert problem is not None
    assert not problem.terminal


def test_a_crash_is_hopeless_only_when_it_repeats_and_shows_its_last_words() -> None:
    ended = {"lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "no such module"}}}
    once = pod_problem(pod("CrashLoopBackOff", restarts=1, container=ended))
    often = pod_problem(pod("CrashLoopBackOff", restarts=3, container=ended))
    assert once is not None
    assert often is not None
    assert (once.terminal, often.terminal) == (False, True)
    assert "no such module" in often.reason


def test_what_is_being_deleted_or_runs_is_no_problem() -> None:
    assert pod_problem(pod("ImagePullBackOff", deletionTimestamp="2026-01-01T00:00:00Z")) is None
    assert pod_problem(pod("")) is None


def test_a_host_that_is_too_small_is_the_environments_fault() -> None:
    pending = pod("")
    condition = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient memory"}
    pending["status"] = {"phase": "Pending", "conditions": [condition]}
    problem = pod_problem(pending)
    assert problem is not None
    assert problem.blame is Blame.ENVIRONMENT


def test_pods_read_like_kubectl_get() -> None:
    assert pod_lines(pod("ImagePullBackOff", "why"))[0] == "operators/p 0/1 Running"
    assert (
        container_state({"state": {"running": {}}, "ready": True, "restartCount": 2}) == "running, 2 restarts"
    )


def test_warnings_are_kept_when_events_are_many() -> None:
    many = [event(f"normal {n}", "Pulled", n, "Normal") for n in range(40)]
    lines = event_lines([event("the warning", when=0), *many], limit=5)
    assert "the warning" in lines[0]
    assert len(lines) == 5
    assert "normal 39" in lines[-1]


class FakeKube:
    def __init__(self, log: str = "") -> None:
        self.log = log
        self.asked: list[str] = []

    def list(self, kind: str, namespace: str | None = None, **_: Any) -> list[dict[str, Any]]:
        self.asked.append(kind)
        if kind == "v1/Service":
            raise ApiUnreachable("gone", doing="GET")
        return {"v1/Pod": [pod("", restarts=1)], "v1/Event": [event("it hurts")]}.get(kind, [])

    def logs(self, *_: Any, **__: Any) -> str:
        return self.log


def context(tmp_path: Path, kube: FakeKube) -> StackContext:
    nothing: Any = None
    anything: Any = kube
    return StackContext("rc-00000000", "t", tmp_path, nothing, nothing, nothing, nothing, anything)


def test_evidence_holds_states_events_and_logs_but_no_secret(tmp_path: Path) -> None:
    secret = register("s3cr3t-of-a-runner").reveal()
    kube = FakeKube(f"line\nusing {secret}\n")
    found = collect(context(tmp_path, kube), "operator", tmp_path / "evidence")
    texts = {path.relative_to(tmp_path / "evidence").as_posix(): path.read_text() for path in found.files}
    assert "operators/p 1/1 Running" in texts["operators/pods.txt"]
    assert "it hurts" in texts["operators/events.txt"]
    assert "line" in texts["operators/logs/p.c.log"]
    assert "operators/logs/p.c.previous.log" in texts
    assert "v1/Service: GET: gone" in texts["problems.txt"]
    assert all(secret not in text for text in [*texts.values(), found.summary])
    assert not {"v1/Secret", "v1/ConfigMap"} & set(kube.asked)


def test_evidence_is_bounded_in_size_and_time(tmp_path: Path) -> None:
    kube = FakeKube("x" * 50_000)
    found = collect(context(tmp_path, kube), "operator", tmp_path / "small", max_bytes=10_000)
    assert sum(path.stat().st_size for path in found.files) <= 10_000
    asked = len(kube.asked)
    collect(context(tmp_path, kube), "operator", tmp_path / "none", timeout_s=-1)
    assert len(kube.asked) - asked <= 4  # only the summary looks


def test_a_summary_is_short_and_says_why() -> None:
    found = diagnose(FakeKube(), [Scope("operators")])  # type: ignore[arg-type]
    assert found.problem is not None
    assert "it hurts" in found.problem.reason


class RollingUpdate:
    """A Deployment whose image was replaced, while its old pod still can't pull the old one."""

    def __init__(self, new_pod_waits: str) -> None:
        old = pod("ImagePullBackOff", ownerReferences=[{"controller": True, "uid": "set-old"}])
        new = pod(
            new_pod_waits, name="new", uid="v", ownerReferences=[{"controller": True, "uid": "set-new"}]
        )
        new["spec"]["containers"][0]["image"] = new["status"]["containerStatuses"][0]["image"] = "other:1"
        sets = [
            {"metadata": {"uid": uid, "ownerReferences": [{"controller": True, "uid": "deployment"}]}}
            for uid in ("set-old", "set-new")
        ]
        template = {"spec": {"containers": [{"name": "c", "image": "other:1"}]}}
        self.objects = {
            "v1/Pod": [old, new],
            "apps/v1/ReplicaSet": sets,
            "apps/v1/Deployment": [{"metadata": {"uid": "deployment"}, "spec": {"template": template}}],
        }

    def list(self, kind: str, namespace: str | None = None, **_: Any) -> list[dict[str, Any]]:
        return self.objects.get(kind, [])


def test_a_pod_that_is_being_replaced_ends_no_wait() -> None:
    """The new image may take minutes to pull; the old one's failure is what the replacement is for."""
    kube: Any = RollingUpdate(new_pod_waits="ContainerCreating")
    assert diagnose(kube, [Scope("operators")]).problem is None
    assert hopeless_pods(kube, Scope("operators")) is None
    assert any("ImagePullBackOff" in line for line in diagnose(kube, [Scope("operators")]).pods)


def test_where_both_cant_be_pulled_the_new_one_is_the_reason() -> None:
    kube: Any = RollingUpdate(new_pod_waits="ImagePullBackOff")
    problem = hopeless_pods(kube, Scope("operators"))
    assert problem is not None
    assert "pod operators/new container c (other:1)" in problem.reason


def test_a_pod_of_the_present_template_ends_the_wait() -> None:
    rolling = RollingUpdate(new_pod_waits="")
    rolling.objects["apps/v1/Deployment"][0]["spec"]["template"]["spec"]["containers"][0]["image"] = IMAGE
    kube: Any = rolling
    problem = hopeless_pods(kube, Scope("operators"))
    assert problem is not None
    assert "operators/p" in problem.reason


@pytest.mark.parametrize(
    ("words", "blame"),
    [
        (f'failed to get sandbox image "x": {"failed to resolve reference: " * 20}not found', Blame.PRODUCT),
        (f'failed to get sandbox image "x": {"failed to do request: " * 20}i/o timeout', Blame.ENVIRONMENT),
        ('plugin type="bridge" failed (add): no IP addresses available', Blame.ENVIRONMENT),
    ],
)
def test_a_sandbox_that_cant_be_made_is_the_hosts_fault_unless_its_image_is_gone(
    words: str, blame: Blame
) -> None:
    kube = FakeKube()
    failed = event(f"Failed to create pod sandbox: {words}", "FailedCreatePodSandBox") | {"count": 3}
    kube.list = lambda kind, *_, **__: [failed] if kind == "v1/Event" else []  # type: ignore[method-assign]
    found = diagnose(kube, [Scope("default")]).problem  # type: ignore[arg-type]
    assert found is not None
    assert (found.terminal, found.blame) == (True, blame)


def test_a_long_message_keeps_its_last_words() -> None:
    cause = "dial tcp 10.0.0.1:443: connection refused"
    words = f"Failed to pull image: {'failed to resolve reference: ' * 40}{cause}"
    (line,) = event_lines([event(words)])
    assert line.startswith("Warning Pod/p Failed: Failed to pull image")
    assert line.endswith(cause)
    assert len(line) == 400


@pytest.mark.parametrize(("ready", "reason"), [("False", "it hurts"), ("True", None)])
def test_what_befell_a_pod_that_is_ready_by_now_is_no_reason(ready: str, reason: str | None) -> None:
    it = pod("")
    it["status"]["conditions"] = [{"type": "Ready", "status": ready}]
    kube = FakeKube()
    objects = {"v1/Pod": [it], "v1/Event": [event("it hurts")]}
    kube.list = lambda kind, *_, **__: objects[kind]  # type: ignore[method-assign]
    found = diagnose(kube, [Scope("operators")])  # type: ignore[arg-type]
    assert (found.problem.reason if found.problem else None) == (
        "Warning Pod/p Failed: it hurts" if reason else None
    )
    assert any("it hurts" in line for line in found.events)
