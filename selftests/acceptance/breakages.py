"""What a person breaks by hand on the lab's stack, one thing at a time, and mends again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from selftests.acceptance.lab import RUNNER, TAG, Lab, await_ready, project_of, second_runner
from selftests.e2e.by_hand import CSV, CSV_TABLE, DEPLOYMENT

PRODUCT, ENVIRONMENT = "product", "environment"


@dataclass(frozen=True)
class Breakage:
    """``red``: outcome → words of its reason, and who is blamed; ``green``: what stays as it was."""

    what: str
    break_it: Callable[[Lab], AbstractContextManager[None]]
    red: dict[str, str]
    blame: str
    green: tuple[str, ...] = ("cert-manager/crds", "operator/crd")
    options: tuple[str, ...] = ()


def _patch(lab: Lab, what: str, patch: object, *, kind: str = "merge", more: str = "") -> None:
    text = shlex.quote(json.dumps(patch))
    lab.shell.types(f"kubectl patch {what} --type {kind} -p {text} {more}")


@contextmanager
def _wrong_url(lab: Lab) -> Iterator[None]:
    _patch(lab, f"runner/{RUNNER}", {"spec": {"gitlabUrl": "http://gitlab.example.com"}})
    try:
        yield
    finally:
        _patch(lab, f"runner/{RUNNER}", {"spec": {"gitlabUrl": lab.gitlab_url}})
        lab.shell.types(f"kubectl rollout status deployment/{RUNNER}-runner --timeout=170s", timeout_s=180)


@contextmanager
def _olm_at_rest(lab: Lab) -> Iterator[None]:
    """OLM would undo what is done to the operator."""
    scale = "kubectl -n olm scale deployment/olm-operator --replicas"
    lab.shell.types(f"{scale}=0")
    lab.shell.until("kubectl -n olm get pods -l app=olm-operator", lambda out: not out.strip())
    try:
        yield
    finally:
        lab.shell.types(f"{scale}=1")
        await_ready(lab, "olm", "olm-operator")
        lab.shell.until("kubectl get csv -n operators", lambda out: out == CSV_TABLE)
        await_ready(lab, "operators", DEPLOYMENT)


@contextmanager
def _csv_failed(lab: Lab) -> Iterator[None]:
    status = {"phase": "Failed", "reason": "InstallCheckFailed", "message": "install timeout"}
    good = {"phase": "Succeeded", "reason": "InstallSucceeded", "message": "install strategy"}
    where = "-n operators --subresource=status"
    with _olm_at_rest(lab):
        _patch(lab, f"csv/{CSV}", {"status": status}, more=where)
        try:
            yield
        finally:
            _patch(lab, f"csv/{CSV}", {"status": good}, more=where)


@contextmanager
def _controller_half(lab: Lab) -> Iterator[None]:
    image = f"kubectl -n operators set image deployment/{DEPLOYMENT} kube-rbac-proxy"
    before = lab.shell.types(
        f"kubectl -n operators get deployment {DEPLOYMENT} -o "
        "jsonpath='{.spec.template.spec.containers[?(@.name==\"kube-rbac-proxy\")].image}'"
    )
    strategy = {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}
    with _olm_at_rest(lab):
        _patch(lab, f"deployment/{DEPLOYMENT}", strategy, more="-n operators")
        lab.shell.types(f"{image}=quay.io/nobody/no-such-image:v0")
        lab.shell.until("kubectl -n operators get pods", lambda out: " 1/2 " in out and "ImagePull" in out)
        try:
            yield
        finally:
            lab.shell.types(f"{image}={before}")
            await_ready(lab, "operators", DEPLOYMENT)


@contextmanager
def _operator_without_rights(lab: Lab) -> Iterator[None]:
    """The operator undoes at once what is done to a Runner's objects, unless it may not change them."""
    found = lab.shell.types(f"kubectl get clusterrole -l olm.owner={CSV} -o json")
    roles = {it["metadata"]["name"]: it["rules"] for it in json.loads(found)["items"]}
    with _olm_at_rest(lab):
        for name, rules in roles.items():
            _patch(lab, f"clusterrole/{name}", {"rules": [_for_reading(it) for it in rules]})
        try:
            yield
        finally:
            for name, rules in roles.items():
                _patch(lab, f"clusterrole/{name}", {"rules": rules})


def _for_reading(rule: dict[str, list[str]]) -> dict[str, list[str]]:
    if not {"deployments", "configmaps"} & set(rule.get("resources", ())):
        return rule
    return {**rule, "verbs": [it for it in rule["verbs"] if it not in ("patch", "update")]}


@contextmanager
def _scaled_to_zero(lab: Lab) -> Iterator[None]:
    scale = f"kubectl scale deployment/{RUNNER}-runner --replicas"
    mine = f"kubectl get pods -l app.kubernetes.io/instance={RUNNER}-runner"
    with _operator_without_rights(lab):
        lab.shell.types(f"{scale}=0")
        lab.shell.until(mine, lambda out: not out.strip())
        try:
            yield
        finally:
            lab.shell.types(f"{scale}=1")
            await_ready(lab, "default", f"{RUNNER}-runner")


@contextmanager
def _key_renamed(lab: Lab) -> Iterator[None]:
    def move(before: str, after: str) -> None:
        patch = [{"op": "move", "from": f"/data/{before}", "path": f"/data/{after}"}]
        _patch(lab, f"configmap/{RUNNER}-runner-config", patch, kind="json")

    with _operator_without_rights(lab):
        move("config.toml", "config-toml")
        try:
            yield
        finally:
            move("config-toml", "config.toml")


@contextmanager
def _node_not_ready(lab: Lab) -> Iterator[None]:
    """Its kubelet no longer answers."""
    of_kubelets = (
        'for it in /proc/[0-9]*; do [ "$(cat $it/comm)" != kubelet ] || kill -{} "${{it#/proc/}}"; done'
    )
    lab.shell.types(of_kubelets.format("STOP"))
    try:
        lab.shell.until("kubectl get nodes", lambda out: " NotReady " in out)
        yield
    finally:
        lab.shell.types(of_kubelets.format("CONT"))
        lab.shell.until("kubectl get nodes", lambda out: " Ready " in out)
        running = "--all-namespaces --all --field-selector=status.phase=Running"
        lab.shell.types(f"kubectl wait pods {running} --for=condition=Ready --timeout=110s")


@contextmanager
def _webhook_without_endpoints(lab: Lab) -> Iterator[None]:
    name, space = "cert-manager-webhook", "-n cert-manager"
    selector = json.loads(lab.shell.types(f"kubectl {space} get service {name} -o json"))["spec"]["selector"]
    _patch(lab, f"service/{name}", {"spec": {"selector": {"nobody": "here"}}}, more=space)
    addresses = f"kubectl {space} get endpoints {name} -o jsonpath='{{.subsets[*].addresses[*].ip}}'"
    lab.shell.until(addresses, lambda out: not out.strip())
    try:
        yield
    finally:
        _patch(lab, f"service/{name}", {"spec": {"selector": {**selector, "nobody": None}}}, more=space)
        lab.shell.until(addresses, str.strip)


def _in_gitlab(**changes: object) -> Callable[[Lab], AbstractContextManager[None]]:
    """A change of the runner in GitLab, as its page makes it."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        runner = lab.gl.runners.get(lab.runner_id)
        before = {name: getattr(runner, name) for name in changes}
        _set(lab, changes)
        try:
            yield
        finally:
            _set(lab, before)

    return broken


def _set(lab: Lab, values: dict[str, object]) -> None:
    runner = lab.gl.runners.get(lab.runner_id)
    for name, value in values.items():
        setattr(runner, name, value)
    runner.save()


@contextmanager
def _other_tag(lab: Lab) -> Iterator[None]:
    """The project's CI file names the how-to's tag, and the runner has another."""
    project = project_of(lab)
    action = {"action": "create", "file_path": ".gitlab-ci.yml"}
    content = f"build: {{script: [date], tags: [{TAG}]}}"
    commit = {"branch": project.default_branch, "commit_message": "Build [skip ci]"}
    project.commits.create({**commit, "actions": [{**action, "content": content}]})
    try:
        with _in_gitlab(tag_list=["other"])(lab):
            yield
    finally:
        project.commits.create({**commit, "actions": [{**action, "action": "delete"}]})


@contextmanager
def _token_revoked(lab: Lab) -> Iterator[None]:
    """GitLab takes only the new one; the Runner still has the old one."""
    path = lab.directory / f"default-{RUNNER}.token"
    answer = lab.gl.http_post("/runners/reset_authentication_token", post_data={"token": path.read_text()})
    path.write_text(answer["token"])
    lab.shell.until(f"kubectl logs deployment/{RUNNER}-runner --tail=5", lambda out: "forbidden" in out)
    try:
        yield
    finally:
        key = f"runner-registration-token={path}"
        create = f"kubectl create secret generic {RUNNER}-secret --from-file={key} --dry-run=client -o yaml"
        lab.shell.types(f"{create} | kubectl apply -f -")
        lab.shell.types(f"kubectl delete pods -l app.kubernetes.io/instance={RUNNER}-runner")
        await_ready(lab, "default", f"{RUNNER}-runner")


@contextmanager
def _no_docker_sock(lab: Lab) -> Iterator[None]:
    """The how-to's second Runner, whose config lacks the path of the host."""
    with second_runner(lab, "ci", "builder", config="[[runners]]\n  [runners.kubernetes]\n"):
        yield


@contextmanager
def _no_cert_manager(lab: Lab) -> Iterator[None]:
    lab.shell.types("kubectl delete -f cert-manager.yaml --wait=true", timeout_s=170)
    try:
        yield
    finally:
        lab.shell.types("kubectl apply -f cert-manager.yaml")
        lab.shell.types(
            "kubectl -n cert-manager wait --for=condition=Available --timeout=110s deployment --all"
        )


BREAKAGES = (
    Breakage("wrong GitLab URL", _wrong_url, {"runner/accepted": "http://gitlab.example.com"}, PRODUCT),
    Breakage("CSV Failed", _csv_failed, {"operator/csv-succeeded": "is Failed"}, PRODUCT),
    Breakage("controller 1/2", _controller_half, {"operator/controller": "1/2"}, PRODUCT),
    Breakage(
        "webhook without endpoints",
        _webhook_without_endpoints,
        {"cert-manager/webhook-answers": "no address is ready"},
        PRODUCT,
        ("cert-manager/deployments", "runner/pod"),
    ),
    Breakage(
        "runner paused", _in_gitlab(paused=True), {"runner/online": "is paused"}, ENVIRONMENT, ("runner/pod",)
    ),
    Breakage(
        "tag other than the job's",
        _other_tag,
        {"runner/online": "has tags ['other']"},
        PRODUCT,
        ("runner/pod",),
    ),
    Breakage(
        "cert-manager gone",
        _no_cert_manager,
        {"cert-manager/crds": "is not there"},
        PRODUCT,
        ("olm/crds", "operator/csv-succeeded", "runner/config-map"),
    ),
    Breakage(
        "Runner scaled to 0",
        _scaled_to_zero,
        {"runner/pod": "it asks for 0 replicas"},
        PRODUCT,
        ("operator/controller", "runner/config-map"),
    ),
    Breakage(
        "ConfigMap key renamed",
        _key_renamed,
        {"runner/config-map": "'config-toml'"},
        PRODUCT,
        ("operator/controller", "runner/pod"),
    ),
    Breakage(
        "node NotReady",
        _node_not_ready,
        {"cluster/node-ready": "Kubelet stopped posting node status"},
        ENVIRONMENT,
        ("cluster/kubernetes-version",),
    ),
    Breakage(
        "token revoked",
        _token_revoked,
        {"runner/online": "GitLab refuses the runner's token"},
        ENVIRONMENT,
        ("runner/pod", "runner/secret"),
    ),
    Breakage(
        "docker.sock missing in config",
        _no_docker_sock,
        {"docker-sock/host-path": "has host paths []"},
        PRODUCT,
        ("docker-sock/config-map", "docker-sock/runner", "runner/online"),
        ("--runner=ci/builder",),
    ),
)
