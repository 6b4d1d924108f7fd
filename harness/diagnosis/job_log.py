"""What the log of a CI job says (how it is read: traces.py), but for pulls, scheduling and admission."""

from __future__ import annotations

import re

from harness.diagnosis.model import Fact, Rule
from harness.errors import Blame

_ENDED = "the job has ended"
_ARTIFACTS = re.compile(r"(Uploading|Downloading) artifacts\b")


def _rule(id: str, sign: str, meaning: str, do: str, **changes: object) -> Rule:
    given: dict[str, object] = {
        "sources": ("ci",),
        "blame": Blame.ENVIRONMENT,
        "final_after_s": 0.0,
        "why": _ENDED,
        "rank": 60,
    }
    return Rule(id=id, sign=sign, meaning=meaning, do=do, **{**given, **changes})  # type: ignore[arg-type]


def _in_sources(fact: Fact) -> bool:
    return fact.seen.get("section") == "get_sources"


def _of_artifacts(fact: Fact) -> bool:
    """It is said while artifacts go to GitLab or come from there: no registry takes part."""
    section = str(fact.seen.get("section", ""))
    return section.startswith(("upload_artifacts", "download_artifacts")) or bool(
        _ARTIFACTS.search(fact.said)
    )


def _not_of_artifacts(fact: Fact) -> bool:
    return not _of_artifacts(fact)


RULES: tuple[Rule, ...] = (
    _rule(
        "ci/client-too-new",
        r"client version \S+ is too new|Maximum supported API version|client version \S+ is too old",
        "docker's client and its daemon are of generations that don't understand each other",
        "use a docker image and a dind image of one release",
        blame=Blame.PRODUCT,
        rank=72,
    ),
    _rule(
        "ci/dind-needs-privilege",
        r"are you root|must be root|operation not permitted|permission denied|failed to mount|could not mount"
        r"|iptables failed",
        "the docker-dind service may not do what it needs: it has no privilege",
        "set privileged = true in [runners.kubernetes] of the Runner's config.toml",
        sources=("service",),
        blame=Blame.PRODUCT,
        rank=74,
    ),
    _rule(
        "ci/service-ended",
        r"ended (?!0\b)-?\d+",
        "a service container of the job ended before the job did",
        "see the service's own log",
        sources=("service",),
        blame=Blame.PRODUCT,
        rank=66,
    ),
    _rule(
        "ci/no-daemon",
        r"Cannot connect to the Docker daemon|connect to the docker API|docker daemon (is not )?running",
        "the job finds no Docker daemon where it looks for one",
        "see DOCKER_HOST, the service docker-dind, or the socket that is mounted",
        blame=Blame.PRODUCT,
        rank=52,
    ),
    _rule(
        "ci/daemon-lost",
        r"POST \S+ EOF|error during connect.*EOF|unexpected EOF.*daemon|rpc error: .*EOF",
        "the Docker daemon ended in the middle of the job",
        "see the end of the service docker-dind",
        blame=Blame.PRODUCT,
        rank=50,
    ),
    _rule(
        "ci/token-expired",
        r"token (has |is )?expired|jwt.*expired|token.*not valid yet",
        "the registry's token ran out while the job used it",
        "raise the registry's token lifetime in GitLab, or compare the clocks",
        rank=70,
    ),
    _rule(
        "ci/registry-limit",
        r"\b429\b|toomanyrequests|too many requests",
        "a registry limits the rate",
        "wait, log in to it, or use a mirror",
        rank=69,
    ),
    _rule(
        "ci/registry-denied",
        r"denied: |unauthorized|authentication required|access denied|insufficient_scope"
        r"|\b40[13] (Forbidden|Unauthorized)",
        "the registry refuses the job",
        "see the job token's rights in the project, and the clocks of GitLab and registry",
        rank=58,
        when=_not_of_artifacts,
    ),
    _rule(
        "ci/certificate-expired",
        r"certificate has expired or is not yet valid",
        "a certificate has expired, or a clock is wrong",
        "renew the certificate, and compare the clocks",
        rank=71,
    ),
    _rule(
        "ci/untrusted",
        r"x509: |certificate signed by unknown authority|SSL certificate problem|certificate verify failed",
        "the job does not trust the certificate of whom it asks",
        "give the CA to who asks: the job's daemon, the node's Docker, or git",
        rank=64,
    ),
    _rule(
        "ci/plain-http",
        r"server gave HTTP response to HTTPS client",
        "the registry speaks plain HTTP where TLS is due",
        "put TLS in front of the registry, or name it as insecure",
        rank=66,
    ),
    _rule(
        "ci/proxy-login",
        r"\b407\b|proxy authentication required",
        "the proxy on the way wants a login",
        "give the job a proxy address with user and password",
        rank=67,
    ),
    _rule(
        "ci/disk-full",
        r"no space left on device|disk quota exceeded",
        "the node's disk is full",
        "make room on the node's disk",
        rank=73,
    ),
    _rule(
        "ci/dns",
        r"no such host|server misbehaving|temporary failure in name resolution|Could not resolve host"
        r"|: Try again\b|Name or service not known|bad address '",
        "pods of the job can't resolve a name",
        "see cluster DNS, and whether pods may reach it",
        rank=62,
    ),
    _rule(
        "ci/unreachable",
        r"i/o timeout|connection refused|no route to host|network is unreachable|deadline ?exceeded"
        r"|Client\.Timeout|TLS handshake timeout|connection reset|Connection timed out|Failed to connect to"
        r"|Could not connect to server|request canceled while waiting|temporary error \(try again later\)"
        r"|download timed out|^EOF \(ERROR",
        "the job can't reach whom it asks",
        "see the way from the pods to that address: firewall, network policy, proxy",
        rank=61,
    ),
    _rule(
        "ci/server-error",
        r"\b50[0234]\b (Internal|Bad|Service|Gateway)|received unexpected HTTP status: 5\d\d"
        r"|The requested URL returned error: 5\d\d|status: 5\d\d",
        "whom the job asks answers with an error of its own",
        "see the state of the registry or GitLab that the line names",
        rank=60,
    ),
    _rule(
        "ci/no-registry",
        r"login attempt to \S+/v2/\S* failed with status: 40[45]\b",
        "what answers at the registry's address is no registry",
        "see CI_REGISTRY, and what stands in front of the registry",
        rank=59,
    ),
    _rule(
        "ci/upload-lost",
        r"blob upload (unknown|invalid)",
        "the registry lost a layer in the middle of its upload",
        "see the registry's log and its storage; several registries behind one address must share it",
        rank=59,
    ),
    _rule(
        "ci/too-large",
        r"\b413\b|Request Entity Too Large",
        "something in front of the registry refuses so large a layer",
        "raise the limit of the proxy before the registry (nginx: client_max_body_size)",
        rank=58,
        when=_not_of_artifacts,
    ),
    _rule(
        "ci/image-missing",
        r"failed to solve: \S+: .*\bnot found|manifest unknown|manifest for \S+ not found",
        "an image that the job itself names is in no registry",
        "see FROM in the Dockerfile, and what the script pulls",
        blame=Blame.PRODUCT,
        rank=57,
    ),
    _rule(
        "ci/gitlab-refuses",
        r"Authentication failed for|Access denied|repository '.*' not found|could not read Username"
        r"|The requested URL returned error: 40[134]",
        "GitLab refuses the job its own source",
        "see the project and the job token's rights",
        rank=63,
        when=_in_sources,
    ),
    _rule(
        "ci/pod-gone",
        r"pods \"[^\"]*\" not found|pod .* (was deleted|is being deleted)|pod status is failed",
        "the job's pod was taken away while it ran",
        "see what became of the pod: evicted, deleted, node shut down",
        rank=57,
    ),
    _rule(
        "ci/kubernetes-unreachable",
        r"(Post|Get) \"https://[^\"]*/api/v1/[^\"]*\": (dial tcp|(unexpected )?EOF|read tcp|http2: )"
        r"|etcdserver: ",
        "the runner can't reach the Kubernetes API",
        "see the way from the runner's pod to the API server",
        rank=68,
    ),
    _rule(
        "ci/runner-ended",
        r"aborted: terminated|runner_interrupted",
        "the runner was ended while the job ran",
        "see why the runner's pod ended",
        rank=59,
    ),
    _rule(
        "ci/pod-slow",
        r"timed out waiting for pod to start",
        "the job's pod did not start in the runner's time",
        "see the pod's events; poll_timeout in config.toml is the limit",
        rank=32,
    ),
    _rule(
        "ci/too-long",
        r"execution took longer than",
        "the job ran longer than it may",
        "see where it hung; the limit is the project's or the runner's",
        rank=45,
    ),
    _rule(
        "ci/canceled",
        r"Job failed: canceled|^canceled",
        "somebody canceled the job",
        "start it again",
        rank=58,
    ),
    _rule(
        "ci/container-gone",
        r"container not found",
        "the job's container ended before the job began",
        "see how the container ended; an image without a shell ends so",
        rank=33,
    ),
    _rule(
        "ci/artifacts-refused",
        r"\b40[13]\b|unauthorized|forbidden",
        "GitLab refuses the job's token where its artifacts go or come from",
        "see whether the job was canceled or ran too long: its token ends with it",
        rank=69,
        when=_of_artifacts,
    ),
    _rule(
        "ci/artifacts",
        r"(Uploading|Downloading) artifacts .*coordinator|\b[45]\d\d [A-Z]",
        "GitLab does not take or give the job's artifacts",
        "see GitLab's limits and its object storage",
        rank=68,
        when=_of_artifacts,
    ),
    _rule(
        "ci/pull-policy",
        r"pull_policy .* is not one of the allowed_pull_policies",
        "the pipeline asks for a pull policy that the runner does not allow",
        "set allowed_pull_policies in the Runner's config.toml",
        blame=Blame.PRODUCT,
        rank=81,
    ),
    _rule(
        "ci/tls-files",
        r"unable to resolve docker endpoint|open \S+/(ca|cert|key)\.pem: no such file",
        "docker's client does not find the certificates that dind made",
        "share /certs/client between job and service (an empty_dir volume in config.toml)",
        blame=Blame.PRODUCT,
        rank=65,
    ),
    _rule(
        "ci/source",
        r"^fatal: ",
        "git can't get the job's source",
        "see GitLab and the way to it",
        rank=56,
        when=_in_sources,
    ),
    _rule(
        "ci/no-shell",
        r"executable file not found|OCI runtime exec failed|exec: \"sh\"|StartError|ContainerCannotRun",
        "the job's image lacks the program that is to run",
        "use an image with a shell and the tools that the script calls",
        sources=("ci", "service"),
        blame=Blame.PRODUCT,
        rank=48,
    ),
    _rule(
        "ci/not-found",
        r"exit code 127|: (command )?not found",
        "the script calls a program that the image lacks",
        "use an image that has it",
        blame=Blame.PRODUCT,
        rank=40,
    ),
    _rule(
        "ci/killed",
        r"^Killed\b|exit (code|status) 137\b",
        "something of the job was killed: for want of memory, mostly",
        "see the memory of the host and the limits of the namespace",
        rank=41,
    ),
    _rule(
        "ci/script",
        r"exit (code|status) \d+|script_failure",
        "the job's script failed",
        "see the job's log",
        blame=Blame.PRODUCT,
        rank=20,
    ),
    _rule(
        "ci/system",
        r"system failure|runner_system_failure",
        "the runner could not run the job, for a reason that is not known here",
        "see the job's log and the runner's",
        blame=Blame.ENVIRONMENT,
        rank=22,
    ),
)
