"""Command line, polling and pods of the runner under test, against the recordings."""

import contextlib
import copy
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from runner_cases import HELPER_IMAGE, STANDIN, command, plain_output, recording
from runner_replay import RECORDED_BASE, Replay

sys.path.insert(0, str(STANDIN))

from glrunner import pod
from glrunner.variables import job_variables

CLI = recording("cli")
POLLING = recording("polling")
PODS = recording("pods")


def _closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextlib.contextmanager
def _untrusted(folder: Path) -> Iterator[str]:
    """A TLS server with a certificate that nobody signed."""
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    made += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    made += ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = listening.accept()
                with contextlib.suppress(OSError), accepted:
                    context.wrap_socket(accepted, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.skipif(os.geteuid() != 0, reason="the recordings were made as root (system-mode)")
@pytest.mark.parametrize("name", sorted(CLI))
def test_command_line(name: str, tmp_path: Path) -> None:
    """Same exit code, output, config.toml and requests as recorded."""
    record = CLI[name]
    path = tmp_path / "config.toml"
    with Replay(record.get("requests", [])) as gitlab, _untrusted(tmp_path) as tls:
        places = {RECORDED_BASE: gitlab.base, "10.99.0.1:9": _closed_port(), "10.99.0.1:5443": tls}

        def here(text: str) -> str:
            for there, local in places.items():
                text = text.replace(there, local)
            return text.replace("/etc/gitlab-runner", str(tmp_path))

        if before := record.get("config_toml_before"):
            path.write_text(here(before))
        if template := record.get("template"):
            (tmp_path / "template.toml").write_text(template)
        environment = {k: here(v) for k, v in record.get("environment", {}).items()}
        done = subprocess.run(
            [*command(), *map(here, record["argv"])],
            env={"PATH": os.environ["PATH"], "CONFIG_FILE": str(path), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        back = {str(tmp_path): "/etc/gitlab-runner"} | {local: there for there, local in places.items()}
        want, got = plain_output(record["output"], {}), plain_output(done.stdout + done.stderr, back)
        assert got == want
        assert done.returncode == record["exit_code"]
        if (after := record.get("config_toml_after", "unchanged")) != "unchanged":
            assert plain_output(path.read_text(), back) == plain_output(after, {})
        assert [_shape(r.method, r.path, r.headers, r.json) for r in gitlab.requests] == [
            _shape(r["method"], r["path"], r.get("headers", {}), r.get("json"))
            for r in record.get("requests", [])
        ]


def _shape(method: str, path: str, headers: Mapping[str, str], body: Any) -> list[Any]:
    text = re.sub(r"\b[sr]_\w{12}\b", "SYSTEM", json.dumps(body))
    return [method, path, headers.get("Accept"), headers.get("Content-Type"), json.loads(text)]


@pytest.mark.parametrize("name", sorted(set(POLLING) - {"idle-check-interval-30"}))
def test_polling(name: str, tmp_path: Path) -> None:
    """Same requests in the same order for each kind of answer; a check_interval of 1 s saves time."""
    records = copy.deepcopy(POLLING[name])
    reset_s = 4
    for record in records:
        headers = record["answer"].get("headers", {})
        if "RateLimit-ResetTime" in headers:
            at = time.gmtime(time.time() + reset_s)
            headers["RateLimit-ResetTime"] = time.strftime("%a, %d %b %Y %H:%M:%S GMT", at)
    token = records[0]["json"]["token"]
    with Replay(records) as gitlab:
        path = tmp_path / "config.toml"
        path.write_text(
            f'concurrent = 4\ncheck_interval = 1\n[[runners]]\nname = "demo-runner"\nurl = "{gitlab.base}"\n'
            f'token = "{token}"\nexecutor = "kubernetes"\n[runners.kubernetes]\nnamespace = "default"\n'
        )
        with subprocess.Popen(
            [*command(), "run", "--config", str(path)], stderr=subprocess.PIPE, text=True
        ) as run:
            deadline = time.monotonic() + 2 * len(records) + 30
            while not gitlab.done() and time.monotonic() < deadline:
                time.sleep(0.05)
            if name == "request-403-unhealthy":
                time.sleep(3)  # three more turns in which nothing may be sent
            run.send_signal(signal.SIGQUIT)
            assert run.stderr is not None
            log = run.stderr.read()
            assert run.wait(10) == 0
    seen = [_polled(r.json) for r in gitlab.requests]
    assert seen[: len(records)] == [_polled(r["json"]) for r in records]
    if name == "request-403-unhealthy":
        assert len(seen) == len(records), "a runner that is off must not ask"
        assert f'Runner "{gitlab.base}{token}" is unhealthy and will be disabled for 1h0m0s seconds!' in log


def _polled(body: Mapping[str, Any]) -> dict[str, Any]:
    info = recording("runner-info") if body["info"] == "@runner-info.json" else body["info"]
    return {**body, "info": info, "system_id": "SYSTEM"}


_SOCK_PATH = '"/var/run/docker.sock"'
_SOCK = f'[[volumes.host_path]]\nname="docker"\nmount_path={_SOCK_PATH}\nhost_path={_SOCK_PATH}'
_CERTS = (
    'privileged=true\n[[volumes.empty_dir]]\nname="docker-certs"\nmount_path="/certs/client"\nmedium="Memory"'
)
_POD_CONFIGS = {
    "dind-privileged": "privileged=true",
    "dind-privileged-empty-dir-docker-certs": _CERTS,
    "host-path-docker-sock": _SOCK,
    "host-path-docker-sock-and-dind-service": _SOCK,
    "default-image": 'image="alpine"',
    "in-cluster-runner-job": f'helper_image="{HELPER_IMAGE}"\nnamespace="incluster"',
    "unschedulable-cpu-request": 'cpu_request="500"',
    "psa-baseline-rejected": 'privileged=true\nnamespace="psa-baseline"',
}
_SERVICES = {
    "service-with-alias": {"alias": "svc-a", "variables": [{"key": "SVC_ONLY", "value": "1"}]},
    "service-from-private-registry-two-aliases": {"alias": "db data-base"},
}


@pytest.mark.parametrize("name", sorted(PODS))
def test_pod(name: str) -> None:
    """The pod equals the recorded one, the API server's defaults apart."""
    want = PODS[name]
    config = tomllib.loads(_POD_CONFIGS.get(name, ""))
    job = _payload_of(want, name)
    runner = {"token": "glrt-Ab_Cd3fGhEXAMPLE0000", "kubernetes": config}
    variables = job_variables(job, runner, 0, 0, (job["image"] or {}).get("name", ""))
    secret = (want["spec"].get("imagePullSecrets") or [{}])[0].get("name")
    made = pod.build_pod(job, variables, config, want["metadata"]["generateName"], secret)
    got = _with_defaults(json.loads(json.dumps(made)))
    whole = name == "plain-job"  # the other recordings leave the ordinary variables out
    assert _trimmed(got, whole) == _trimmed(want, whole)


def _payload_of(want: Mapping[str, Any], name: str) -> dict[str, Any]:
    jobs = recording("jobs")
    job: dict[str, Any] = copy.deepcopy(jobs["jobs"]["success"]["payload"])
    job |= {"variables": copy.deepcopy(jobs["variables"]), "job_info": jobs["job_info"]}
    notes = want["metadata"]["annotations"]
    job["id"] = int(notes["job.runner.gitlab.com/id"])
    containers = {c["name"]: c for c in want["spec"]["containers"]}
    job["image"] = None if name == "default-image" else {"name": containers["build"]["image"]}
    job["services"] = [
        {"name": c["image"], "entrypoint": c.get("command"), "command": c.get("args")}
        | _SERVICES.get(name, {})
        for key, c in containers.items()
        if key.startswith("svc-")
    ]
    for variable in job["variables"]:
        variable["value"] = variable["value"].replace("/jobs/1002", f"/jobs/{job['id']}")
    own = [e for e in containers["build"]["env"] if e["name"].startswith("DOCKER_")]
    job["variables"] += [{"key": e["name"], "value": e.get("value", ""), "public": True} for e in own]
    return job


def _with_defaults(made: dict[str, Any]) -> dict[str, Any]:
    made["metadata"]["creationTimestamp"] = None
    made["status"] = {}
    spec = {"dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "enableServiceLinks": True}
    made["spec"] = spec | made["spec"]
    for container in made["spec"]["containers"] + made["spec"]["initContainers"]:
        tag = container["image"].rpartition("/")[2].partition(":")[2]
        container.setdefault("imagePullPolicy", "IfNotPresent" if tag not in ("", "latest") else "Always")
        container |= {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
    return made


def _trimmed(value: Mapping[str, Any], whole: bool) -> dict[str, Any]:
    copied: dict[str, Any] = copy.deepcopy(dict(value))
    for container in copied["spec"]["containers"]:
        kept = [{k: v for k, v in e.items() if v != ""} for e in container.get("env", [])]
        own = [
            e for e in kept if not e["name"].startswith(("FF_", "CI", "GITLAB_CI", "RUNNER_TEMP", "_note"))
        ]
        container["env"] = (
            [e for e in kept if e["name"] not in ("CI_JOB_ID", "CI_BUILD_ID")] if whole else own
        )
    return copied
