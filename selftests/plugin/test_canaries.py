"""Canaries: secrets planted wherever a run has some, talkative options, failing tests; none gets out.

Every byte that the run prints or writes is searched, in every form, and every process's arguments.
"""

from __future__ import annotations

import base64
import html
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

_NAMES = (
    "CI_JOB_TOKEN",
    "GITLAB_TOKEN",
    "REGISTRY_PASSWORD",
    "DOCKER_PASSWD",
    "MY_SECRET",
    "SOME_API_KEY",
    "DEPLOY_PRIVATE_KEY",
    "NPM_AUTH_TOKEN",
    "CLOUD_CREDENTIALS",
    "SENTRY_SECRET",
)
IN_ENVIRONMENT = {name: f"k4n4ry/{number:02d}+&\"'<{name.lower()}>" for number, name in enumerate(_NAMES)}
IN_PROXIES = {name: f"k4n4ry-{name.lower()}-pw" for name in ("HTTP_PROXY", "HTTPS_PROXY")}
BORN = [f"k4n4ry born {number:02d} /+\"'\\&<ü" for number in range(14)]
"""Registered while the run is on, as tokens that a GitLab hands out are."""
SHAPED = [
    "glpat-" + "k4n4ryK4N4RY0123",
    "glrt-" + "k4n4ryK4N4RY4567",
    "eyJ" + "k4n4ry0" * 3 + ".aaaaaaaaaa.bbbbbbbbbb",
]
"""Known to nobody, cut by what they look like."""

TESTS = '''
    import base64, html, json, logging, os, sys, urllib.parse, warnings
    from harness.errors import EnvironmentProblem
    from harness.redact import register

    LOG = logging.getLogger("canaries")
    ENVIRONMENT = [value for name, value in os.environ.items() if "k4n4ry" in value and "PROXY" not in name]
    PROXIES = [value for name, value in os.environ.items() if "k4n4ry" in value and "PROXY" in name]
    BORN = [register(text) for text in json.loads(os.environ["CANARIES_BORN"].replace("~", "k4n4ry"))]
    SHAPED = json.loads(os.environ["CANARIES_SHAPED"].replace("~", "k4n4ry"))
    ALL = [*ENVIRONMENT, *PROXIES, *SHAPED, *(it.reveal() for it in BORN)]

    def forms(text):
        yield text
        yield repr(text)
        yield json.dumps(json.dumps({"token": text}))
        yield html.escape(text)
        yield urllib.parse.quote(text, safe="")
        for before in ("", "a", "ab"):
            yield base64.b64encode((before + text + " rest").encode()).decode()

    def say(where):
        for text in ALL:
            for form in forms(text):
                print(f"{where}: {form}")
                print(f"{where}: {form}", file=sys.stderr)
                LOG.debug("%s: %s", where, form)
            warnings.warn(f"{where}: {text}")

    @pytest.fixture
    def talkative():
        say("setup")
        yield
        say("teardown")
        raise EnvironmentProblem(f"teardown with {ALL}")

    @outcome("cluster/node")
    def test_node(cluster, talkative):
        """One node.

        How-to, "k3s": one node Ready.
        """
        local = {"all": ALL}
        say("call")
        try:
            raise ValueError(f"inner {ALL}")
        except ValueError:
            LOG.exception("failed with %s", ALL)
        assert ALL == ["nothing"], f"expected {ALL}"

    @outcome("olm/catalog")
    def test_catalog(olm):
        """The catalog.

        How-to, "OLM": READY.
        """
        local = list(ALL)
        raise RuntimeError(f"defect {local}")

    @pytest.mark.parametrize("number", range(2))
    @outcome("olm/skipped-{number}")
    def test_skipped(number):
        """Skipped.

        How-to, "OLM": skipped.
        """
        pytest.skip(f"because of {ALL}")

    def test_without_an_outcome():
        local = list(ALL)
        say("plain")
        assert local == 3, f"plain {ALL}"
'''

TALKATIVE = (
    "-vv",
    "-rA",
    "--showlocals",
    "--tb=long",
    "--log-level=DEBUG",
    "--log-file=run.log",
    "--log-file-level=DEBUG",
    "--capture=tee-sys",
    "-o",
    "junit_logging=all",
    "--color=yes",
    "--durations=0",
)


def forms(text: str) -> Iterator[bytes]:
    """A secret as it might be found: whole, or the part of its base64 that depends on it alone."""
    for form in (text, repr(text)[1:-1], json.dumps(text)[1:-1], html.escape(text), quote(text, safe="")):
        yield form.encode()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + text.encode()).decode().rstrip("=")
        yield encoded[4:-4].encode()


def found_in(data: bytes, canaries: list[str]) -> list[str]:
    found = [f"{text!r} as {form!r}" for text in canaries for form in forms(text) if form in data]
    # of what nobody registered, only the token itself can be known by its look
    return found + [text for text in SHAPED if text.encode() in data]


class Arguments(threading.Thread):
    """Reads the arguments of every process of this host, again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.seen = b""

    def run(self) -> None:
        while not self.ended.wait(0.2):
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen += entry.read_bytes() + b"\n"
                except OSError:
                    continue
            self.seen = b"\n".join({*self.seen.splitlines()})


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "workers"])
def test_no_canary_gets_out(project, workers):
    project.test(TESTS)
    canaries = [*IN_ENVIRONMENT.values(), *IN_PROXIES.values(), *BORN]
    assert len(canaries) + len(SHAPED) >= 25
    environment = {
        **os.environ,
        **IN_ENVIRONMENT,
        **{name: f"http://user:{quote(value)}@proxy.example:3128" for name, value in IN_PROXIES.items()},
        "CANARIES_BORN": json.dumps(BORN).replace("k4n4ry", "~"),
        "CANARIES_SHAPED": json.dumps(SHAPED).replace("k4n4ry", "~"),
    }
    live = () if workers else ("--log-cli-level=DEBUG",)
    command = [sys.executable, "-m", "pytest", *TALKATIVE, *live, *workers, "tests"]
    arguments = Arguments()
    arguments.start()
    done = subprocess.run(
        command, cwd=project.pytester.path, env=environment, capture_output=True, timeout=300
    )
    arguments.ended.set()
    arguments.join()
    assert project.document()["verdict"]["word"] == "DOES NOT CONFORM", done.stdout.decode()[-3000:]
    sinks = {"output": done.stdout + done.stderr, "arguments": arguments.seen}
    for file in project.pytester.path.rglob("*"):
        if file.is_file() and "tests" not in file.relative_to(project.pytester.path).parts:
            sinks[str(file.relative_to(project.pytester.path))] = file.read_bytes()
    assert {"report/junit.xml", "report/report.html", "report/conformance.json", "run.log"} <= sinks.keys()
    assert sinks["output"].count(b"[redacted]") > len(canaries)
    leaks = {name: found for name, data in sinks.items() if (found := found_in(data, canaries))}
    assert leaks == {}
