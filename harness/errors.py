"""Errors of the harness: what happened, who is at fault, what to do, and the exit code that says so."""

from __future__ import annotations

import errno
from enum import StrEnum


class Blame(StrEnum):
    """Who is at fault, so that a red run is never taken for a broken product when a disk was full."""

    PRODUCT = "product"
    ENVIRONMENT = "environment"
    SUITE = "suite"


EXIT_OK = 0
EXIT_PRODUCT = 1
EXIT_USAGE = 4
EXIT_ENVIRONMENT = 10
EXIT_LEFTOVERS = 11
EXIT_SUITE = 12
EXIT_INTERRUPTED = 130


class HarnessError(Exception):
    """A sentence on what happened, one on what to do, and the evidence for it.

    >>> raise EnvironmentProblem("port 6443 is taken by another program", "stop it, or choose another --name")
    """

    blame: Blame = Blame.SUITE
    exit_code: int = EXIT_SUITE
    step: str = ""
    """The step of a run that ended with this error, once it is known to tests."""

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        blame: Blame | None = None,
        evidence: str = "",
        reason_id: str = "",
    ) -> None:
        """``reason_id``: the rule that says so, for `runner-conformance explain`."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.evidence = evidence
        self.reason_id = reason_id
        if blame is not None:
            self.blame = blame
            self.exit_code = _EXIT_OF_BLAME[blame]

    def __str__(self) -> str:
        parts = [self.message]
        if self.hint:
            parts.append(f"What to do: {self.hint}")
        if self.evidence:
            parts.append(self.evidence.rstrip())
        return "\n".join(parts)


class UsageError(HarnessError):
    """What the user asked for can't be: a wrong option, a token without rights. No defect of the suite."""

    blame = Blame.ENVIRONMENT
    exit_code = EXIT_USAGE


class EnvironmentProblem(HarnessError):
    """The host, the network or a source is at fault, not what is being verified."""

    blame = Blame.ENVIRONMENT
    exit_code = EXIT_ENVIRONMENT


class ProductFailure(HarnessError):
    """What is being verified does not do what it promises."""

    blame = Blame.PRODUCT
    exit_code = EXIT_PRODUCT


class SuiteDefect(HarnessError):
    """This project is at fault."""

    blame = Blame.SUITE
    exit_code = EXIT_SUITE


class LeftoversError(HarnessError):
    """Something that the run made could not be removed."""

    blame = Blame.ENVIRONMENT
    exit_code = EXIT_LEFTOVERS


class Cancelled(HarnessError):
    """The run was interrupted, or another layer failed, while this was still at work."""

    blame = Blame.ENVIRONMENT
    exit_code = EXIT_INTERRUPTED


_EXIT_OF_BLAME = {
    Blame.PRODUCT: EXIT_PRODUCT,
    Blame.ENVIRONMENT: EXIT_ENVIRONMENT,
    Blame.SUITE: EXIT_SUITE,
}


_MENDS = {
    errno.EMFILE: "let this process open more files: ulimit -n 1024",
    errno.ENFILE: "let this host open more files: sysctl fs.file-max",
    errno.ENOMEM: "free memory",
    errno.EAGAIN: "let this user have more processes: ulimit -u",
}


def of_os_error(error: OSError, what: str) -> EnvironmentProblem:
    """The host's fault, in a sentence: a full disk, a file system that went read-only, no descriptor left."""
    where = f": {error.filename}" if error.filename else ""
    return EnvironmentProblem(
        f"{what}: {error.strerror or error}{where}",
        _MENDS.get(error.errno or 0, "make room, or mend that file system"),
    )
