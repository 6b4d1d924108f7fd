"""A stack as a person may have installed it, as objects of a fake cluster."""

from __future__ import annotations

from typing import Any

from harness.versions.facts import OLM_CRDS

Object = dict[str, Any]
RUNNERS = "registry.gitlab.com/gitlab-org/ci-cd/gitlab-runner-ubi-images"
OPERATORS = "registry.gitlab.com/gitlab-org/gl-openshift/gitlab-runner-operator"


def thing(api: str, kind: str, name: str, namespace: str = "", **rest: Any) -> Object:
    metadata: Object = {"name": name, "uid": f"{kind}-{namespace}-{name}", **rest.pop("metadata", {})}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}


def workload(
    name: str,
    namespace: str,
    *images: str,
    labels: dict[str, str] | None = None,
    owner: Object | None = None,
    names: tuple[str, ...] = (),
    annotations: dict[str, str] | None = None,
) -> list[Object]:
    """A Deployment that is rolled out, and its pod."""
    selector = {"app": name}
    containers = [
        {"name": named, "image": image} for named, image in zip(names or _names(images), images, strict=True)
    ]
    metadata: Object = {"labels": labels or {}, "generation": 1, "annotations": annotations or {}}
    if owner is not None:
        metadata["ownerReferences"] = [{"kind": owner["kind"], "uid": owner["metadata"]["uid"]}]
    status = {"observedGeneration": 1, "updatedReplicas": 1, "replicas": 1, "availableReplicas": 1}
    account = "gitlab-runner-sa" if owner is not None else "default"
    running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    return [
        thing(
            "apps/v1",
            "Deployment",
            name,
            namespace,
            metadata=metadata,
            spec={
                "replicas": 1,
                "selector": {"matchLabels": selector},
                "template": {"spec": {"containers": containers}},
            },
            status=status,
        ),
        thing(
            "v1",
            "Pod",
            f"{name}-6f7c4bf7dc-r9lzh",
            namespace,
            metadata={"labels": selector},
            spec={"containers": containers, "serviceAccountName": account},
            status={
                "phase": "Running",
                "podIP": "10.42.0.9",
                "hostIP": "192.0.2.1",
                "containerStatuses": [
                    {"name": it["name"], "ready": True, "restartCount": 0, "state": running}
                    for it in containers
                ],
            },
        ),
    ]


def _names(images: tuple[str, ...]) -> tuple[str, ...]:
    return ("main",) if len(images) == 1 else ("kube-rbac-proxy", "manager")


def node(version: str = "v1.28.5+k3s1", ready: str = "True") -> Object:
    labels = {f"node-role.kubernetes.io/{it}": "true" for it in ("control-plane", "master")}
    return thing(
        "v1",
        "Node",
        "vm-0-12-ubuntu",
        metadata={"labels": labels},
        spec={},
        status={
            "nodeInfo": {"kubeletVersion": version},
            "conditions": [
                {"type": "Ready", "status": ready, "reason": "KubeletReady", "message": "posting"}
            ],
        },
    )


def cert_manager(
    namespace: str = "cert-manager", release: str = "cert-manager", version: str = "v1.7.1"
) -> list[Object]:
    found: list[Object] = []
    for component, suffix in (("controller", ""), ("cainjector", "-cainjector"), ("webhook", "-webhook")):
        labels = {
            "app.kubernetes.io/component": component,
            "app.kubernetes.io/name": {"controller": "cert-manager"}.get(component, component),
        }
        image = f"quay.io/jetstack/cert-manager-{component}:{version}"
        found += workload(f"{release}{suffix}", namespace, image, labels=labels)
    for kind in ("certificaterequests", "certificates", "clusterissuers", "issuers"):
        found.append(crd(f"{kind}.cert-manager.io"))
    found += [crd(f"{kind}.acme.cert-manager.io") for kind in ("challenges", "orders")]
    hook = {
        "name": "webhook.cert-manager.io",
        "failurePolicy": "Fail",
        "clientConfig": {"service": {"name": f"{release}-webhook", "namespace": namespace}},
    }
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        found.append(thing("admissionregistration.k8s.io/v1", kind, f"{release}-webhook", webhooks=[hook]))
    addresses = [{"addresses": [{"ip": "10.42.0.7"}]}]
    found.append(thing("v1", "Endpoints", f"{release}-webhook", namespace, subsets=addresses))
    return found


def crd(name: str, **spec: Any) -> Object:
    established = {"conditions": [{"type": "Established", "status": "True"}]}
    return thing("apiextensions.k8s.io/v1", "CustomResourceDefinition", name, spec=spec, status=established)


def runner_crd() -> Object:
    versions = [{"name": "v1beta2", "served": True, "storage": True}]
    return crd("runners.apps.gitlab.com", names={"kind": "Runner"}, scope="Namespaced", versions=versions)


def operator_images(version: str) -> tuple[str, str]:
    return "docker.io/kubesphere/kube-rbac-proxy:v0.8.0", f"{OPERATORS}/gitlab-runner-operator:v{version}"


def operator_by_manifest(
    namespace: str = "gitlab-operator", name: str = "runner-controller", version: str = "1.15.1", **more: Any
) -> list[Object]:
    return [runner_crd(), *workload(name, namespace, *operator_images(version), **more)]


def olm(namespace: str = "olm") -> list[Object]:
    found = [crd(f"{it}.operators.coreos.com") for it in OLM_CRDS.at("v0.26.0")]
    for name in ("olm-operator", "catalog-operator", "packageserver"):
        found += workload(name, namespace, "quay.io/operator-framework/olm@sha256:0")
    found.append(csv("packageserver", namespace, "0.26.0"))
    ready = {"connectionState": {"lastObservedState": "READY"}}
    api = "operators.coreos.com/v1alpha1"
    found.append(thing(api, "CatalogSource", "operatorhubio-catalog", namespace, status=ready))
    return found


def csv(name: str, namespace: str, version: str, **rest: Any) -> Object:
    return thing(
        "operators.coreos.com/v1alpha1",
        "ClusterServiceVersion",
        name,
        namespace,
        **{
            "spec": {"version": version, **rest.pop("spec", {})},
            "status": {"phase": "Succeeded", "reason": "InstallSucceeded"},
            **rest,
        },
    )


def operator_by_olm(namespace: str = "operators", version: str = "1.15.1") -> list[Object]:
    controller = "gitlab-runner-controller-manager"
    made = workload(controller, namespace, *operator_images(version))
    deployments = [{"name": controller, "spec": made[0]["spec"]}]
    hooks = [{"generateName": it} for it in ("crunners.kb.io", "mrunner.kb.io", "vrunner.kb.io")]
    spec = {
        "displayName": "GitLab Runner",
        "install": {"spec": {"deployments": deployments}},
        "webhookdefinitions": hooks,
    }
    name = f"gitlab-runner-operator.v{version}"
    api = "operators.coreos.com/v1alpha1"
    subscription = {
        "name": "gitlab-runner-operator",
        "channel": "stable",
        "source": "operatorhubio-catalog",
        "sourceNamespace": "olm",
        "installPlanApproval": "Manual",
    }
    plan = {"clusterServiceVersionNames": [name], "approved": True}
    package = {
        "catalogSource": "operatorhubio-catalog",
        "defaultChannel": "stable",
        "channels": [{"name": "stable", "currentCSV": name, "entries": [{"name": name, "version": version}]}],
    }
    return [
        runner_crd(),
        *made,
        csv(name, namespace, version, spec=spec),
        csv(name, "default", version, spec=spec, metadata={"labels": {"olm.copiedFrom": namespace}}),
        thing(
            api,
            "Subscription",
            "my-gitlab-runner-operator",
            namespace,
            spec=subscription,
            status={"installedCSV": name},
        ),
        thing(api, "InstallPlan", "install-x", namespace, spec=plan, status={"phase": "Complete"}),
        thing(
            "packages.operators.coreos.com/v1",
            "PackageManifest",
            "gitlab-runner-operator",
            namespace,
            status=package,
        ),
    ]


def runner(
    namespace: str = "default", name: str = "gitlab-runner", version: str = "16.0.1", **spec: Any
) -> list[Object]:
    given = {
        "gitlabUrl": "https://gitlab.example.com",
        "buildImage": "alpine",
        "token": f"{name}-secret",
        **spec,
    }
    resource = thing("apps.gitlab.com/v1beta2", "Runner", name, namespace, spec=given)
    config = "concurrent = 10\ncheck_interval = 30\nlog_level = \"info\"\nlisten_address = '[::]:9252'"
    keys = ("check-live", "ci_server_url", "configure", "entrypoint", "register-runner")
    data = {**dict.fromkeys(keys, ""), "config.toml": config}
    managed = [
        {
            "manager": "kubectl-create",
            "fieldsV1": {"f:data": {".": {}, "f:runner-registration-token": {}}, "f:type": {}},
        }
    ]
    return [
        resource,
        *workload(
            f"{name}-runner",
            namespace,
            f"{RUNNERS}/gitlab-runner-ocp:v{version}",
            owner=resource,
            names=("runner",),
        ),
        thing("v1", "ConfigMap", f"{name}-runner-config", namespace, data=data),
        thing(
            "v1",
            "Secret",
            f"{name}-secret",
            namespace,
            type="Opaque",
            data={"runner-registration-token": "Z2xydC1uZXZlci1zaG93bg=="},
            metadata={"managedFields": managed},
        ),
    ]


def how_to_stack() -> list[Object]:
    """As the how-to installs it."""
    return [node(), *cert_manager(), *olm(), *operator_by_olm(), *runner()]
