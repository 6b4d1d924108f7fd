"""Jobs on a real node: the runner under test makes the recorded requests and writes the recorded log.

Needs root and a bundle: RUNNER_CONFORMANCE_BUNDLE names its directory. One node serves all cases.
"""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from runner_apiproxy import ApiProxy
from runner_cases import HELPER_IMAGE, JobCase, command, conversation, plain_log, recording
from runner_replay import Replay, Request

from harness.cluster import ClusterOptions, K3sCluster
from harness.kube import Kube

BUNDLE = Path(os.environ.get("RUNNER_CONFORMANCE_BUNDLE", "/nonexistent"))
NODE = os.environ.get("RUNNER_CONFORMANCE_NODE")  # a state directory of a node that runs already
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not (BUNDLE / "bundle.toml").exists(),
    reason="needs root and a bundle (RUNNER_CONFORMANCE_BUNDLE)",
)

RECORDED_SHA = "27820ea671820622e6c7b6e79b83ce583c3becc9"
JOBS = recording("jobs")
TRACES = recording("traces")
CALLS = recording("kubernetes-calls")
# Recorded traces without a payload of their own: what the job was, read from its log.
SCRIPTS: dict[str, dict[str, Any]] = {
    "multi-line-block": {"script": ["echo a\necho b", "if true; then\n  echo c\nfi"]},
    "script-error-in-the-middle": {"script": ["echo one", "false", "echo two"]},
    "after-script-fails": {"script": ["echo main"], "after": ["echo after", "exit 9"]},
    "image-pull-failure-service": {"script": ["echo x"], "services": [{"name": "nosuch/svc:2.0"}]},
    "image-invalid-name": {"script": ["echo x"], "image": "Bad Image"},
    "namespace-missing": {"script": ["echo x"], "kubernetes": {"namespace": "no-such-namespace"}},
    "psa-baseline-privileged-runner": {
        "script": ["echo x"],
        "kubernetes": {"namespace": "psa-baseline", "privileged": True},
    },
    "service-crashes": {
        "script": ["sleep 4; echo still running"],
        "services": [
            {"name": "alpine:latest", "alias": "svc", "entrypoint": ["sh", "-c"], "command": ["exit 7"]}
        ],
    },
    "two-services-alias": {
        "script": ["cat /etc/hosts", 'env | grep -iE "redis|svc" || true'],
        "services": [
            {"name": "alpine:latest", "alias": "svc-a", "entrypoint": ["sh", "-c"], "command": ["sleep 60"]}
        ],
    },
    "variables-types": {
        "script": ['echo "$A|$B|$C|$RAWV"', "env | grep -c ^CI_JOB_TOKEN"],
        "variables": [
            {"key": "A", "value": "1", "public": True},
            {"key": "A", "value": "2", "public": True},
            {"key": "B", "value": "$A-expanded", "public": True},
            {"key": "C", "value": "$$literal", "public": True},
            {"key": "RAWV", "value": "$A-raw", "public": True, "raw": True},
        ],
    },
    "pull-policy-not-allowed": {"script": ["echo x"], "pull_policy": ["if-not-present"]},
}
# Seconds after the job's first command, and the signal.
SIGNALS = {
    "signal-term-running": [(1.0, "SIGTERM")],
    "signal-quit-running": [(1.0, "SIGQUIT")],
    "signal-quit-then-term-running": [(1.0, "SIGQUIT"), (4.0, "SIGTERM")],
}
# case → the recording of its Kubernetes calls
CALLS_OF = {
    "failure-command-not-found": None,
    "image-pull-failure": "image-pull-failure",
    "canceled-via-patch": "canceled",
    "timeout-20s": "timeout",
    "signal-term-running": "runner-sigterm",
    "pod-deleted-mid-job": "pod-deleted-mid-job",
}


def cases() -> Iterator[JobCase]:
    """Every job that is compared."""
    for name, job in JOBS["jobs"].items():
        payload = {"token": f"64_EXAMPLEjobToken{job['payload']['id']:06}"} | copy.deepcopy(job["payload"])
        if name != "payload-minimal":
            payload |= {"job_info": JOBS["job_info"], "variables": _variables(payload)}
            payload["variables"] += job["extra_variables"]
        trace = TRACES.get(name, {"log": "", "updates": []})
        limit = 4 if name.startswith("output-limit") else 0
        kubernetes = {"image": "alpine"} if name == "default-image" else {}
        signals = SIGNALS.get(name, [])
        yield JobCase(
            name, payload, job["requests"], trace["log"], trace["updates"], kubernetes, signals, limit
        )
    plain = JOBS["jobs"]["failure-exit-3"]
    for name, wish in SCRIPTS.items():
        payload = {"token": "64_EXAMPLEjobToken001003"} | copy.deepcopy(plain["payload"])
        steps = [{"name": "script", "script": wish["script"], "timeout": 3600, "when": "on_success"}]
        if "after" in wish:
            steps.append({"name": "after_script", "script": wish["after"], "timeout": 3600, "when": "always"})
        payload |= {"steps": steps, "services": wish.get("services", []), "job_info": JOBS["job_info"]}
        payload["image"] = {
            "name": wish.get("image", "alpine:latest"),
            "pull_policy": wish.get("pull_policy"),
        }
        payload["variables"] = _variables(payload) + wish.get("variables", [])
        trace = TRACES[name]
        kubernetes = wish.get("kubernetes", {})
        yield JobCase(name, payload, plain["requests"][:1], trace["log"], trace["updates"], kubernetes)


def _variables(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    made = copy.deepcopy(JOBS["variables"])
    for variable in made:
        variable["value"] = variable["value"].replace("64_EXAMPLEjobToken001002", payload["token"])
    return list(made)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """kubeconfig and the host's address as pods reach it."""
    if NODE:
        cluster = K3sCluster.attach(Path(NODE))
        yield cluster.kubeconfig, cluster.host_ip
        return
    options = ClusterOptions(
        run_id="rc-00c0ffee",
        name="runner-compare",
        k3s=BUNDLE / "files/k3s",
        state_dir=tmp_path_factory.mktemp("node") / "state",
        registry_program=BUNDLE / "files/registry",
        storage=BUNDLE / "registry",
    )
    cluster = K3sCluster(options)
    try:
        kubeconfig = cluster.start()
        _wait_for_service_account(kubeconfig)
        yield kubeconfig, cluster.host_ip
    finally:
        cluster.stop()


def _wait_for_service_account(kubeconfig: Path) -> None:
    """A node is Ready two seconds before its first namespaces have the ServiceAccount that pods need."""
    kube, deadline = Kube(kubeconfig), time.monotonic() + 60
    while kube.get("v1/ServiceAccount", "default", "default") is None:
        assert time.monotonic() < deadline, "namespace default has no ServiceAccount after 60 s"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A bare group/demo.git with the refs that the recorded jobs ask for, and its commit."""
    root = tmp_path_factory.mktemp("git")
    work, bare = root / "work", root / "served" / "group" / "demo.git"
    work.mkdir()
    (work / "README.md").write_text("hello\n")
    who = ["-c", "user.name=demo", "-c", "user.email=demo@example.invalid"]
    for arguments in (
        ["init", "-q", "-b", "main", str(work)],
        ["-C", str(work), "add", "."],
        ["-C", str(work), *who, "commit", "-q", "-m", "Start"],
        ["clone", "-q", "--bare", str(work), str(bare)],
        ["-C", str(bare), "update-ref", "refs/pipelines/31", "main"],
    ):
        subprocess.run(["git", *arguments], check=True)
    read = ["git", "-C", str(bare), "rev-parse", "main"]
    sha = subprocess.run(read, check=True, capture_output=True, text=True).stdout.strip()
    return root / "served", sha


class Results:
    """Runs all cases side by side, once: they spend their time waiting."""

    def __init__(
        self, node: tuple[Path, str], repositories: tuple[Path, str], folder: Path, wanted: set[str]
    ) -> None:
        self._node, self._repositories, self._folder = node, repositories, folder
        chosen = [case for case in cases() if case.name in wanted]
        labels = {"pod-security.kubernetes.io/enforce": "baseline"}
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "psa-baseline", "labels": labels},
        }
        Kube(node[0]).apply(namespace)
        with ThreadPoolExecutor(max_workers=4) as pool:
            self.of = dict(zip([c.name for c in chosen], pool.map(self._run, chosen), strict=True))

    def _run(self, case: JobCase) -> tuple[list[Request], str, list[list[Any]], int]:
        kubeconfig, host = self._node
        served, sha = self._repositories
        folder = self._folder / case.name
        folder.mkdir()
        payload = case.payload
        records = [dict(record) for record in case.records]
        records[0] = records[0] | {"answer": records[0]["answer"] | {"json": payload}}
        texts = {} if case.name == "git-wrong-sha" else {RECORDED_SHA: sha, RECORDED_SHA[:8]: sha[:8]}
        if case.name == "missing-pipeline-ref":
            texts["refs/pipelines/31"] = "refs/pipelines/32"
        with Replay(records, texts, host, served) as gitlab, ApiProxy(kubeconfig) as api:
            gitlab.rewrite = {**texts, "10.99.0.1:8080": gitlab.base.removeprefix("http://")}
            config = _config(case, gitlab.base, records[0]["json"]["token"])
            (folder / "config.toml").write_text(config)
            environment = {**os.environ, "KUBECONFIG": str(api.kubeconfig(folder))}
            arguments = [*command(), "run", "--config", str(folder / "config.toml")]
            with (folder / "runner.log").open("w") as log:
                run = subprocess.Popen(arguments, env=environment, stderr=log)
                code = _drive(run, case, gitlab, kubeconfig)
            return list(gitlab.requests), (folder / "runner.log").read_text(), list(api.calls), code


def _config(case: JobCase, url: str, token: str) -> str:
    kubernetes: dict[str, Any] = {"namespace": "default", "helper_image": HELPER_IMAGE, "poll_timeout": 180}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (kubernetes | case.kubernetes).items()]
    limit = f"output_limit = {case.output_limit_kib}\n" if case.output_limit_kib else ""
    return (
        f'concurrent = 4\n[[runners]]\nname = "demo-runner"\n{limit}url = "{url}"\ntoken = "{token}"\n'
        'executor = "kubernetes"\n[runners.kubernetes]\n' + "\n".join(lines) + "\n"
    )


def _drive(run: "subprocess.Popen[bytes]", case: JobCase, gitlab: Replay, kubeconfig: Path) -> int:
    """Send the case's signals, delete its pod where it says so, end the runner at the end; the exit code."""
    finals = max(1, sum(r["method"] == "PUT" and r["json"]["state"] != "running" for r in case.records))
    started, signals = time.monotonic(), list(case.signals)
    deleted = case.name != "pod-deleted-mid-job"
    while time.monotonic() - started < 150 and run.poll() is None:
        time.sleep(0.1)
        runs_for_s = time.monotonic() - gitlab.started - (gitlab.script_runs or 1e9)
        if signals and runs_for_s > signals[0][0]:
            run.send_signal(getattr(signal, signals.pop(0)[1]))
        if not deleted and runs_for_s > 1:
            label = f"job.runner.gitlab.com/id={case.payload['id']}"
            deleted = _delete_pod(kubeconfig, label)
        states = [r.json["state"] for r in gitlab.requests if r.method == "PUT"]
        if sum(state != "running" for state in states) >= finals and not signals:
            break
    if run.poll() is None and not case.signals:
        time.sleep(0.3)
        run.send_signal(signal.SIGQUIT)
    try:
        return run.wait(30)
    except subprocess.TimeoutExpired:
        run.kill()
        return run.wait()


def _delete_pod(kubeconfig: Path, note: str) -> bool:
    kube = Kube(kubeconfig)
    key, _, value = note.partition("=")
    for found in kube.list("v1/Pod", "default"):
        if found["metadata"].get("annotations", {}).get(key) == value:
            kube.delete("v1/Pod", found["metadata"]["name"], "default")
            return True
    return False


ALL = sorted(case.name for case in cases())


@pytest.fixture(scope="session")
def results(
    request: pytest.FixtureRequest,
    node: tuple[Path, str],
    repositories: tuple[Path, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Results:
    """All selected cases, run."""
    wanted = {
        item.callspec.params["name"] for item in request.session.items if "results" in item.fixturenames
    }
    return Results(node, repositories, tmp_path_factory.mktemp("jobs"), wanted)


@pytest.mark.parametrize("name", ALL)
def test_job(name: str, results: Results) -> None:
    """Same requests in the same order, same log, same end."""
    case = next(case for case in cases() if case.name == name)
    requests, said, _, code = results.of[name]
    assert code == 0
    print(said)  # shown where the test is red
    ours = [r for r in requests if "/jobs/" in r.path]
    if len(case.records) > 1:
        assert conversation(_exchanges(ours)) == conversation([_recorded(r) for r in case.records])
    else:
        assert _updates(ours) == [dict(update) for update in case.updates]
    if case.log:
        assert plain_log(_log(ours)) == plain_log(case.log)


def _updates(requests: Sequence[Request]) -> list[dict[str, Any]]:
    kept = ("state", "failure_reason", "exit_code")
    return [{k: r.json[k] for k in kept if k in r.json} for r in requests if r.method == "PUT"]


def _log(requests: Sequence[Request]) -> str:
    """The log as a GitLab keeps it: what it accepted, each byte once."""
    kept = bytearray()
    for request in requests:
        if request.method == "PATCH" and request.answer["status"] == 202:
            start = int(request.headers["Content-Range"].partition("-")[0])
            kept[start:] = request.body
    return kept.decode()


def _exchanges(requests: Sequence[Request]) -> list[dict[str, Any]]:
    return [
        {"method": r.method, "path": r.path, "json": r.json, "answer": r.answer}
        | {"content_range": r.headers.get("Content-Range", "")}
        for r in requests
    ]


def _recorded(record: Mapping[str, Any]) -> dict[str, Any]:
    return dict(record) | {"content_range": record.get("headers", {}).get("Content-Range", "")}


@pytest.mark.parametrize("name", sorted(name for name, recorded in CALLS_OF.items() if recorded))
def test_kubernetes_calls(name: str, results: Results) -> None:
    """Same calls that create, change or delete, in the same order; the log is streamed by one long exec."""
    _, _, calls, _ = results.of[name]
    want, want_logs = _changes(CALLS[CALLS_OF[name] or ""])
    got, got_logs = _changes(calls)
    assert got == want
    assert got_logs == want_logs
    assert {call[1] for call in calls if call[0] == "get"} == {"pods"}


def _changes(calls: Sequence[Sequence[Any]]) -> tuple[list[list[Any]], int]:
    """Calls without GET (their number is chance), and how many streamed the log (their place is)."""
    plain = [[part for part in call if not (isinstance(part, dict) or part == [])] for call in calls]
    kept = [call for call in plain if call[0] != "get"]
    logs = [call for call in kept if call[-1] == ["gitlab-runner-helper", "read-logs"]]
    return [call for call in kept if call not in logs], len(logs)
