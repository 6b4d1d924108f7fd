"""The options of a run: one row each, from which pytest's and `up`'s command lines are made and checked.

A new option is a row here and a row in docs/options.md; its value arrives in the field of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from harness.acceptance import contradictions
from harness.errors import HarnessError, UsageError
from harness.given import FOUND, PYTEST, UP, Check, Given, flag
from harness.ownership import is_stack_name
from harness.profile import IMAGE, OVERRIDES

CLUSTERS = ("k3s", "kind", "existing")


@dataclass(frozen=True)
class ProvisionOptions:
    """What to provision. ``artifacts`` is ``auto``, ``upstream``, ``china`` or the path of a bundle.

    ``gitlab_url`` None means the embedded GitLab. ``registry_auth`` is a file with logins for registries, in
    the format of docker's config.json. ``substitute_images`` and ``wait_for_operator`` are turned off by the
    test that wants to see what happens without. ``beside`` is the run id of the stack that this one was made
    beside: ``down`` of that one removes this one too. ``accept``: what is there is read and judged, nothing
    is made; the fields after it say how.
    """

    profile: str = "seed"
    overrides: Mapping[str, str | None] = field(default_factory=dict)
    artifacts: str = "auto"
    name: str | None = None
    keep: bool = False
    cluster: str = "k3s"
    kubeconfig: Path | None = None
    context: str | None = None
    kind_image: str | None = None
    gitlab_url: str | None = None
    gitlab_token_file: Path | None = None
    gitlab_ca_file: Path | None = None
    gitlab_project: str | None = None
    registry_auth: Path | None = None
    docker_engine: bool = True
    unreachable_registries: tuple[str, ...] = ()
    substitute_images: bool = True
    wait_for_operator: bool = True
    beside: str = ""
    accept: bool = False
    with_pipeline: bool = False
    runner: str | None = None
    operator_namespace: str | None = None
    no_exec: bool = False
    no_dry_run: bool = False


@dataclass(frozen=True)
class Option:
    """One option. ``carried``: the command that runs a red run once more has it too."""

    name: str
    help: str
    type: Literal["text", "path", "flag"] = "text"
    default: str = ""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    check: Check | None = None
    carried: bool = True
    programs: tuple[str, ...] = (PYTEST, UP)
    override: str = ""

    @property
    def flag(self) -> str:
        """As it is written on a command line."""
        return flag(self.name)


def _stack_name(option: str) -> Check:
    def check(given: Given) -> UsageError | None:
        name = given.get(option)
        if name is None or is_stack_name(name):
            return None
        return UsageError(
            f"--{option} {name!r} can't name a stack",
            "a name is lower case, digits and dashes, up to 32 characters",
        )

    return check


def _name(given: Given) -> UsageError | None:
    if given.program == PYTEST and given.get("name") and not given.get("keep"):
        return UsageError(
            "--name without --keep: the stack is removed at the end, and nobody could use its name"
        )
    return _stack_name("name")(given)


def _reuse(given: Given) -> UsageError | None:
    if given.get("reuse") is None:
        return None
    for name in ("profile", "artifacts", "cluster", "gitlab_url"):
        if given.get(name) is not None:
            return UsageError(
                f"--reuse with {flag(name)}: the kept stack has its own already, so it would be verified "
                "as something that it is not; leave one of the two out"
            )
    for option in OPTIONS:
        if option.override and given.get(option.name) is not None:
            return UsageError(
                f"--reuse with another {option.override} version: a kept stack isn't installed again, "
                "so every version outcome would be red; provision a new one"
            )
    if given.get("keep"):
        return UsageError("--reuse with --keep: a reused stack is always left as it was; leave --keep out")
    return _stack_name("reuse")(given)


def _cluster(given: Given) -> UsageError | None:
    cluster = given.get("cluster")
    if cluster is not None and cluster not in CLUSTERS:
        return UsageError(f"--cluster {cluster!r} is unknown", f"it is one of {', '.join(CLUSTERS)}")
    return None


def _only_existing(option: str) -> Check:
    def check(given: Given) -> UsageError | None:
        existing, value = given.get("cluster") == "existing", given.get(option)
        if existing and value is None:
            return UsageError(
                f"--cluster existing without --{option}: the suite would act on whichever cluster "
                "is current; name it"
            )
        if value is not None and not existing:
            return UsageError(
                f"--{option} without --cluster existing: an ephemeral cluster would be verified, "
                "not the one that you named"
            )
        return None

    return check


def _kind_image(given: Given) -> UsageError | None:
    image = given.get("kind_image")
    if image is None:
        return None
    if given.get("cluster") != "kind":
        return UsageError(
            f"--kind-image without --cluster kind: {image} would not be used, and another Kubernetes verified"
        )
    if not IMAGE.fullmatch(image):
        return UsageError(f"--kind-image {image[:60]!r} is no image", "write it as kindest/node:v1.34.0")
    return None


def _gitlab(given: Given) -> UsageError | None:
    if (given.get("gitlab_url") is None) != (given.get("gitlab_token_file") is None):
        return UsageError(
            "--gitlab-url and --gitlab-token-file go together: with one alone the embedded GitLab "
            "would be used, not yours"
        )
    return None


def _file_is_there(option: str) -> Check:
    def check(given: Given) -> UsageError | None:
        path = given.get(option)
        if path is None or path.is_file():
            return None
        return UsageError(f"{flag(option)} {path}: no such file")

    return check


def _ca_file(given: Given) -> UsageError | None:
    if given.get("gitlab_ca_file") and not given.get("gitlab_url"):
        return UsageError(
            "--gitlab-ca-file without --gitlab-url: the embedded GitLab has a CA of its own, "
            "so yours would not be used"
        )
    return _file_is_there("gitlab_ca_file")(given)


def _project(given: Given) -> UsageError | None:
    if given.get("gitlab_project") and not given.get("gitlab_url"):
        return UsageError(
            "--gitlab-project without --gitlab-url: the embedded GitLab has no such project, "
            "so your GitLab would stay untested"
        )
    return None


def _history(given: Given) -> UsageError | None:
    """Said before a run of minutes, not after it."""
    path = given.get("history")
    if path is None or not path.exists():
        return None
    from harness.history.store import History  # SQLite is loaded only where it is used

    try:
        with History(path):
            return None
    except HarnessError as error:
        return UsageError(error.message, error.hint)


def _new_red_only(given: Given) -> UsageError | None:
    if given.get("new_red_only") and not given.get("history"):
        return UsageError("--new-red-only without --history: nothing tells what was red before")
    return None


def _version(component: str) -> Option:
    name = component if component == "channel" else f"{component.replace('-', '_')}_version"
    return Option(name, f"{component} instead of the profile's", metavar="V", override=component)


OPTIONS: tuple[Option, ...] = (
    Option(
        "profile",
        "profile by name, or a TOML file",
        default="seed",
        metavar="NAME",
        check=contradictions.profile,
    ),
    *map(_version, OVERRIDES),
    Option("artifacts", "auto, upstream, china, or a bundle directory", default="auto", metavar="SOURCE"),
    Option("cluster", "k3s (ephemeral), kind, or existing", default="k3s", choices=CLUSTERS, check=_cluster),
    Option("kubeconfig", "with --cluster existing", "path", check=_only_existing("kubeconfig")),
    Option("context", "with --cluster existing: the context, never guessed", check=_only_existing("context")),
    Option(
        "kind_image",
        "with --cluster kind: the node image, which decides the Kubernetes version",
        metavar="REF",
        check=_kind_image,
    ),
    Option(
        "accept",
        "with --cluster existing, and its default: read and judge what is there, change nothing",
        "flag",
        check=contradictions.accept,
        programs=(PYTEST,),
    ),
    Option(
        "make_runners",
        "with --cluster existing: make Runners and a project of the suite's own there, and remove them",
        "flag",
        check=contradictions.make_runners,
        programs=(PYTEST,),
    ),
    Option(
        "with_pipeline",
        "run the how-to's build on the Runner that was found, in a branch of --gitlab-project",
        "flag",
        check=contradictions.with_pipeline,
        programs=(PYTEST,),
    ),
    Option(
        "runner",
        "judge this Runner alone, of several that are found",
        metavar="NAMESPACE/NAME",
        check=contradictions.runner,
        programs=(PYTEST,),
    ),
    Option(
        "operator_namespace",
        "which operator is meant, of several that are found",
        metavar="NAMESPACE",
        check=contradictions.only_accepting("operator_namespace"),
        programs=(PYTEST,),
    ),
    Option(
        "no_exec",
        "run no command in a pod and open no port of one",
        "flag",
        check=contradictions.only_accepting("no_exec"),
        programs=(PYTEST,),
    ),
    Option(
        "no_dry_run",
        "ask no webhook, not even with a dry run",
        "flag",
        check=contradictions.only_accepting("no_dry_run"),
        programs=(PYTEST,),
    ),
    Option(
        "show_rbac",
        "print the smallest ClusterRole for an acceptance, and end",
        "flag",
        carried=False,
        programs=(PYTEST,),
    ),
    Option("gitlab_url", "your GitLab instead of the embedded one", metavar="URL", check=_gitlab),
    Option(
        "gitlab_token_file",
        "file with an access token, scope api",
        "path",
        check=_file_is_there("gitlab_token_file"),
    ),
    Option("gitlab_ca_file", "CA of your GitLab and its registry, PEM", "path", check=_ca_file),
    Option("gitlab_project", "use this project, don't make one", metavar="PATH", check=_project),
    Option(
        "registry_auth",
        "logins for registries, in the format of docker's config.json",
        "path",
        metavar="FILE",
        check=_file_is_there("registry_auth"),
    ),
    Option(
        "keep",
        "leave the stack running for --reuse; `down` removes it",
        "flag",
        check=contradictions.keep,
    ),
    Option(
        "reuse",
        "verify a stack that an earlier run kept",
        metavar="NAME",
        check=_reuse,
        programs=(PYTEST,),
    ),
    Option("name", "name of the stack to keep", metavar="NAME", check=_name),
    Option("report_dir", "where reports go", "path", default="report", programs=(PYTEST,)),
    Option(
        "history",
        "record the run in this file, and say since when what is red is red",
        "path",
        metavar="FILE",
        check=_history,
        programs=(PYTEST,),
    ),
    Option(
        "new_red_only",
        "exit code 0 where all that is red was red the last time",
        "flag",
        check=_new_red_only,
        programs=(PYTEST,),
    ),
)


def check(given: Given) -> None:
    """Raise UsageError for the first contradiction; it says what would have come of it."""
    for option in sorted(OPTIONS, key=lambda option: option.name != "reuse"):
        if option.check is not None and (problem := option.check(given)) is not None:
            raise problem


def check_options(options: ProvisionOptions) -> None:
    """The same for options that are given by code."""
    check(Given(vars(options)))


def provision_options(given: Given) -> ProvisionOptions:
    """What the user gave, as the harness takes it. Raises UsageError for a contradiction."""
    check(given)
    known = {it.name for it in fields(ProvisionOptions)}
    overrides = {it.override: given.get(it.name) for it in OPTIONS if it.override and given.get(it.name)}
    values = {
        option.name: given.get(option.name)
        for option in OPTIONS
        if option.name in known and given.get(option.name) is not None
    }
    if given.accepts:
        values = {"profile": FOUND, **values, "accept": True}
    return ProvisionOptions(overrides=overrides, **values)
