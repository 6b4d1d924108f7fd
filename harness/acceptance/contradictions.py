"""Options of acceptances that contradict each other, or others; each with what would have come of it."""

from __future__ import annotations

from harness.errors import UsageError
from harness.given import FOUND, Check, Given, flag


def accept(given: Given) -> UsageError | None:
    """--accept elsewhere than on a cluster that was there."""
    if not given.get("accept"):
        return None
    if given.get("cluster") != "existing":
        return UsageError(
            "--accept without --cluster existing: what an ephemeral cluster has was installed by this suite"
        )
    if given.get("make_runners"):
        return UsageError(
            "--accept with --make-runners: the one changes nothing, the other makes Runners of its own"
        )
    return None


def make_runners(given: Given) -> UsageError | None:
    """--make-runners elsewhere than on a cluster that was there."""
    if given.get("make_runners") and given.get("cluster") != "existing":
        return UsageError(
            "--make-runners without --cluster existing: an ephemeral cluster has no other Runners"
        )
    return None


def only_accepting(option: str) -> Check:
    """An option of acceptances without one; --show-rbac needs none."""

    def check(given: Given) -> UsageError | None:
        if given.get(option) and not given.accepts and not given.get("show_rbac"):
            return UsageError(
                f"{flag(option)} without the acceptance of a cluster: nothing would come of it",
                "it goes with --cluster existing, and not with --make-runners",
            )
        return None

    return check


def with_pipeline(given: Given) -> UsageError | None:
    """A build without a project to run it in, or without a look at the Runner that has to run it."""
    if not given.get("with_pipeline"):
        return None
    if given.get("gitlab_project") is None:
        return UsageError(
            "--with-pipeline without --gitlab-project: the build needs a project whose jobs the Runner takes",
            "name one, with --gitlab-url and --gitlab-token-file: --gitlab-project GROUP/PROJECT",
        )
    if given.get("no_exec"):
        return UsageError(
            "--with-pipeline with --no-exec: which of GitLab's runners is meant is told by its pod",
            "leave --no-exec out; --accept --no-exec alone judges the Runner without a build",
        )
    return only_accepting("with_pipeline")(given)


def runner(given: Given) -> UsageError | None:
    """A Runner that is not named by namespace and name."""
    named = given.get("runner")
    if named is not None and (named.count("/") != 1 or not all(named.split("/"))):
        return UsageError(f"--runner {named!r} names no Runner", "write it as NAMESPACE/NAME")
    return only_accepting("runner")(given)


def profile(given: Given) -> UsageError | None:
    """--profile found where nothing is to be found."""
    if given.get("profile") == FOUND and not given.accepts:
        return UsageError(
            "--profile found without the acceptance of a cluster: there is nothing to be found",
            "it goes with --cluster existing, and not with --make-runners",
        )
    return None


def keep(given: Given) -> UsageError | None:
    """--keep of what was there before."""
    if given.accepts and given.get("keep"):
        return UsageError("--keep with an acceptance: nothing is made that could be kept")
    return None
