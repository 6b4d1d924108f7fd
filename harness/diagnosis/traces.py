"""A CI job's log, read as GitLab's viewers read it.

Colours, section marks and the timestamps that gitlab-runner 18.7 and newer put before every line
("2026-11-27T20:51:32.123456Z 00O ") are taken off; what is left is lines, each with the section it stands in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.diagnosis.catalogue import classify
from harness.diagnosis.facts import container_end, containers, pod_facts
from harness.diagnosis.model import Fact, Reason
from harness.errors import Blame

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_SECTION = re.compile(r"section_(start|end):\d+:([\w.-]+)(?:\[[^\]]*\])?\r?")
_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z [0-9a-fA-F]{2}[EO](\+| )?")
"""Time, stream number, E or O for the stream, "+" where the line goes on from the one before."""
_AFTERWARDS = frozenset(
    ("after_script", "upload_artifacts_on_failure", "archive_cache_on_failure", "cleanup_file_variables")
)
"""Sections that run after a script that failed: what they say is not why it did."""
_JOB_FAILED = re.compile(r"^ERROR: (Job|Preparation) failed")
_SCRIPT_FAILED = re.compile(r"exit code \d+$")
_NOISE = re.compile(
    r"^(WARNING! |WARNING: Using|Configure a credential|https://docs\.docker\.com|Run 'docker|See 'docker"
    r"|Usage:|\$ |Cleaning up |Uploading artifacts|Running after|Waiting for pod|ContainersNot|Unschedulable"
    r"|Running on runner-|Executing \"|Skipping Git|Getting source|Preparing |For more details, see"
    r"|#\d+ (\[|DONE|CACHED|sha256|transferring|extracting|exporting|resolve|\.\.\.)|-+$|Dockerfile:\d+$"
    r"|\s*\d+ \| |time=\"[^\"]*\" level=(info|warning))"
)
_VAGUE = frozenset(("ci/script", "ci/system", "ci/not-found", "ci/container-gone", "ci/pod-slow"))
"""Reasons that say little: what stands further up may say more."""
_NEVER_RAN = frozenset(("StartError", "ContainerCannotRun", "OOMKilled"))
"""How a build container ends for which its job is not to blame."""
_LAST_LINES, _FURTHER_LINES = 3, 20
"""The cause is in the last words, mostly; BuildKit says it up to 20 lines before its end."""
_UNSCHEDULABLE = re.compile(r"^\s*Unschedulable: ")
_PULL_WARNING = re.compile(r"^WARNING: (Failed to pull|Event .*(Failed|BackOff))")


@dataclass(frozen=True)
class Line:
    """A line and the section that it stands in ("" before the first)."""

    text: str
    section: str = ""


def read_lines(trace: str) -> list[Line]:
    """The lines of a trace as GitLab keeps it, without what only a viewer needs."""
    found: list[Line] = []
    section = ""
    for raw in trace.split("\n"):
        stamp = _STAMP.match(raw)
        text = raw[stamp.end() :] if stamp else raw
        position = 0
        pieces: list[tuple[str, str]] = []
        for mark in _SECTION.finditer(text):
            pieces.append((section, text[position : mark.start()]))
            section = mark.group(2) if mark.group(1) == "start" else ""
            position = mark.end()
        pieces.append((section, text[position:]))
        goes_on = bool(stamp and stamp.group(1) == "+" and found)
        for where, piece in pieces:
            plain = _COLOUR.sub("", piece).rstrip("\r").rpartition("\r")[2]
            if goes_on and plain:
                found[-1] = Line(found[-1].text + plain, found[-1].section)
            elif plain or len(pieces) == 1:
                found.append(Line(plain, where))
    return found


def plain(trace: str) -> str:
    """The trace as a reader sees it."""
    return "\n".join(line.text for line in read_lines(trace))


def last_words(lines: Sequence[Line], count: int = _FURTHER_LINES) -> list[Line]:
    """What the section that failed said last, without what runs after it and what never is a cause."""
    sections = [line.section for line in lines if line.section and line.section not in _AFTERWARDS]
    failed = sections[-1] if sections else ""
    kept = [
        line
        for line in lines
        if line.text.strip()
        and line.section == failed
        and not _JOB_FAILED.match(line.text)
        and not _NOISE.match(line.text.strip())
    ]
    return kept[-count:]


def why_job_failed(
    trace: str,
    failure: str,
    where: str,
    pod: Mapping[str, Any] | None = None,
    services: Mapping[str, str] = {},
) -> Reason:
    """The reason of a job that failed.

    ``failure`` is GitLab's failure_reason; ``pod`` the build pod as it was last seen; ``services`` the last
    lines of service containers by name.
    """
    lines = read_lines(trace)
    beside = [*_waited(where, lines), *(build_pod_facts(pod, services) if pod is not None else ())]
    words = _words(where, lines)
    near = classify([*beside, *words[:_LAST_LINES]])
    if near is not None and near.id not in _VAGUE:
        return near
    return classify([*beside, *words]) or Reason(
        f"{where}: {failure or 'it failed'}, and its log names no error; it ends: {_end(lines)}",
        Blame.ENVIRONMENT,
        do="see the job's log and the runner's",
        subject=where,
    )


def _words(where: str, lines: Sequence[Line]) -> list[Fact]:
    """The runner's verdict on the job and the script's last words, newest first."""
    verdict = next((it for it in reversed(lines) if _JOB_FAILED.match(it.text)), Line(""))
    words = [_fact(where, line) for line in reversed(last_words(lines))]
    error = _without_hint(verdict.text)
    if not _SCRIPT_FAILED.search(error):
        return [_fact(where, Line(error, verdict.section)), *words] if error else words
    said = words[0].text if words else "it said nothing"
    return [_fact(where, Line(f"{said} ({error})", words[0].seen["section"] if words else "")), *words[1:]]


def _end(lines: Sequence[Line]) -> str:
    return " / ".join([line.text.strip() for line in lines if line.text.strip()][-3:]) or "it is empty"


def _fact(where: str, line: Line) -> Fact:
    return Fact("ci", where, line.text.strip(), seen={"section": line.section, "line": line.text})


def _waited(where: str, lines: Sequence[Line]) -> list[Fact]:
    """What the runner said of the pod while it waited: the error at the end leaves it out."""
    if any(line.section == "step_script" for line in lines):
        return []
    return [
        _fact(where, told[-1])
        for sign in (_UNSCHEDULABLE, _PULL_WARNING)
        if (told := [line for line in lines if sign.match(line.text)])
    ]


def _without_hint(line: str) -> str:
    return line.partition(". Check https://docs.gitlab.com/")[0].strip()


def _has_the_hosts_docker(pod: Mapping[str, Any]) -> bool:
    volumes = pod.get("spec", {}).get("volumes") or ()
    return any((it.get("hostPath") or {}).get("path", "").endswith("/docker.sock") for it in volumes)


def build_pod_facts(pod: Mapping[str, Any], services: Mapping[str, str]) -> list[Fact]:
    """How a build pod and its services ended, as it was last seen."""
    status = pod.get("status", {})
    where = f"pod {pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"
    found = []
    if status.get("phase") == "Failed" and status.get("reason"):
        found.append(Fact("pod", where, str(status.get("message", "")), status["reason"], seen=pod))
    for container in containers(status):
        name = container["name"]
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get(
            "terminated"
        )
        if not ended or not ended.get("exitCode"):
            continue
        if not name.startswith("svc-") and ended.get("reason") not in _NEVER_RAN:
            continue
        if name.startswith("svc-") and _has_the_hosts_docker(pod):
            continue  # where the host's socket is mounted a daemon can't listen, and the job asks the host's
        text = container_end(ended)
        if services.get(name):
            text = f"{text}: {services[name]}"
        here = (
            f"{'service' if name.startswith('svc-') else 'container'} {name} ({container.get('image', '')})"
        )
        found.append(Fact("service", here, text, str(ended.get("reason", "")), seen=pod))
    if status.get("phase") == "Pending":  # the runner says only that time ran out, and has deleted it since
        found += pod_facts({**pod, "metadata": {**pod["metadata"], "deletionTimestamp": None}})
    return found
