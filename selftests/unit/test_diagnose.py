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
    pod_lines,
    scope_reason,
)
from harness.diagnosis import Fact, Patience, Reason, classify
from harness.diagnosis.facts import events_facts, orphan_facts, pod_facts, pods_facts, role_facts
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


def reason_of(one: dict[str, Any], events: list[dict[str, Any]] | None = None) -> Reason:
    found = classify(pod_facts(one, events or []))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("kubelets_words", "rule", "blame"),
    [
        ("dial tcp 173.194.174.82:443: i/o timeout", "pull/unreachable", Blame.ENVIRONMENT),
        ("dial tcp: lookup gcr.io: no such host", "pull/dns", Blame.ENVIRONMENT),
        ("dial tcp: lookup gcr.io on 10.0.0.2:53: Try again", "pull/dns", Blame.ENVIRONMENT),
        ("connect: connection refused", "pull/unreachable", Blame.ENVIRONMENT),
        ("context canceled", "pull/unreachable", Blame.ENVIRONMENT),
        ("unexpected commit digest sha256:00, expected sha256:11", "pull/damaged", Blame.ENVIRONMENT),
        ("unexpected status code: 429 Too Many Requests", "pull/rate-limited", Blame.ENVIRONMENT),
        ("pull QPS exceeded", "pull/kubelet-busy", Blame.ENVIRONMENT),
        ("unexpected status from HEAD request to x: 401 Unauthorized", "pull/denied", Blame.ENVIRONMENT),
        ("pull access denied, insufficient_scope: authorization failed", "pull/denied", Blame.ENVIRONMENT),
        ("unexpected status from HEAD request to x: 403 Forbidden", "pull/denied", Blame.ENVIRONMENT),
        ("proxyconnect tcp: 407 Proxy Authentication Required", "pull/proxy-login", Blame.ENVIRONMENT),
        ("unexpected status from HEAD request to x: 503 Service Unavailable", "pull/registry-error",
         Blame.ENVIRONMENT),
        ("http: server gave HTTP response to HTTPS client", "pull/plain-http", Blame.ENVIRONMENT),
        ("x509: certificate has expired or is not yet valid: current time", "pull/certificate-expired",
         Blame.ENVIRONMENT),
        ("tls: failed to verify certificate: x509: certificate signed by unknown authority", "pull/untrusted",
         Blame.ENVIRONMENT),
        ("write /var/lib/x: no space left on device", "pull/disk-full", Blame.ENVIRONMENT),
        ("not found", "pull/not-found", Blame.PRODUCT),
        ("manifest unknown", "pull/not-found", Blame.PRODUCT),
        ("no match for platform in manifest", "pull/no-platform", Blame.PRODUCT),
        ("something that nobody has seen before", "pull/unknown", Blame.ENVIRONMENT),
    ],
)  # fmt: skip
def test_a_pull_that_fails_is_explained_by_the_kubelets_event(
    kubelets_words: str, rule: str, blame: Blame
) -> None:
    events = [event(f'Failed to pull image "{IMAGE}": {kubelets_words}')]
    found = reason_of(pod("ImagePullBackOff", "Back-off pulling image"), events)
    assert kubelets_words in found.sentence
    assert (found.id, found.blame) == (rule, blame)


@pytest.mark.parametrize(
    ("one", "rule", "blame"),
    [
        (pod("RunContainerError", "failed to create task: cannot allocate memory"), "container/runtime",
         Blame.ENVIRONMENT),
        (pod("CreateContainerError", "context deadline exceeded"), "container/runtime", Blame.ENVIRONMENT),
        (pod("RunContainerError", 'exec: "x": executable file not found'), "container/start", Blame.PRODUCT),
    ],
)  # fmt: skip
def test_a_node_that_can_start_nothing_is_not_the_products_fault(
    one: dict[str, Any], rule: str, blame: Blame
) -> None:
    assert (reason_of(one).id, reason_of(one).blame) == (rule, blame)


def test_storage_that_does_not_answer_is_not_the_products_fault() -> None:
    found = classify([Fact("mount", "pod a/b", "mount failed: exit status 32: timed out", "FailedMount")])
    assert found is not None
    assert (found.id, found.blame) == ("container/storage", Blame.ENVIRONMENT)


def test_a_kubelet_that_is_behind_ends_no_wait_however_long_it_takes() -> None:
    """Seen on an emulated processor, of a registry that ran a moment later."""
    words = (
        'MountVolume.SetUp failed for volume "registry" : failed to sync secret cache: timed out waiting for'
    )
    found = classify([Fact("mount", "pod a/b", words, "FailedMount")])
    assert found is not None
    assert (found.id, found.blame, found.final_after_s) == ("container/kubelet-late", Blame.ENVIRONMENT, None)
    assert not found.others, "a rule that ends the wait after a while would do so beside the better one"


def ended_by_its_probe(code: int = 137) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """As OLM's operators were seen on an emulated processor: 30 s were too few for them to listen."""
    ended = {"terminated": {"exitCode": code, "reason": "Error"}}
    one = pod("CrashLoopBackOff", "back-off", restarts=7, container={"lastState": ended})
    refused = event("Liveness probe failed: Get: dial tcp: connect: connection refused", "Unhealthy")
    refused["involvedObject"]["fieldPath"] = "spec.containers{c}"
    return one, [refused]


@pytest.mark.parametrize(
    ("slow", "code", "rule", "blame"),
    [
        ("RUNNER_CONFORMANCE_PATIENCE=10 says that it is slow", 137, "container/too-slow", Blame.ENVIRONMENT),
        ("load of 20 on 2 CPUs, 10.0 per CPU", 143, "container/too-slow", Blame.ENVIRONMENT),
        ("load of 20 on 2 CPUs, 10.0 per CPU", 1, "container/crashes", Blame.PRODUCT),
        ("", 137, "container/crashes", Blame.PRODUCT),
    ],
)
def test_a_liveness_probe_on_a_slow_host_is_not_the_products_fault(
    monkeypatch: pytest.MonkeyPatch, slow: str, code: int, rule: str, blame: Blame
) -> None:
    monkeypatch.setattr("harness.diagnosis.containers.slow_host", lambda: slow)
    found = reason_of(*ended_by_its_probe(code))
    assert (found.id, found.blame) == (rule, blame)
    assert (Patience().final(found, 0.0) is None) is (rule == "container/too-slow")


def test_another_containers_probe_explains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.diagnosis.containers.slow_host", lambda: "slow")
    one, events = ended_by_its_probe()
    events[0]["involvedObject"]["fieldPath"] = "spec.containers{other}"
    assert reason_of(one, events).id == "container/crashes"


def test_a_role_that_the_node_has_not_is_told_after_a_second_look() -> None:
    """k3s labels a node a moment after it is Ready."""
    found, patience = classify(role_facts("n", {"master"})), Patience()
    assert found is not None
    assert (found.id, found.blame) == ("node/role-missing", Blame.PRODUCT)
    assert [patience.final(found, now) is None for now in (0.0, 5.0, 10.0, 15.0, 20.0)] == [True] * 4 + [
        False
    ]
    assert role_facts("n", set()) == []


def test_what_outlives_its_runner_without_an_owner_is_told_after_a_second_look() -> None:
    about = {"name": "jh-runner-left", "namespace": "n"}
    left = {"kind": "ConfigMap", "metadata": about}
    owned = {"kind": "Pod", "metadata": {**about, "ownerReferences": [{"name": "x"}]}}
    going = {"kind": "Pod", "metadata": {**about, "deletionTimestamp": "now"}}
    assert orphan_facts([owned, going]) == []
    found, patience = classify(orphan_facts([owned, left])), Patience()
    assert found is not None
    assert (found.id, found.blame) == ("operator/left-behind", Blame.PRODUCT)
    assert "ConfigMap n/jh-runner-left" in found.sentence
    assert [patience.final(found, now) is None for now in (0.0, 5.0, 10.0, 15.0, 21.0)] == [True] * 4 + [
        False
    ]


def test_patience_stretches_how_long_a_fault_must_last() -> None:
    away, patience = reason_of(pod("ErrImagePull", "i/o timeout")), Patience(10.0)
    for now in range(0, 400, 60):
        assert patience.final(away, float(now)) is None
    assert patience.final(away, 401.0) is away


def test_every_wait_has_the_patience_that_the_host_is_said_to_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.diagnosis.patience.patience", lambda: 10.0)
    away, waits = reason_of(pod("ErrImagePull", "i/o timeout")), Patience()
    for now in range(0, 400, 60):
        assert waits.final(away, float(now)) is None
    assert waits.final(away, 401.0) is away


def test_what_the_network_does_may_mend_itself_and_what_a_registry_answered_does_not() -> None:
    """Three tries of the kubelet take 30 s: a registry that is away for a moment ends no wait."""
    away, gone = reason_of(pod("ErrImagePull", "i/o timeout")), reason_of(pod("ErrImagePull", "not found"))
    patience = Patience()
    assert patience.final(gone, 0.0) is gone
    assert patience.final(away, 0.0) is None
    for now in range(6, 42, 6):
        assert patience.final(away, float(now)) is None
    assert patience.final(away, 42.0) is away


def test_a_reason_that_was_gone_for_a_while_begins_anew() -> None:
    away, patience = reason_of(pod("ErrImagePull", "i/o timeout")), Patience()
    patience.final(away, 0.0)
    assert patience.final(None, 20.0) is None
    assert patience.final(away, 41.0) is None


def test_a_crash_is_final_only_when_it_repeats_and_shows_its_last_words() -> None:
    ended = {"lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "no such module"}}}
    once = reason_of(pod("CrashLoopBackOff", restarts=1, container=ended))
    often = reason_of(pod("CrashLoopBackOff", restarts=3, container=ended))
    patience = Patience()
    assert patience.final(once, 0.0) is None
    assert patience.final(often, 0.0) is often
    assert "no such module" in often.sentence


def test_what_is_being_deleted_or_runs_is_no_problem() -> None:
    assert pod_facts(pod("ImagePullBackOff", deletionTimestamp="2026-01-01T00:00:00Z")) == []
    assert pod_facts(pod("")) == []


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("0/1 nodes are available: 1 Insufficient memory.", "schedule/insufficient"),
        ("0/1 nodes are available: 1 node(s) had untolerated taint {a: b}.", "schedule/taint"),
        ("0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }.",
         "schedule/pressure"),
        ("0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.",
         "schedule/node-not-ready"),
        ("0/1 nodes are available: 1 node(s) were unschedulable.", "schedule/cordoned"),
    ],
)  # fmt: skip
def test_a_pod_without_a_node_is_the_environments_fault(words: str, rule: str) -> None:
    pending = pod("")
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    pending["status"] = {"phase": "Pending", "conditions": [condition]}
    found = reason_of(pending)
    assert (found.id, found.blame) == (rule, Blame.ENVIRONMENT)


def owned(name: str, phase: str, *, born: int = 0, kind: str = "ReplicaSet", **status: str) -> dict[str, Any]:
    one = pod("", name=name, creationTimestamp=f"2026-01-01T00:00:{born:02}Z")
    one["metadata"]["ownerReferences"] = [{"controller": True, "uid": "owner", "kind": kind}]
    one["status"] = {"phase": phase, **status}
    return one


def test_a_failed_pod_beside_its_healthy_replacement_is_no_problem() -> None:
    """An evicted pod, or one of a node that was shut down, stays as Failed for ever."""
    evicted = owned("old", "Failed", reason="Evicted", message="The node was low on resource: memory.")
    assert pods_facts([evicted, owned("new", "Running", born=5)]) == []
    assert pods_facts([evicted, owned("new", "Pending", born=5)]) == []
    (alone,) = pods_facts([evicted])
    found = classify([alone])
    assert found is not None
    assert (found.id, found.blame) == ("schedule/evicted", Blame.ENVIRONMENT)
    assert Patience().final(found, 0.0) is None


def test_a_job_with_tries_left_ends_no_wait_however_long_its_pause_is() -> None:
    found = classify(pods_facts([owned("one", "Failed", kind="Job")]))
    assert found is not None
    assert found.final_after_s is None


@pytest.mark.parametrize(
    ("annotations", "limits", "rule", "blame"),
    [
        ({"kubernetes.io/limit-ranger": "LimitRanger plugin set: memory limit for container c"}, {},
         "container/limit-range", Blame.ENVIRONMENT),
        ({}, {"memory": "16Mi"}, "container/own-limit", Blame.PRODUCT),
        ({}, {}, "container/host-memory", Blame.ENVIRONMENT),
    ],
)  # fmt: skip
def test_who_is_at_fault_for_too_little_memory(
    annotations: dict[str, str], limits: dict[str, str], rule: str, blame: Blame
) -> None:
    killed = {"lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    one = pod("CrashLoopBackOff", restarts=1, container=killed, annotations=annotations)
    one["spec"]["containers"][0]["resources"] = {"limits": limits}
    found = reason_of(one)
    assert (found.id, found.blame) == (rule, blame)


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


class CrashingKube(FakeKube):
    """Its one pod ends again and again; ``log`` is that of the run before."""

    def list(self, kind: str, namespace: str | None = None, **_: Any) -> list[dict[str, Any]]:
        ended = {"lastState": {"terminated": {"exitCode": 2, "reason": "Error"}}}
        return [pod("CrashLoopBackOff", restarts=1, container=ended)] if kind == "v1/Pod" else []

    def logs(self, *_: Any, previous: bool = False, **__: Any) -> str:
        return self.log if previous else ""


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("starting\nno configuration in /etc/thing\n", "no configuration in /etc/thing"),
        (
            "panic: no leader\n\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:12 +0x1d\n",
            "panic: no leader",
        ),
        ("Traceback (most recent call last):\nKeyError: 'x'\n", "KeyError: 'x'"),
    ],
)
def test_what_a_container_said_before_it_ended_is_in_the_reason(log: str, words: str) -> None:
    anything: Any = CrashingKube(log)
    for found in (
        diagnose(anything, [Scope("operators")]).reason,
        scope_reason(anything, Scope("operators")),
    ):
        assert found is not None
        assert (found.id, found.sentence.endswith(f"; its log says: {words}")) == ("container/crashed", True)


def test_a_container_that_ended_without_a_word_is_told_as_before() -> None:
    anything: Any = CrashingKube("")
    found = diagnose(anything, [Scope("operators")]).reason
    assert found is not None
    assert found.sentence.endswith("1 restarts")


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
    assert "v1/Service: GET: nobody answers at the API server's address: gone" in texts["problems.txt"]
    assert all(secret not in text for text in [*texts.values(), found.summary])
    assert not {"v1/Secret", "v1/ConfigMap"} & set(kube.asked)


def test_evidence_is_bounded_in_size_and_time(tmp_path: Path) -> None:
    kube = FakeKube("x" * 50_000)
    found = collect(context(tmp_path, kube), "operator", tmp_path / "small", max_bytes=10_000)
    assert sum(path.stat().st_size for path in found.files) <= 10_000
    asked = len(kube.asked)
    collect(context(tmp_path, kube), "operator", tmp_path / "none", timeout_s=-1)
    assert len(kube.asked) - asked <= 12  # only the summary looks: six kinds in each of two namespaces


class RollingUpdate:
    """A Deployment whose image was replaced, while its old pod still can't pull the old one."""

    def __init__(self, new_pod_waits: str) -> None:
        old = pod("ImagePullBackOff", ownerReferences=[{"controller": True, "uid": "set-old"}])
        new = pod(
            new_pod_waits, name="new", uid="v", ownerReferences=[{"controller": True, "uid": "set-new"}]
        )
        new["spec"]["containers"][0]["image"] = new["status"]["containerStatuses"][0]["image"] = "other:1"
        sets = [
            {
                "metadata": {
                    "name": uid,
                    "uid": uid,
                    "ownerReferences": [{"controller": True, "uid": "deployment"}],
                }
            }
            for uid in ("set-old", "set-new")
        ]
        template = {"spec": {"containers": [{"name": "c", "image": "other:1"}]}}
        self.objects = {
            "v1/Pod": [old, new],
            "apps/v1/ReplicaSet": sets,
            "apps/v1/Deployment": [
                {"metadata": {"name": "d", "uid": "deployment"}, "spec": {"template": template}}
            ],
        }

    def list(self, kind: str, namespace: str | None = None, **_: Any) -> list[dict[str, Any]]:
        return self.objects.get(kind, [])


def test_a_pod_that_is_being_replaced_ends_no_wait() -> None:
    """The new image may take minutes to pull; the old one's failure is what the replacement is for."""
    kube: Any = RollingUpdate(new_pod_waits="ContainerCreating")
    assert diagnose(kube, [Scope("operators")]).reason is None
    assert scope_reason(kube, Scope("operators")) is None
    assert any("ImagePullBackOff" in line for line in diagnose(kube, [Scope("operators")]).pods)


def test_where_both_cant_be_pulled_the_new_one_is_the_reason() -> None:
    kube: Any = RollingUpdate(new_pod_waits="ImagePullBackOff")
    found = scope_reason(kube, Scope("operators"))
    assert found is not None
    assert "pod operators/new container c (other:1)" in found.sentence
    assert not any("operators/p" in other.sentence for other in found.others)


def test_a_pod_of_the_present_template_counts() -> None:
    rolling = RollingUpdate(new_pod_waits="")
    rolling.objects["apps/v1/Deployment"][0]["spec"]["template"]["spec"]["containers"][0]["image"] = IMAGE
    kube: Any = rolling
    found = scope_reason(kube, Scope("operators"))
    assert found is not None
    assert "operators/p" in found.sentence


@pytest.mark.parametrize(
    ("words", "rule", "blame"),
    [
        (f'failed to get sandbox image "x": {"failed to resolve reference: " * 20}not found',
         "pull/not-found", Blame.PRODUCT),
        (f'failed to get sandbox image "x": {"failed to do request: " * 20}i/o timeout',
         "pull/unreachable", Blame.ENVIRONMENT),
        ('plugin type="bridge" failed: no IP addresses available', "node/no-addresses", Blame.ENVIRONMENT),
        ('plugin type="bridge" failed (add): boom', "node/network", Blame.ENVIRONMENT),
        ("something else", "node/sandbox", Blame.ENVIRONMENT),
    ],
)  # fmt: skip
def test_a_sandbox_that_cant_be_made_is_the_hosts_fault_unless_its_image_is_gone(
    words: str, rule: str, blame: Blame
) -> None:
    starting = pod("ContainerCreating")
    starting["status"]["phase"] = "Pending"
    failed = event(f"Failed to create pod sandbox: {words}", "FailedCreatePodSandBox")
    found = reason_of(starting, [failed])
    assert (found.id, found.blame) == (rule, blame)


def test_a_mount_that_failed_before_the_pull_began_is_over() -> None:
    starting = pod("ContainerCreating")
    starting["status"]["phase"] = "Pending"
    failed = event('MountVolume.SetUp failed: secret "s" not found', "FailedMount", 1)
    pulling = event(f'Pulling image "{IMAGE}"', "Pulling", 2, "Normal")
    assert reason_of(starting, [failed]).id == "container/mount"
    slow = reason_of(starting, [failed, pulling])
    assert (slow.id, slow.final_after_s, slow.blame) == ("pull/slow", None, Blame.ENVIRONMENT)


def replica_set(replicas: int) -> dict[str, Any]:
    return {
        "kind": "ReplicaSet",
        "metadata": {"name": "rs", "namespace": "operators", "uid": "rs"},
        "spec": {"replicas": 1},
        "status": {"replicas": replicas},
    }


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ('pods "x" is forbidden: exceeded quota: q, requested: pods=1', "admission/quota"),
        ('pods "x" is forbidden: violates PodSecurity "baseline:latest": x', "admission/pod-security"),
        ('pods "x" is forbidden: maximum memory usage per Container is 1Mi', "admission/limit-range"),
        ('pods "x" is forbidden: error looking up service account a/b: serviceaccount "b" not found',
         "admission/service-account"),
        ('failed calling webhook "policy.example.org": no endpoints', "admission/foreign-webhook-silent"),
    ],
)  # fmt: skip
def test_pods_that_may_not_be_made_are_the_environments_fault_as_long_as_they_lack(
    words: str, rule: str
) -> None:
    refused = event(f"Error creating: {words}", "FailedCreate") | {
        "involvedObject": {"kind": "ReplicaSet", "name": "rs", "namespace": "operators", "uid": "rs"}
    }
    found = classify(events_facts([refused], [replica_set(0)]))
    assert found is not None
    assert (found.id, found.blame) == (rule, Blame.ENVIRONMENT)
    assert words[-20:] in found.sentence
    assert events_facts([refused], [replica_set(1)]) == []
    assert events_facts([refused], []) == []


def test_a_long_message_keeps_its_last_words() -> None:
    cause = "dial tcp 10.0.0.1:443: connection refused"
    words = f"Failed to pull image: {'failed to resolve reference: ' * 40}{cause}"
    (line,) = event_lines([event(words)])
    assert line.startswith("Warning Pod/p Failed: Failed to pull image")
    assert line.endswith(cause)
    assert len(line) == 400


def test_a_long_message_keeps_what_a_rule_found_in_its_middle() -> None:
    words = f'pods "x" is forbidden: violates PodSecurity "baseline": privileged, {"and more, " * 80}end'
    where = f"pod a/b: {'very long ' * 40}{words}"
    found = classify([Fact("create", "ReplicaSet a/b", where)])
    assert found is not None
    assert 'violates PodSecurity "baseline": privileged' in found.sentence
    assert len(found.sentence) < 600


def test_events_of_pods_that_are_gone_are_no_reason() -> None:
    assert classify(events_facts([event("it hurts", "FailedMount")], [])) is None
