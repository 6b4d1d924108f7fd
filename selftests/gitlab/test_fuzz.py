"""Mutated requests and pipeline files: no 500, nobody let in, nothing lost, no request above a second.

A sample by default; all of them with RUNNER_CONFORMANCE_FUZZ=whole (tox -e fuzz). The seed is printed with a
failure; RUNNER_CONFORMANCE_FUZZ_SEED repeats it.
"""

from __future__ import annotations

import json
import os
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.gitlab import peak_mib
from harness.gitlab.embedded import EmbeddedGitLab
from selftests.gitlab.conftest import Server, commit_to
from selftests.gitlab.fuzz import Sent, Watched, mutated, mutated_file
from selftests.gitlab.runner_client import INFO

pytestmark = pytest.mark.embedded_only
WHOLE = os.environ.get("RUNNER_CONFORMANCE_FUZZ") == "whole"
REQUESTS, FILES = (20_000, 1000) if WHOLE else (600, 60)
SEED = int(os.environ.get("RUNNER_CONFORMANCE_FUZZ_SEED") or random.SystemRandom().randrange(10**9))
RENEWED_AFTER = 100
GROWTH_MIB = 120
CANARY = "canary-d41d8cd98f"
CASES = tomllib.loads((Path(__file__).parent / "pipelines/files.toml").read_text())["file"]
TEXTS = [case["text"] for case in CASES]
RUNNING = [case["text"] for case in CASES if "runs" in case]


@pytest.fixture
def fuzzed(embedded: Callable[..., Server]) -> tuple[Server, Watched, int]:
    print(f"RUNNER_CONFORMANCE_FUZZ_SEED={SEED}")
    server = embedded("--client-timeout", "2", long_poll_s=0.0)
    pid = EmbeddedGitLab.attach(server.state_dir or Path()).pid
    return server, Watched(server.url, pid), pid


class Target:
    """What the requests are about: a project that nobody may touch, and one whose owner sends them."""

    def __init__(self, server: Server) -> None:
        self._server, gl = server, server.gl
        self.secret = gl.projects.create({"name": "secret", "description": CANARY})
        commit_to(self.secret, f"a: {{script: [echo {CANARY}], tags: [none]}}\n")
        self.secret.variables.create({"key": "CANARY", "value": CANARY})
        self.pipeline = self.secret.pipelines.create({"ref": "main"})
        self.renew(0)

    def renew(self, count: int) -> None:
        """Another owner with a project, a runner and a job: mutations revoke and delete those of before."""
        name, server = f"owner{count}", self._server
        owner = server.gl.users.create(
            {"username": name, "name": name, "email": f"{name}@example.com", "force_random_password": True}
        )
        self.token = owner.personal_access_tokens.create({"name": "t", "scopes": ["api"]}).token
        mine = server.as_user(self.token)
        mine.auth()
        self.mine = mine.projects.create({"name": "mine"})
        commit_to(self.mine, "a: {script: [echo], tags: [t]}\n")
        made = mine.user.runners.create(
            {"runner_type": "project_type", "project_id": self.mine.id, "tag_list": ["t"]}
        )
        self.mine.pipelines.create({"ref": "main"})
        self.runner, self.runner_id = made.token, made.id
        self.job = server.runner(made.token).take()

    def requests(self) -> list[tuple[str, str, Any]]:
        """Method, path and body of what clients of this chain send."""
        action = {"action": "create", "file_path": "a/b", "content": "x", "encoding": "text"}
        commit = {"branch": "main", "commit_message": "x [skip ci]", "actions": [action], "author_name": "n"}
        runner = {"token": self.runner, "system_id": "s_1", "info": INFO, "last_update": ""}
        state = {"token": self.job["token"], "state": "running", "failure_reason": "x", "exit_code": 1}
        new = {
            "runner_type": "project_type",
            "project_id": self.mine.id,
            "tag_list": ["t"],
            "run_untagged": True,
        }
        found: list[tuple[str, str, Any]] = []
        for project in (self.mine, self.secret):
            base = f"/api/v4/projects/{project.id}"
            found += [
                ("POST", f"{base}/repository/commits", commit),
                ("DELETE", f"{base}/repository/branches/other", {}),
                ("POST", f"{base}/pipeline", {"ref": "main", "variables": [{"key": "K", "value": "v"}]}),
                ("POST", f"{base}/variables", {"key": "K", "value": "v", "masked": False, "raw": True}),
                ("PUT", f"{base}/variables/CANARY", {"value": "x"}),
                ("PUT", base, {"description": "x", "default_branch": "main", "build_timeout": 3600}),
                ("POST", f"{base}/runners", {"runner_id": self.runner_id}),
                *(("GET", f"{base}{path}", {}) for path in (
                    "", "/jobs", "/pipelines", "/variables", "/repository/tree", "/repository/commits/main",
                    "/runners", "/repository/files/.gitlab-ci.yml?ref=main", "/repository/branches/main",
                    "/jobs/1/trace", f"/pipelines/{self.pipeline.id}/variables", "/registry/repositories")),
            ]  # fmt: skip
            found += [("GET", f"/{project.path_with_namespace}{rest}", {}) for rest in (
                "", ".git/info/refs?service=git-upload-pack", "/-/jobs/1", "/-/pipelines/1")]  # fmt: skip
            found.append(("POST", f"/{project.path_with_namespace}.git/git-upload-pack", {}))
        return [
            *found,
            ("POST", "/api/v4/projects", {"name": "n", "path": "p", "visibility": "private"}),
            ("POST", "/api/v4/user/runners", new),
            (
                "POST",
                "/api/v4/users",
                {"username": "u", "name": "u", "email": "u@example.com", "reset_password": 1},
            ),
            ("GET", "/api/v4/projects?search=secret", {}),
            ("GET", "/api/v4/runners/all", {}),
            ("GET", f"/api/v4/runners/{self.runner_id}", {}),
            (
                "PUT",
                f"/api/v4/runners/{self.runner_id}",
                {"description": "x", "tag_list": ["a"], "paused": False},
            ),
            ("POST", "/api/v4/runners", {"token": "GR1348941x", "info": INFO, "tag_list": "a,b"}),
            ("POST", "/api/v4/runners/verify", runner),
            ("POST", "/api/v4/jobs/request", runner),
            ("PUT", f"/api/v4/jobs/{self.job['id']}", state),
            ("PATCH", f"/api/v4/jobs/{self.job['id']}/trace", {}),
            ("GET", "/api/v4/user", {}),
            ("GET", "/api/v4/personal_access_tokens/self", {}),
            ("GET", "/jwt/auth?service=container_registry&scope=repository:root/secret:pull", {}),
        ]


def test_mutated_requests(fuzzed: tuple[Server, Watched, int], capsys: pytest.CaptureFixture[str]) -> None:
    server, watched, pid = fuzzed
    target, choose = Target(server), random.Random(SEED)
    before = peak_mib(pid)
    for count in range(REQUESTS):
        if count % RENEWED_AFTER == 0:
            target.renew(count + 1)
            known = target.requests()
        method, path, body = choose.choice(known)
        role = choose.choice(("nobody", "wrong", "owner", "owner", "owner", "job"))
        headers = {
            "owner": {"PRIVATE-TOKEN": target.token},
            "job": {"JOB-TOKEN": target.job["token"]},
            "wrong": {"PRIVATE-TOKEN": "glpat-" + "A" * 20},
            "nobody": {},
        }[role]
        if role in ("nobody", "wrong"):
            body = json.loads(json.dumps(body).replace(target.runner, "x").replace(target.job["token"], "y"))
        sent = mutated(choose, method, path, body, headers)
        status, answer = watched.send(sent.wire())
        assert CANARY.encode() not in answer, f"{role} read the secret with {sent}"
        assert not 200 <= status < 300 or role in ("owner", "job"), f"{role} got {status} for {sent}"
        assert server.token.encode() not in answer
    accepted = sum(n for status, n in watched.statuses.items() if 200 <= status < 300)
    assert accepted > REQUESTS / 15, "the owner is refused nearly always: nothing was tried"
    grown = peak_mib(pid) - before
    with capsys.disabled():
        slowest = f"slowest {watched.slowest[1]:.2f} s of processor time"
        found_out = dict(sorted(watched.statuses.items()))
        print(f"\n{REQUESTS} requests, seed {SEED}: {found_out}, {slowest}, {grown:.0f} MiB more memory")
    assert grown < GROWTH_MIB
    found = server.gl.projects.get(target.secret.id)
    assert (found.description, found.variables.get("CANARY").value) == (CANARY, CANARY)
    assert [p.id for p in found.pipelines.list(get_all=True) if p.status == "pending"] == [target.pipeline.id]


def test_mutated_pipeline_files(
    fuzzed: tuple[Server, Watched, int], capsys: pytest.CaptureFixture[str]
) -> None:
    server, watched, pid = fuzzed
    choose = random.Random(SEED)
    project = server.gl.projects.create({"name": "files"})
    commit_to(project, TEXTS[0])
    before = peak_mib(pid)
    for count in range(FILES):
        content = mutated_file(choose, choose.choice(RUNNING), TEXTS).decode("utf-8", "replace")
        commit_to(project, content + f"\n# {count}\n")
        headers = (("PRIVATE-TOKEN", server.token), ("Content-Type", "application/json"))
        sent = Sent("POST", f"/api/v4/projects/{project.id}/pipeline", headers, b'{"ref": "main"}')
        status, _ = watched.send(sent.wire())
        assert status in (201, 400), f"{status} for {content[:2000]!r}"
    grown = peak_mib(pid) - before
    with capsys.disabled():
        slowest = f"slowest {watched.slowest[1]:.2f} s of processor time"
        found_out = dict(sorted(watched.statuses.items()))
        print(f"\n{FILES} pipeline files, seed {SEED}: {found_out}, {slowest}, {grown:.0f} MiB more memory")
    assert grown < GROWTH_MIB
