"""`python -m bench gitlab`: the embedded GitLab's speed and memory, over loopback, as its clients see them.

Start-up: from the process being started to its first answer. Job request: one without a job, while 50 poll.
Hand-out: from the pipeline being asked for to the job in the hands of a runner whose request is open.
Memory: growth of the process's peak while a log grows to the limit in pieces of 1 MiB and is read back.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gitlab
import httpx

from bench.machine import describe
from harness.gitlab.embedded import EmbeddedGitLab

RUNNERS = 50
START_GOAL_S, REQUEST_GOAL_S, HAND_OUT_GOAL_S, MEMORY_GOAL_MIB = 1.0, 0.020, 0.200, 50.0
_EVERY_S = 1.0
"""How often each runner asks; gitlab-runner asks every 3 s, the operator's every 30 s."""
_MIB = 1024 * 1024
_CI_FILE = "build:\n  tags: [bench]\n  script: [echo]\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when every goal is met."""
    parser = argparse.ArgumentParser(prog="python -m bench gitlab", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of polling")
    parser.add_argument("--rounds", type=int, default=20, help="of handing out; a quarter of it of starting")
    parser.add_argument("--log-mib", type=int, default=99, help="size of the log; the limit is 100")
    options = parser.parse_args(argv)
    print(describe())
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        starts = [start_up(base / f"start-{count}") for count in range(max(3, options.rounds // 4))]
        with EmbeddedGitLab("127.0.0.1", base / "polling", long_poll_s=0) as process:
            requests = asyncio.run(polling(process, options.seconds))
        with EmbeddedGitLab("127.0.0.1", base / "held", long_poll_s=60) as process:
            hand_outs = hand_out(process, options.rounds)
        with EmbeddedGitLab("127.0.0.1", base / "memory") as process:
            growth, whole = memory(process, options.log_mib)
    results = [
        ("start-up, median", statistics.median(starts), START_GOAL_S, "s"),
        (f"job request, median of {len(requests)}", statistics.median(requests), REQUEST_GOAL_S, "s"),
        ("hand-out, median", statistics.median(hand_outs), HAND_OUT_GOAL_S, "s"),
        ("hand-out, worst", max(hand_outs), HAND_OUT_GOAL_S, "s"),
        (f"memory growth, log of {options.log_mib} MiB", growth, MEMORY_GOAL_MIB, "MiB"),
    ]
    print("| what | measured | goal |\n|---|---|---|")
    for name, value, goal, unit in results:
        print(f"| {name} | {value:.3f} {unit} | {goal:g} {unit} |")
    print(
        f"job request: 95 of 100 within {quantile(requests, 0.95) * 1000:.1f} ms; peak memory {whole:.0f} MiB"
    )
    return 0 if all(value <= goal for _, value, goal, _ in results) else 1


def quantile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of them don't exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def start_up(directory: Path) -> float:
    """Seconds from nothing to the first answer."""
    begin = time.monotonic()
    with EmbeddedGitLab("127.0.0.1", directory) as process:
        assert process.healthy()
        return time.monotonic() - begin


def prepared(process: EmbeddedGitLab, runners: int) -> tuple[Any, list[str]]:
    """A project whose pipeline has one job, and the tokens of its runners."""
    client = gitlab.Gitlab(process.url, private_token=process.token.reveal())
    client.auth()
    assert client.user is not None
    project = client.projects.create({"name": "bench"})
    action = {"action": "create", "file_path": ".gitlab-ci.yml", "content": _CI_FILE}
    project.commits.create({"branch": "main", "commit_message": "x [skip ci]", "actions": [action]})
    wanted = {"runner_type": "project_type", "project_id": project.id, "tag_list": ["bench"]}
    return project, [str(client.user.runners.create(wanted).token) for _ in range(runners)]


async def polling(process: EmbeddedGitLab, seconds: float) -> list[float]:
    """Seconds of each request while all runners poll."""
    _, tokens = prepared(process, RUNNERS)
    times: list[float] = []
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=RUNNERS, max_keepalive_connections=RUNNERS)
    async with httpx.AsyncClient(base_url=process.url, trust_env=False, limits=limits, timeout=30) as http:

        async def one(index: int, token: str) -> None:
            body: dict[str, Any] = {"token": token, "system_id": f"s_{index}", "info": {"version": "16.0.1"}}
            await asyncio.sleep(_EVERY_S * index / RUNNERS)  # runners aren't in step
            while time.monotonic() < end:
                begin = time.monotonic()
                answer = await http.post("/api/v4/jobs/request", json=body)
                times.append(time.monotonic() - begin)
                assert answer.status_code == 204, answer.text
                await asyncio.sleep(max(0.0, begin + _EVERY_S - time.monotonic()))

        await asyncio.gather(*(one(index, token) for index, token in enumerate(tokens)))
    return times


def hand_out(process: EmbeddedGitLab, rounds: int) -> list[float]:
    """Seconds from the request for a pipeline to its job arriving, while the other runners wait too."""
    project, tokens = prepared(process, RUNNERS)
    times: list[float] = []
    arrived = threading.Event()
    taken: list[tuple[float, dict[str, Any]]] = []
    ended = threading.Event()

    def wait(token: str) -> None:
        body = {"token": token, "system_id": "s_bench"}
        with httpx.Client(base_url=process.url, trust_env=False, timeout=90) as http:
            while not ended.is_set():
                try:
                    answer = http.post("/api/v4/jobs/request", json=body)
                except httpx.TransportError:
                    return  # the process has been stopped
                body["last_update"] = answer.headers.get("X-GitLab-Last-Update", "")
                if answer.status_code == 201:
                    taken.append((time.monotonic(), answer.json()))
                    arrived.set()

    threads = [threading.Thread(target=wait, args=(token,), daemon=True) for token in tokens]
    for thread in threads:
        thread.start()
    with httpx.Client(base_url=process.url, trust_env=False) as http:
        for _ in range(rounds):
            time.sleep(0.5)  # until all requests are held again
            arrived.clear()
            begin = time.monotonic()
            project.pipelines.create({"ref": "main"})
            assert arrived.wait(30), "the job was not handed out"
            at, job = taken[-1]
            times.append(at - begin)
            http.put(f"/api/v4/jobs/{job['id']}", json={"token": job["token"], "state": "success"})
    ended.set()
    return times


def memory(process: EmbeddedGitLab, mib: int) -> tuple[float, float]:
    """Growth of the process's peak memory, and the peak, in MiB."""
    project, (token,) = prepared(process, 1)
    project.pipelines.create({"ref": "main"})
    with httpx.Client(base_url=process.url, trust_env=False, timeout=60) as http:
        job = http.post("/api/v4/jobs/request", json={"token": token}).json()
        before, piece = peak_mib(process.pid), b"x" * _MIB
        for count in range(mib):
            span = f"{count * _MIB}-{(count + 1) * _MIB - 1}"
            headers = {"JOB-TOKEN": job["token"], "Content-Range": span, "Content-Type": "text/plain"}
            answer = http.patch(f"/api/v4/jobs/{job['id']}/trace", content=piece, headers=headers)
            assert answer.status_code == 202, answer.text
        size = 0
        path = f"/api/v4/projects/{project.id}/jobs/{job['id']}/trace"
        with http.stream("GET", path, headers={"PRIVATE-TOKEN": process.token.reveal()}) as log:
            for chunk in log.iter_bytes():
                size += len(chunk)
        assert size == mib * _MIB
    after = peak_mib(process.pid)
    return after - before, after


def peak_mib(pid: int) -> float:
    """The kernel's peak of a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM in /proc")
