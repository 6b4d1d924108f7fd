"""What differs between versions of what is verified, and from which version on. Layers and tests ask here.

``python -m harness.versions.page`` renders it as docs/versions.md. A new version that no row knows is judged
by the newest one. Names that a cluster tells by itself (a CSV's Deployments, its images) are read there; the
rows about them say what a version of the operator is known to have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.versions.table import Difference, Row

_CSV = "CSV {} in k8s-operatorhub/community-operators"
_RUNNER_DOCS = "gitlab-runner, docs/configuration/configuring_runner_operator.md"
_CLI = "docker/cli {}, its client library's {}"
_OLM = "operator-lifecycle-manager {}, {}"

# -- k3s ----------------------------------------------------------------------------------------------------

NODE_ROLES: Difference[frozenset[str]] = Difference(
    "k3s",
    "roles of its one node",
    (
        Row("", frozenset({"control-plane", "master"}), "the how-to's listing; k3s issue 3998"),
        Row("1.34.0", frozenset({"control-plane"}), "k3s pull request 12395; no backport (12406)"),
    ),
)

OPTIONAL_FLAGS: tuple[Difference[bool], ...] = tuple(
    Difference(
        "k3s",
        f"`k3s server` has {flag}",
        (Row("", False, without), Row(since, True, source)),
    )
    for flag, since, without, source in (
        (
            "--disable-helm-controller",
            "1.22.2",
            "k3s v1.21.2: flag provided but not defined",
            "k3s pull request 3515, seen in v1.22.2 (k3s issue 1445)",
        ),
        (
            "--disable-default-registry-endpoint",
            "1.29.1",
            "k3s's page on private registries",
            "the same; also in 1.26.13, 1.27.10 and 1.28.6",
        ),
    )
)
"""Flags of ours that not every release from 1.21 on has; k3s.py asks the program's own help for them."""

# -- cert-manager -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kubernetes:
    """Minor releases 1.``oldest`` to 1.``newest`` of Kubernetes."""

    oldest: int
    newest: int

    def __str__(self) -> str:
        return f"1.{self.oldest} to 1.{self.newest}"


_SUPPORTED = "cert-manager's page of releases, 2026-08-22"
CERT_MANAGER_KUBERNETES: Difference[Kubernetes] = Difference(
    "cert-manager",
    "Kubernetes that its maintainers support it on",
    tuple(
        Row(f"1.{minor}.0", Kubernetes(*range_), _SUPPORTED)
        for minor, range_ in {
            0: (11, 21),
            2: (16, 21),
            5: (16, 22),
            6: (17, 22),
            7: (18, 23),
            8: (19, 24),
            9: (20, 24),
            10: (20, 26),
            11: (21, 27),
            12: (22, 32),
            13: (21, 27),
            14: (24, 31),
            15: (25, 32),
            17: (29, 33),
            19: (31, 35),
            20: (32, 35),
            21: (33, 36),
        }.items()
    ),
)

# -- OLM ----------------------------------------------------------------------------------------------------

PACKAGE_ENTRIES: Difference[bool] = Difference(
    "olm",
    "a PackageManifest lists all entries of a channel",
    (
        Row("", False, _OLM.format("v0.22.0", "packagemanifest_types.go: a channel has currentCSV alone")),
        Row("0.23.0", True, _OLM.format("v0.23.0", "packagemanifest_types.go: status.channels[].entries")),
    ),
)

_CRDS = (
    "catalogsources",
    "clusterserviceversions",
    "installplans",
    "operatorgroups",
    "operators",
    "subscriptions",
)
OLM_CRDS: Difference[tuple[str, ...]] = Difference(
    "olm",
    "kinds that it brings along (group operators.coreos.com)",
    (
        Row("", _CRDS, _OLM.format("v0.17.0", "deploy/chart/crds")),
        Row("0.18.0", (*_CRDS, "operatorconditions"), _OLM.format("v0.18.0", "deploy/chart/crds")),
        Row("0.20.0", (*_CRDS, "olmconfigs", "operatorconditions"), _OLM.format("v0.20.0", "the same")),
    ),
)

UNPACKER_IMAGE: Difference[str] = Difference(
    "olm",
    "image that unpacks a bundle",
    (
        Row(
            "",
            "quay.io/operator-framework/upstream-opm-builder:latest",
            _OLM.format("v0.19.0 to v0.24.0", "cmd/catalog/main.go: --opmImage"),
        ),
        Row(
            "0.25.0",
            "quay.io/operator-framework/opm:latest",
            _OLM.format("v0.25.0", "cmd/catalog/main.go: --opmImage"),
        ),
    ),
)

OLM_KUBERNETES: Difference[int] = Difference(
    "olm",
    "minor release of Kubernetes whose client it is built with",
    tuple(
        Row(version, minor, _OLM.format(f"v{version}", "go.mod: k8s.io/client-go"))
        for version, minor in {
            "0.17.0": 18,
            "0.18.0": 20,
            "0.19.0": 22,
            "0.21.0": 23,
            "0.22.0": 24,
            "0.23.0": 25,
            "0.24.0": 26,
            "0.26.0": 27,
            "0.27.0": 28,
            "0.28.0": 29,
            "0.29.0": 31,
            "0.31.0": 32,
            "0.33.0": 33,
            "0.36.0": 34,
            "0.40.0": 35,
            "0.45.0": 36,
        }.items()
    ),
)

# -- GitLab Runner Operator ---------------------------------------------------------------------------------

_RUNNER_IMAGES = "registry.gitlab.com/gitlab-org/ci-cd/gitlab-runner-ubi-images"
_OPERATOR_IMAGES = "registry.gitlab.com/gitlab-org/gl-openshift/gitlab-runner-operator"
HELPER_REPOSITORY = f"{_RUNNER_IMAGES}/gitlab-runner-helper-ocp"
RUNNER_REPOSITORY = f"{_RUNNER_IMAGES}/gitlab-runner-ocp"
OPERATOR_REPOSITORY = f"{_OPERATOR_IMAGES}/gitlab-runner-operator"

CONTROLLER: Difference[str] = Difference(
    "operator",
    "Deployment of its controller",
    (
        Row("", "gitlab-runner-controller-manager", _CSV.format("1.15.1 to 1.22.0")),
        Row("1.23.2", "gitlab-runner-gitlab-runnercontroller-manager", _CSV.format("1.23.2, 1.53.0")),
    ),
)

CONTAINERS: Difference[tuple[str, ...]] = Difference(
    "operator",
    "containers of its controller",
    (Row("", ("kube-rbac-proxy", "manager"), _CSV.format("1.15.1 to 1.53.0")),),
)

SERVICE_ACCOUNT: Difference[str] = Difference(
    "operator",
    "ServiceAccount of its controller",
    (
        Row("", "default", _CSV.format("1.15.1 to 1.22.0")),
        Row("1.23.2", "gitlab-runner-sa", _CSV.format("1.23.2, 1.53.0")),
    ),
)

WEBHOOKS: Difference[tuple[str, ...]] = Difference(
    "operator",
    "webhooks",
    (
        Row("", ("crunners.kb.io", "mrunner.kb.io", "vrunner.kb.io"), _CSV.format("1.15.1 to 1.22.0")),
        Row("1.23.2", (), _CSV.format("1.23.2, 1.53.0: ENABLE_WEBHOOKS=false, no webhookdefinitions")),
    ),
)

PROXY_IMAGE: Difference[str] = Difference(
    "operator",
    "image of kube-rbac-proxy (without tag or digest)",
    (
        Row("", "gcr.io/kubebuilder/kube-rbac-proxy", _CSV.format("1.15.1 to 1.20.0")),
        Row(
            "1.23.2",
            f"{_OPERATOR_IMAGES}/openshift4/ose-kube-rbac-proxy",
            _CSV.format("1.23.2, 1.53.0"),
        ),
    ),
)

TOKEN_KEYS: Difference[tuple[str, ...]] = Difference(
    "operator",
    "keys of the Runner's Secret of which one holds the token, the documented one first",
    (
        Row("", ("runner-registration-token",), "the how-to, for an authentication token too"),
        Row(
            "1.23.2",
            ("runner-token", "runner-registration-token"),
            "description in the CSV of 1.53.0; gitlab-runner, docs/install/operator.md",
        ),
    ),
)

RUNNER_SERVICE_ACCOUNT: Difference[str] = Difference(
    "operator",
    "ServiceAccount of a Runner's pod",
    (
        Row("", "gitlab-runner-sa", "bundle 1.15.1 in redhat-openshift-ecosystem/community-operators-prod"),
        Row("1.26.2", "gitlab-runner-app-sa", "gitlab-runner-operator issue 213"),
    ),
)

HELPER_BY_DIGEST: Difference[bool] = Difference(
    "operator",
    "a Runner's helper image is named by digest, in the CSV",
    (
        Row("", False, _CSV.format("1.15.1 to 1.22.0") + ": none; by tag, as the how-to's listing shows"),
        Row("1.23.2", True, _CSV.format("1.23.2, 1.53.0") + ": RELATED_IMAGE_GITLAB_RUNNER_HELPER"),
    ),
)


@dataclass(frozen=True)
class DefaultConfig:
    """The config.toml of a Runner without one of its own: settings, and whether there may be others."""

    settings: Mapping[str, str | int]
    others: frozenset[str] = frozenset()

    def __str__(self) -> str:
        known = ", ".join(f"{key} = {value}" for key, value in self.settings.items())
        return f"{known}; perhaps {', '.join(sorted(self.others))}" if self.others else known


_DOCUMENTED: Mapping[str, str | int] = {
    "concurrent": 10,
    "check_interval": 30,
    "log_level": "info",
    "listen_address": "[::]:9252",
}
DEFAULT_CONFIG: Difference[DefaultConfig] = Difference(
    "operator",
    "default config.toml",
    (
        Row("", DefaultConfig(_DOCUMENTED), "the how-to's listing: four lines"),
        Row(
            "1.34.0",
            DefaultConfig(
                _DOCUMENTED,
                frozenset({"shutdown_timeout", "log_format", "sentry_dsn", "connection_max_age"}),
            ),
            f"{_RUNNER_DOCS}: settings of operator 1.34",
        ),
    ),
)

OPERATOR_KUBERNETES: Difference[str] = Difference(
    "operator",
    "oldest Kubernetes (minKubeVersion)",
    (Row("", "1.21.0", _CSV.format("1.15.1 to 1.53.0")),),
)

SHIPPED_RUNNER: Mapping[str, str] = {
    "1.15.0": "16.0.0",
    "1.15.1": "16.0.1",
    "1.52.0": "19.3.0",
    "1.53.0": "19.4.0",
}
"""Operator → the Runner that its CSV's description says it ships; of others it is not known here."""

PREDECESSOR: Mapping[str, str] = {"1.15.1": "v1.15.0", "1.23.2": "v1.15.1", "1.53.0": "v1.52.2"}
"""Operator → what its CSV on OperatorHub.io says it replaces."""

# -- GitLab Runner ------------------------------------------------------------------------------------------

LOG_STAMPED: Difference[bool] = Difference(
    "runner",
    "every line of a job's log begins with time and stream",
    (
        Row("", False, "gitlab-runner v18.6.6, helpers/featureflags/flags.go: FF_TIMESTAMPS is off"),
        Row(
            "18.7.0",
            True,
            "gitlab-runner v18.7.0, the same: on; common/buildlogger/internal/timestamper",
        ),
    ),
)

# -- docker's command line ----------------------------------------------------------------------------------

NO_DAEMON: Difference[str] = Difference(
    "docker",
    "words for a docker.sock that is not there",
    (
        Row(
            "",
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock",
            _CLI.format("v24.0.7 to v28.5.2", "errors.go; since 29 still for a directory in its place"),
        ),
        Row(
            "29.0.0",
            "failed to connect to the docker API at unix:///var/run/docker.sock",
            _CLI.format("v29.0.0 to v29.7.2", "request.go"),
        ),
    ),
)

OLDEST_ENGINE_API: Difference[tuple[int, int]] = Difference(
    "docker",
    "oldest API of an engine that it speaks to",
    (
        Row("", (1, 24), _CLI.format("v25.0.0 to v28.5.2", "fallbackAPIVersion")),
        Row("29.0.0", (1, 44), _CLI.format("v29.0.0 to v29.2.1", "fallbackAPIVersion, MinAPIVersion")),
        Row("29.3.0", (1, 40), _CLI.format("v29.3.0 to v29.7.2", "MinAPIVersion")),
    ),
)

ENGINE_API: Difference[tuple[int, int]] = Difference(
    "docker",
    "API of an engine of that version",
    tuple(
        Row(version, api, "Docker's API version matrix")
        for version, api in {
            "20.10.0": (1, 41),
            "23.0.0": (1, 42),
            "24.0.0": (1, 43),
            "25.0.0": (1, 44),
            "26.0.0": (1, 45),
            "27.0.0": (1, 46),
            "28.0.0": (1, 48),
            "29.0.0": (1, 52),
        }.items()
    ),
)

TOO_NEW = (
    r"client version \d+\.\d+ is too new\. Maximum supported API version is \d+\.\d+"
    r"|API version \d+\.\d+ is not supported by this client: the minimum supported API version is \d+\.\d+"
)
"""What a client says that doesn't speak its engine's API: the engine's words, and its own."""

FACTS: tuple[Difference[object], ...] = (
    NODE_ROLES,
    *OPTIONAL_FLAGS,
    CERT_MANAGER_KUBERNETES,
    PACKAGE_ENTRIES,
    OLM_CRDS,
    UNPACKER_IMAGE,
    OLM_KUBERNETES,
    CONTROLLER,
    CONTAINERS,
    SERVICE_ACCOUNT,
    WEBHOOKS,
    PROXY_IMAGE,
    TOKEN_KEYS,
    RUNNER_SERVICE_ACCOUNT,
    HELPER_BY_DIGEST,
    DEFAULT_CONFIG,
    OPERATOR_KUBERNETES,
    LOG_STAMPED,
    NO_DAEMON,
    OLDEST_ENGINE_API,
    ENGINE_API,
)
