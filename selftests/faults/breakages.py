"""Breakages of a kept stack, one at a time and undone again: which outcomes each turns red, and why."""

from __future__ import annotations

from fixtures.runner_sides import CONFIG_TOML
from harness.stack.runner import CONFIG_NAME, RUNNER_NAME
from selftests.faults.ways import (
    CONFIG_MAP,
    CRD,
    CSV,
    OPERATOR_CSV,
    RUNNER_KIND,
    SUBSCRIPTION,
    VARIANTS,
    Breakage,
    created,
    deleted,
    empty_token,
    image,
    in_runner_pod,
    node,
    old_api_server,
    other_image_pushed,
    patch,
    plrt_token,
    promised,
    runner_in_gitlab,
    runners_forgotten,
    scaled,
    unattended,
)

_SOCKET_LINES = (
    r'[[runners.kubernetes.volumes.host_path]]\n name = "x"\n mount_path = "/x"\n host_path = "/x"\n'
)
_SAVE = f"cp {CONFIG_TOML} {CONFIG_TOML}.before; "
_RESTORE = f"cp {CONFIG_TOML}.before {CONFIG_TOML}"
_ROLE = "node-role.kubernetes.io/master"
_SCHEDULABLE = {"spec": {"unschedulable": None}}

BREAKAGES: tuple[Breakage, ...] = (
    Breakage(
        "an API server of v1.20.15 behind the kubeconfig",
        {"cluster/kubernetes-version": r"the API server is v1\.20\.15, the how-to asks for v1\.21\.1"},
        old_api_server,
    ),
    Breakage(
        "Deployment cert-manager (the controller) scaled to 0",
        {"cert-manager/certificate-issued": "selfsigned Ready: failed after .*asks for 0 replicas"},
        scaled("cert-manager", "cert-manager"),
    ),
    Breakage(
        "node cordoned",
        {"cluster/node-ready": "is cordoned"},
        node({"spec": {"unschedulable": True}}, _SCHEDULABLE),
    ),
    Breakage(
        "node without the label of role master",
        {"cluster/node-roles": "has not the role master"},
        node({"metadata": {"labels": {_ROLE: None}}}, {"metadata": {"labels": {_ROLE: "true"}}}),
        rule="node/role-missing",
        blame="product",
    ),
    Breakage(
        "a ResourceQuota of no pods in the checks' namespace",
        {"cluster/pod-runs": "exceeded quota"},
        created(
            {
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": {"name": "none"},
                "spec": {"hard": {"pods": "0"}},
            },
            "runner-conformance-checks",
        ),
    ),
    Breakage(
        "the bundle promises another k3s",
        {
            "cluster/k3s-version": "k3s: asked for v9.9.9, found",
            "cluster/node-version": "k3s: asked for v9.9.9, found",
        },
        promised("k3s"),
    ),
    Breakage(
        "the bundle promises another cert-manager",
        {"cert-manager/version": "cert-manager: asked for v9.9.9, found v1.7.1"},
        promised("cert-manager"),
    ),
    Breakage(
        "the bundle promises another OLM",
        {"olm/packageserver": "olm: asked for v9.9.9, found v0.26.0"},
        promised("olm"),
    ),
    Breakage(
        "the bundle promises another runner",
        {"runner/version": "runner: asked for v9.9.9, found 16.0.1"},
        promised("runner"),
    ),
    Breakage(
        "CRD orders.acme.cert-manager.io deleted",
        {"cert-manager/crds": r"CRD orders\.acme\.cert-manager\.io: is not there"},
        deleted(CRD, "orders.acme.cert-manager.io"),
    ),
    Breakage(
        "cert-manager's validating webhook with failurePolicy Ignore",
        {"cert-manager/webhook-configurations": r"failurePolicy: expected 'Fail', found 'Ignore'"},
        patch(
            "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration",
            "cert-manager-webhook",
            None,
            [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}],
            [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"}],
        ),
    ),
    Breakage(
        "Deployment cert-manager-webhook scaled to 0",
        {"cert-manager/webhook-answers": "failed calling webhook"},
        scaled("cert-manager-webhook", "cert-manager"),
    ),
    Breakage(
        "catalog-operator with an image that is not there",
        {"olm/rolled-out": "catalog-operator: old replicas are still there"},
        image("catalog-operator", "olm"),
    ),
    Breakage(
        "CRD olmconfigs.operators.coreos.com deleted",
        {
            "olm/crds": r"CRD olmconfigs\.operators\.coreos\.com: is not there",
        },
        deleted(CRD, "olmconfigs.operators.coreos.com"),
    ),
    Breakage(
        "the same CRD deleted: install.sh's `create` would get past it",
        {"olm/installed-once": "it was accepted, where a refusal is due"},
        deleted(CRD, "olmconfigs.operators.coreos.com"),
    ),
    Breakage(
        "the Subscription asks for another channel",
        {"operator/subscription": r"spec\.channel: expected 'stable', found 'beta'"},
        patch(
            SUBSCRIPTION,
            "my-gitlab-runner-operator",
            "operators",
            {"spec": {"channel": "beta"}},
            {"spec": {"channel": "stable"}},
        ),
    ),
    Breakage(
        "a second InstallPlan for the same CSV",
        {"operator/install-plan": r"plans for gitlab-runner-operator\.v1\.15\.1: 2"},
        created(
            {
                "apiVersion": "operators.coreos.com/v1alpha1",
                "kind": "InstallPlan",
                "metadata": {"name": "install-again"},
                "spec": {
                    "approval": "Manual",
                    "approved": False,
                    "clusterServiceVersionNames": [OPERATOR_CSV],
                },
            },
            "operators",
        ),
    ),
    Breakage(
        "the CSV with another display name",
        {"operator/csv": r"spec\.displayName: expected 'GitLab Runner', found 'Other'"},
        patch(
            CSV,
            OPERATOR_CSV,
            "operators",
            {"spec": {"displayName": "Other"}},
            {"spec": {"displayName": "GitLab Runner"}},
        ),
    ),
    Breakage(
        "the Runner's Secret with a token that starts with plrt-",
        {"runner/token": "the token starts with 'plrt-'"},
        plrt_token,
    ),
    Breakage(
        "the Runner's Secret with an empty token",
        {"runner/secret": r"data\.runner-(registration-)?token: expected something, found ''"},
        empty_token,
    ),
    Breakage(
        "poll_timeout changed in the pod's config.toml",
        {"runner/config-toml": "poll_timeout: expected 180, found 181"},
        in_runner_pod(
            "how-to",
            _SAVE + f"sed 's/poll_timeout = 180/poll_timeout = 181/' {CONFIG_TOML}.before > {CONFIG_TOML}",
            _RESTORE,
        ),
    ),
    Breakage(
        "a host path in the default Runner's config.toml",
        {"docker-sock/absent-by-default": r"\[runners\.kubernetes\.volumes\] is .*'/x'"},
        in_runner_pod("how-to", _SAVE + f"printf '{_SOCKET_LINES}' >> {CONFIG_TOML}", _RESTORE),
    ),
    Breakage(
        "the socket's host path changed in the pod's config.toml",
        {"docker-sock/host-path": "has host paths .*/run/other.sock"},
        in_runner_pod(
            "docker-sock",
            _SAVE
            + 'sed \'s#host_path = "/var/run/docker.sock"#host_path = "/run/other.sock"#\' '
            + f"{CONFIG_TOML}.before > {CONFIG_TOML}",
            _RESTORE,
        ),
    ),
    Breakage(
        "the Runner's buildImage changed",
        {"runner/accepted": r"spec\.buildImage: expected 'alpine', found 'busybox'"},
        patch(
            RUNNER_KIND,
            RUNNER_NAME,
            "default",
            {"spec": {"buildImage": "busybox"}},
            {"spec": {"buildImage": "alpine"}},
        ),
    ),
    Breakage(
        "an object of the deleted Runner that nobody removes",
        {"runner/deleted": r"gone: failed after .*runner-to-delete/jh-gitlab-runner-runner-left"},
        created(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{RUNNER_NAME}-runner-left"}},
            "runner-to-delete",
        ),
        rule="operator/left-behind",
        blame="product",
    ),
    Breakage(
        "ConfigMap custom-config-toml with another key beside config.toml",
        {"docker-sock/config-map": "data: expected"},
        patch(
            CONFIG_MAP, CONFIG_NAME, "runner-docker-sock", {"data": {"more": "x"}}, {"data": {"more": None}}
        ),
    ),
    Breakage(
        "the runner's tag changed in GitLab",
        {"runner/online": r"its tags are \['another'\]"},
        runner_in_gitlab("how-to", {"tag_list": ["another"]}, {"tag_list": ["jh"]}),
    ),
    Breakage(
        "another image pushed under the builds' tags",
        {f"{prefix}/pushed": "the job pushed sha256:.*, the registry has sha256:" for prefix in VARIANTS},
        other_image_pushed,
    ),
    Breakage(
        "the same, looked at without `pushed` before it",
        {f"{prefix}/content": "/greeting.txt holds None" for prefix in VARIANTS},
        other_image_pushed,
    ),
    Breakage(
        "CRD olmconfigs.operators.coreos.com deleted on the second cluster",
        {"offline/olm": r"CRD olmconfigs\.operators\.coreos\.com: is not there"},
        deleted(CRD, "olmconfigs.operators.coreos.com", second=True),
    ),
    Breakage(
        "the second cluster's operator with an image that is not there, and nobody to mend it",
        {"kube-rbac-proxy/lasts": r"kube-rbac-proxy\]\.image: expected"},
        unattended(image("gitlab-runner-controller-manager", "operators", second=True, container=0)),
    ),
    Breakage(
        "CatalogSource operatorhubio-catalog deleted",
        {"olm/package": "CatalogSource operatorhubio-catalog is not there|offers|has channels"},
        deleted("operators.coreos.com/v1alpha1/CatalogSource", "operatorhubio-catalog", "olm"),
        blame="product",
    ),
    Breakage(
        "CRD runners.apps.gitlab.com no longer serves v1beta2",
        {"operator/crd": r"served: expected True, found False"},
        patch(
            CRD,
            "runners.apps.gitlab.com",
            None,
            [{"op": "replace", "path": "/spec/versions/0/served", "value": False}],
            [{"op": "replace", "path": "/spec/versions/0/served", "value": True}],
        ),
    ),
    Breakage(
        "the Runner's ConfigMap with a seventh key",
        {"runner/config-map": "has keys"},
        patch(
            CONFIG_MAP,
            f"{RUNNER_NAME}-runner-config",
            "default",
            {"data": {"seventh": "x"}},
            {"data": {"seventh": None}},
        ),
    ),
    Breakage(
        "the Runner no longer names the ConfigMap",
        {"docker-sock/runner": r"spec\.config: expected 'custom-config-toml', found"},
        patch(
            RUNNER_KIND,
            RUNNER_NAME,
            "runner-docker-sock",
            {"spec": {"config": None}},
            {"spec": {"config": CONFIG_NAME}},
        ),
    ),
    Breakage(
        "the builds' runners removed from GitLab",
        {
            f"{prefix}/our-runner": "GitLab shows no runner for the job|it ran on runner"
            for prefix in VARIANTS
        },
        runners_forgotten,
    ),
)
