"""A stack by hand is judged by reading, whatever is broken, and the API server has seen no change."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.history.store import History
from harness.kube import Kube
from selftests.acceptance.accepting import READABLE, ROOT, Ended, accept, command, environment, folders
from selftests.acceptance.breakages import BREAKAGES, Breakage
from selftests.acceptance.lab import PROJECT, Lab
from selftests.unit.client_certificates import client_certificate

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making a node needs root")

READS = {"get", "list", "watch"}
UNJUDGED = {
    "cluster/k3s-version",
    "cluster/pod-runs",
    "cluster/dns",
    "cert-manager/certificate-issued",
    "olm/installed-once",
    "runner/deleted",
    "docker-sock/config-map",
    "docker-sock/runner",
    "docker-sock/host-path",
    "docker-sock/build-pod",
    "docker-sock/node-without-docker",
}
"""What can't be judged of a Runner without a config of its own, or only with a change."""
SAMPLE = ("webhook without endpoints", "runner paused")
"""Breakages that every CI run sees; the others are by hand."""


def asked(lab: Lab, since: int) -> list[dict[str, Any]]:
    """What the API server wrote of the person's requests, which it let pass."""
    return lab.requests(since)


def how(event: dict[str, Any]) -> str:
    """``patch certificates dry run``: a request that is more than a read."""
    ref = event.get("objectRef", {})
    what = "/".join(filter(None, (ref.get("resource"), ref.get("subresource"))))
    return f"{event['verb']} {what}" + (" dry run" if "dryRun=All" in event["requestURI"] else "")


def more_than_reads(events: list[dict[str, Any]]) -> set[str]:
    streams = {"exec", "portforward"}
    return {
        how(it)
        for it in events
        if it["verb"] not in READS or it.get("objectRef", {}).get("subresource") in streams
    }


def size(lab: Lab) -> int:
    return lab.audit_log.stat().st_size


def told(ended: Ended) -> str:
    return ended.output[-5000:]


def test_a_stack_by_hand_is_accepted_and_only_what_was_announced_is_asked(lab: Lab, tmp_path: Path) -> None:
    before = size(lab)
    ended = accept(lab, tmp_path, "--no-header")
    assert ended.code == 0, told(ended)
    assert ended.document["verdict"]["text"] == "CONFORMS (rehearsal)"
    unjudged = {it for it in ended.with_status("not applicable") if not it.startswith("docker-sock/build/")}
    assert unjudged == UNJUDGED
    events = asked(lab, before)
    assert len(events) > 100
    assert more_than_reads(events) == {
        "patch certificates dry run",
        "patch runners dry run",
        "get pods/exec",
        "get pods/portforward",
    }
    assert "secrets" not in {it.get("objectRef", {}).get("resource") for it in events if it["verb"] == "list"}


def test_without_commands_and_dry_runs_nothing_but_reads_is_asked(lab: Lab, tmp_path: Path) -> None:
    before = size(lab)
    ended = accept(lab, tmp_path, "--no-exec", "--no-dry-run")
    assert ended.code == 0, told(ended)
    events = asked(lab, before)
    assert len(events) > 100
    assert more_than_reads(events) == set()
    assert {"runner/pod", "runner/online", "runner/config-map"} <= ended.with_status("passed")


def breakages() -> list[Any]:
    """All as parameters; those without a mark are the sample."""
    return [
        pytest.param(
            it, id=it.what.replace(" ", "-"), marks=() if it.what in SAMPLE else pytest.mark.acceptance
        )
        for it in BREAKAGES
    ]


@pytest.mark.parametrize("breakage", breakages())
def test_what_is_broken_is_red_for_its_reason(lab: Lab, tmp_path: Path, breakage: Breakage) -> None:
    with breakage.break_it(lab):
        words = (f"--gitlab-project={PROJECT}", *breakage.options)
        ended = accept(lab, tmp_path, *words, tests=folders((*breakage.red, *breakage.green)))
    assert ended.with_status("failed") == set(breakage.red), told(ended)
    for outcome, words in breakage.red.items():
        entry = ended.outcomes[outcome]
        assert words in entry["reason"], entry
        assert entry["blame"] == breakage.blame, entry
    assert set(breakage.green) <= ended.with_status("passed"), told(ended)


def test_what_is_wrong_with_the_options_is_a_sentence(lab: Lab, tmp_path: Path) -> None:
    document = yaml.safe_load(lab.kubeconfig.read_text())
    cases = {
        "wrong-context": (["--context=nobody-s"], {}, 4, "has no context 'nobody-s'"),
        "unreachable": ([], {"server": "https://127.0.0.1:9"}, 10, "does not answer"),
        "no-token": ([f"--gitlab-url={lab.gitlab_url}"], {}, 4, "--gitlab-token-file go together"),
    }
    for name, (words, cluster, code, sentence) in cases.items():
        changed = {**document, "clusters": [dict(document["clusters"][0])]}
        changed["clusters"][0]["cluster"] = {**document["clusters"][0]["cluster"], **cluster}
        path = tmp_path / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(changed))
        ended = accept(lab, tmp_path, *words, gitlab=False, kubeconfig=path)
        assert ended.code == code, (name, told(ended))
        assert sentence in ended.output, (name, told(ended))
        assert "Traceback" not in ended.output, (name, told(ended))


def test_an_expired_certificate_is_a_sentence(lab: Lab, tmp_path: Path) -> None:
    tls = "/var/lib/rancher/k3s/server/tls/client-ca"
    authority, key = (lab.shell.types(f"cat {tls}.{it}") for it in ("crt", "key"))
    document = yaml.safe_load(lab.kubeconfig.read_text())
    for name, until in (("valid", timedelta(days=1)), ("expired", timedelta(minutes=-5))):
        pair = client_certificate("person", datetime.now(UTC) + until, authority, key)
        names = ("client-certificate-data", "client-key-data")
        user = dict(zip(names, (b64encode(it.encode()).decode() for it in pair), strict=True))
        path = tmp_path / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump({**document, "users": [{"name": "person", "user": user}]}))
        ended = accept(lab, tmp_path, gitlab=False, kubeconfig=path, tests=READABLE[:1])
        assert ("its client certificate has expired on" in ended.output) == (name == "expired"), told(ended)
        assert "Traceback" not in ended.output, told(ended)
    assert "does not know its user" in ended.output
    assert ended.code == 10, told(ended)


@pytest.mark.acceptance
def test_rights_that_are_missing_are_named_once(lab: Lab, tmp_path: Path) -> None:
    role = "runner-conformance-acceptance"
    kind = "rbac.authorization.k8s.io/v1/ClusterRole"
    kube = Kube(lab.cluster.kubeconfig)
    found = kube.get(kind, role)
    assert found is not None
    rules = [{**it, "resources": [r for r in it["resources"] if r != "pods"]} for it in found["rules"]]
    kube.patch(kind, role, None, {"rules": rules})
    try:
        ended = accept(lab, tmp_path)
    finally:
        kube.patch(kind, role, None, {"rules": found["rules"]})
    assert ended.code == 10, told(ended)
    assert ended.with_status("failed") == set(), told(ended)
    assert ended.document["verdict"]["hint"] == "grant what `pytest --show-rbac` prints"
    assert "may not list pods" in ended.outcomes["runner/pod"]["reason"]
    assert "Traceback" not in ended.output


@pytest.mark.acceptance
def test_the_cron_job_of_the_pages_keeps_a_history(lab: Lab, tmp_path: Path) -> None:
    """Its words and its kubeconfig, with the user's token in a file, but for where things are."""
    page = (ROOT / "docs/matrix.md").read_text()
    block = next(it for it in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "kind: CronJob" in it)
    settings, job = yaml.safe_load_all(block)
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    words = shlex.split(container["args"][0].partition("./run conformance ")[2])
    theirs = yaml.safe_load(lab.kubeconfig.read_text())
    config = yaml.safe_load(settings["data"]["kubeconfig"])
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    cluster["server"] = theirs["clusters"][0]["cluster"]["server"]
    cluster["certificate-authority"], user["tokenFile"] = str(tmp_path / "ca"), str(tmp_path / "token")
    (tmp_path / "ca").write_bytes(b64decode(theirs["clusters"][0]["cluster"]["certificate-authority-data"]))
    (tmp_path / "token").write_text(theirs["users"][0]["user"]["token"])
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    places = {it["mountPath"] for it in container["volumeMounts"]}
    for place in places:
        words = [it.replace(f"={place}/", f"={tmp_path}/") for it in words]
    done = subprocess.run(
        command(tmp_path, "tests", *words),
        cwd=ROOT,
        env=environment(lab),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    with History(tmp_path / "history.sqlite") as past:
        (run,) = past.runs()
    assert run.verdict.startswith("CONFORMS"), run.verdict
