"""Slips: runs of a copy of this project in which a file of the how-to says something else than it should.

What a pipeline or a second cluster did can't be broken afterwards; so the files are wrong from the start.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fixtures.plugin.catalogue import ROOT
from selftests.faults import strike
from selftests.faults.run import Wanted, beside, run_outcomes, test_of, wrong_with
from selftests.faults.seen import Record, Seen
from selftests.faults.steps import SUBSTITUTES, BundleStep, Withhold, copy_bundle

PRIVILEGED = "  [runners.kubernetes]\n    privileged = true\n"
SOCKET = (
    "    [runners.kubernetes.volumes]\n      [[runners.kubernetes.volumes.host_path]]\n"
    '        name = "docker"\n        mount_path = "/var/run/docker.sock"\n'
    '        host_path = "/var/run/docker.sock"\n'
)


@dataclass(frozen=True)
class Slip:
    """``file`` below the project has ``new`` for ``old``; ``red``: outcome → what its reason must say.

    ``rule`` must explain it, and ``blame`` be at fault; empty: left open.
    """

    what: str
    red: Mapping[str, str]
    file: str = ""
    old: str = ""
    new: str = ""
    rule: str = ""
    blame: str = "product"


@dataclass(frozen=True)
class Run:
    """Slips that don't disturb each other, in one run; on a changed bundle, or struck while it goes on."""

    slips: tuple[Slip, ...]
    bundle: tuple[BundleStep, ...] = ()
    strike: str = ""


RUNS: tuple[Run, ...] = (
    Run(
        (
            Slip(
                "`privileged = true` in custom-config.toml",
                {
                    "docker-sock/build-pod": "the build container is privileged",
                    "docker-sock/build/pod": r"privileged containers: \['build'",
                },
                "fixtures/files/custom-config.toml",
                "  [runners.kubernetes]\n",
                PRIVILEGED,
            ),
            Slip(
                "`privileged = true` and docker.sock in the default Runner's config.toml",
                {
                    "daemonless/build/pod": r"privileged containers: \['build'",
                    "daemonless/nothing-of-the-host": r"it mounts \['/var/run/docker\.sock'\]",
                    "pipeline/seed-job-without-docker": "the job is success",
                },
                "fixtures/files/plain-config.toml",
                "  [runners.kubernetes]\n",
                PRIVILEGED + SOCKET,
            ),
            Slip(
                "a second service in .gitlab-ci.yml",
                {"pipeline/dind/pod": r"the pod has .*'svc-1'"},
                "fixtures/files/gitlab-ci-dind.yml",
                "    - docker:20.10.7-dind\n",
                "    - docker:20.10.7-dind\n    - registry:2\n",
            ),
            Slip(
                "a second service in .gitlab-ci.yml",
                {"pipeline/dind-tls/pod": r"the pod has .*'svc-1'"},
                "fixtures/files/gitlab-ci-dind-tls.yml",
                "    - docker:20.10.7-dind\n",
                "    - docker:20.10.7-dind\n    - registry:2\n",
            ),
            Slip(
                "a Dockerfile whose RUN ends well where it should fail",
                {"pipeline/failing-build": "success, success"},
                "fixtures/files/Dockerfile.failing",
                "exit 3",
                "exit 0",
            ),
            Slip(
                "the other job has the Runner's tag",
                {"pipeline/other-tag": "the job is (running|success|failed)"},
                "fixtures/files/gitlab-ci-other-tag.yml",
                "not-jh",
                "jh",
            ),
        )
    ),
    Run(
        (
            Slip(
                "gcr.io can be reached from the second cluster",
                {"kube-rbac-proxy/pull-fails": "kube-rbac-proxy:v0.8.0 can't be pulled: failed"},
                "fixtures/steps/second_cluster.py",
                "unreachable_registries=(self._replacement.registry,)",
                "unreachable_registries=()",
                rule="suite/within-reach",
                blame="suite",
            ),
        ),
    ),
    Run(
        (
            Slip(
                "the node that should have no Docker has it",
                # It fails there too: the engine does not know the CA of the first cluster's registry.
                {"docker-sock/node-without-docker": "x509: certificate signed by unknown authority"},
                "fixtures/steps/second_cluster.py",
                "docker_engine=False",
                "docker_engine=True",
                blame="environment",
            ),
            Slip(
                "`DOCKER_HOST` with the port of TLS, in the job with the how-to's own images",
                {"pipeline/dind/as-written": "is failed"},
                "fixtures/steps/runner_setups.py",
                'text.replace("v1.0.0", AS_WRITTEN_TAG)',
                'text.replace("v1.0.0", AS_WRITTEN_TAG).replace(":2375", ":2376")',
            ),
            Slip(
                "`DOCKER_HOST` with the port of plain TCP, in the job with TLS",
                {"pipeline/dind-tls/succeeds": "is failed: the job finds no Docker daemon"},
                "fixtures/files/gitlab-ci-dind-tls.yml",
                "tcp://docker:2376",
                "tcp://docker:2375",
                rule="ci/no-daemon",
            ),
        ),
    ),
    Run(
        (
            Slip(
                f"{' and '.join(SUBSTITUTES)} are in no registry",
                {"kube-rbac-proxy/replaced": r"has no image docker\.io/kubesphere/kube-rbac-proxy:v0\.8\.0"},
                blame="environment",
            ),
        ),
        bundle=tuple(map(Withhold, SUBSTITUTES)),
    ),
    Run(
        (
            Slip(
                "an OLM that says Succeeded before the Deployment is available",
                {"kube-rbac-proxy/csv-waits": "the CSV's phase is Succeeded"},
            ),
        ),
        strike="hasty-csv",
    ),
    Run(
        (
            Slip(
                "a config.toml that is no TOML, in the ConfigMap that the Runner names",
                {"docker-sock/host-path": "toml|TOML|config"},
                "fixtures/files/custom-config.toml",
                "  [runners.kubernetes]\n",
                "  [runners.kubernetes\n",
                rule="runner/config",
            ),
            Slip(
                "docker-dind without privilege",
                {"pipeline/dind/succeeds": "permission denied|are you root|not permitted|must be root"},
                "fixtures/files/dind-config.toml",
                "    privileged = true\n",
                "",
                rule="ci/dind-needs-privilege",
            ),
        ),
    ),
    Run(
        (
            Slip(
                "the token under a key that the operator does not read",
                {"runner/pod": "key not found"},
                "fixtures/steps/runner_setups.py",
                "key, *_ = facts.TOKEN_KEYS.at(context.profile.operator.version)",
                'key = "token"',
                rule="operator/secret-key",
            ),
        ),
    ),
)


def see(bundle: Path, scratch: Path, only: str, record: Record) -> None:
    """Make each run with its slips."""
    for number, run in enumerate(RUNS):
        matches = any(re.search(only, it) for slip in run.slips for it in (slip.what, *slip.red))
        if matches and any(record.wants("slips", slip.what, slip.red) for slip in run.slips):
            _see(run, bundle, scratch / f"slips-{number}", record)


def _see(run: Run, bundle: Path, scratch: Path, record: Record) -> None:
    project, own = scratch / "project", scratch / "bundle"
    scratch.mkdir()
    copy_project(project)
    for slip in run.slips:
        if slip.file:
            _edit(project / slip.file, slip.old, slip.new)
    copy_bundle(bundle, own)
    for step in run.bundle:
        step.damage(own)
    outcomes = [outcome for slip in run.slips for outcome in slip.red]
    ended = run_outcomes(
        *(["-p", strike.__name__] if run.strike else []),
        "--artifacts",
        str(own),
        *map(test_of, outcomes),
        report=scratch / "report",
        project=project,
        environment={strike.VARIABLE: run.strike} if run.strike else {},
    )
    if not ended.document:
        record.complain(f"{', '.join(outcomes)}: pytest ended with {ended.code}:\n{ended.output[-3000:]}")
        return
    for slip in run.slips:
        for outcome, reason in slip.red.items():
            entry = ended.entry(outcome)
            if wrong := wrong_with(entry, Wanted(reason, slip.blame, slip.rule)):
                record.complain(f"{outcome}: {slip.what}: {wrong}")
            else:
                record.see(Seen.of("slips", slip.what, outcome, entry))
    record.complain(*beside(ended, outcomes, (), ()))


def copy_project(target: Path) -> None:
    """What git knows of this project, as it is in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    if old not in text:
        raise SystemExit(f"{path} does not contain {old!r}")
    path.write_text(text.replace(old, new))
