"""What of the runner under test is compared with the recordings of gitlab-runner 16.0.1, and what is not.

The runner under test is the lab's stand-in, or the program that GITLAB_RUNNER names: the real one must pass.
"""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORDINGS = Path(__file__).parent / "recordings" / "runner"
STANDIN = Path(__file__).parents[2] / "lab" / "standins" / "gitlab_runner"
HELPER_IMAGE = (
    "registry.gitlab.com/gitlab-org/ci-cd/gitlab-runner-ubi-images/gitlab-runner-helper-ocp:v16.0.1"
)

# Recorded, and on purpose not done by the stand-in or not compared here.
LEFT_OUT = {
    "artifacts*, cache*, job dependencies": "neither the how-to's job nor its failures use them",
    "debug-trace": "the scripts' text is the runner's own affair; only their effects are compared",
    "reset-token, health-check, exec, install, run-single, --help texts": "nothing in the chain calls them",
    "goroutine dump of the short-token panic": "only its first line and the exit code are compared",
    "wording of a TOML syntax error": "the parser's own words",
    "several pull policies, services in config.toml, overwrite variables": "not in the how-to",
    "submodules, git-lfs, GIT_CLEAN_FLAGS, hooks, session server": "not in the how-to",
    "exact times, number of log patches and of GET pod": "they depend on the machine's speed",
    "clone_url, a CA of their own for git in the helper, proxies": "the how-to's GitLab needs none of them",
    "rbac-*, quota, service-account-missing": "the API server's own words, as for namespace and PSA",
    "unschedulable": "180 s of waiting; the text of the wait is the same as while an image is pulled",
    "seed-job-*, dind-*, private-image-*, registry-*": "need Docker and a registry: the suite's own tests",
    "gitlab-unreachable-*": "compared by hand only: needs a server that goes away",
    "CI_DEBUG_TRACE off switch, custom ports, Windows, other executors": "not in the how-to",
    "branch, Go version, build date in --version and User-Agent": "the stand-in says there that it is one",
}


# The recorded script races with itself: busybox's cat asks for more after the end of the file; when head has
# gone by then it dies of SIGPIPE, which pipefail makes the end of the job (exit code 141, seen under load).
RACING, SAME_WITHOUT_RACE = "cat /etc/passwd | head -1", "head -1 /etc/passwd"


def recording(name: str) -> Any:
    """One file of the trimmed recordings."""
    return json.loads((RECORDINGS / f"{name}.json").read_text().replace(RACING, SAME_WITHOUT_RACE))


def command() -> list[str]:
    """How to start the runner under test."""
    if program := os.environ.get("GITLAB_RUNNER"):
        return [program]
    start = f"import sys; sys.path.insert(0, {str(STANDIN)!r}); from glrunner.cli import main"
    return [sys.executable, "-c", start + "; sys.exit(main(sys.argv[1:]))"]


def plain_output(text: str, places: Mapping[str, str]) -> list[str]:
    """The runner's output line by line, with process ids, times and ids replaced."""
    for found, shown in places.items():
        text = text.replace(found, shown)
    text = re.sub(r"(pid\x1b\[0;m=)\d+", r"\1PID", text)
    text = re.sub(r"\b[sr]_\w{12}\b", "SYSTEM", text)
    text = re.sub(r"20\d\d-\d\d-\d\dT[\d:]+Z", "TIME", text)
    text = re.sub(r"Git branch: .*|GO version: .*|Built: .*", "", text)
    text = re.sub(r"toml: .*|Expected .*", "<parser's words>", text)
    text = re.sub(r" +(?=\x1b\[0;m)", " ", text)  # padding depends on the length of paths
    return text.partition("goroutine 1 [running]")[0].rstrip().splitlines()


@dataclass
class JobCase:
    """One job: its payload, the answers GitLab gives meanwhile, and what the real runner did."""

    name: str
    payload: dict[str, Any]
    records: Sequence[Mapping[str, Any]]
    log: str
    updates: Sequence[Mapping[str, Any]]
    kubernetes: dict[str, Any] = field(default_factory=dict)
    signals: Sequence[tuple[float, str]] = ()
    output_limit_kib: int = 0


def plain_log(text: str) -> list[str]:
    """A job's log without what differs from run to run: ids, times, addresses, waiting, ticks."""
    text = re.sub(
        r"section_start:\d+:upload_artifacts(?s:.*)section_end:\d+:upload_artifacts\w+\r\x1b\[0K", "", text
    )
    # containerd says why at the first attempt, and that it waits in between: which one is seen is chance
    text = re.sub(
        r'(image pull failed: )(rpc error: .*?: not found|Back-off pulling image "[^"]*")', r"\1WHY", text
    )
    text = re.sub(r"section_(start|end):\d+:", r"section_\1:T:", text)
    text = re.sub(r"runner-[a-z0-9-]+-project-(\d+)-concurrent-\d+\w{5}", r"runner-X-project-\1-X", text)
    text = re.sub(r"(Running on \S+) via .*\.\.\.", r"\1 via HOST...", text)
    text = re.sub(r"  on demo-runner \S+, system ID: \w+", "  on demo-runner X", text)
    text = re.sub(r"Checking out (?!1111)\w{8}", "Checking out SHA", text)
    text = re.sub(r"-(\d+)-\d+/", r"-\1-JOB/", text)  # /scripts-2-1002/
    text = re.sub(r"http://[\d.]+:\d+", "http://GITLAB", text)
    text = re.sub(r"\b[0-9a-f]{40}\b", "SHA40", text)
    text = re.sub(r"refs/pipelines/\d+", "refs/pipelines/N", text)
    text = re.sub(r"eval: line \d+", "eval: line N", text)
    skip = re.compile(
        r"Waiting for pod |\t[A-Z]\w+: |(tick|line) \d+|total \d|[d-][rwx-]{9} |uid=|"
        r"\d+\.\d+\.\d+\.\d+\trunner|CI_CONCURRENT_ID="
    )
    return [line for line in text.split("\n") if not skip.match(line)]


def conversation(exchanges: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The requests of one job as steps; patches that go on where the last was accepted are one step."""
    steps: list[Any] = []
    accepted, last_start = 0, -1
    for one in exchanges:
        status = one["answer"]["status"]
        if one["method"] == "PATCH":
            start, end = (int(part) for part in one["content_range"].split("-"))
            where = "on" if start == accepted else "again" if start == last_start else f"from {start}"
            last_start = start
            state = one["answer"].get("headers", {}).get("Job-Status", "")
            if status == 202 and state not in ("canceled", "failed"):
                accepted = end + 1
            elif status == 416:
                accepted = int(one["answer"].get("headers", {}).get("Range", "0-0").rpartition("-")[2])
            step: Any = ["PATCH", where, status]
            if steps and steps[-1] == step == ["PATCH", "on", 202]:
                continue
        elif one["method"] == "PUT":
            body = one["json"]
            step = ["PUT", *(body.get(key) for key in ("state", "failure_reason", "exit_code")), status]
        else:
            step = [one["method"], one["path"].partition("?")[0].rpartition("/")[2], status]
            if status == 204:
                continue
        steps.append(step)
    return steps
