"""Whatever was raised, as an error of the harness: the last border, for what passed none before."""

from __future__ import annotations

import traceback
from pathlib import Path

from harness.diagnosis.catalogue import classify
from harness.diagnosis.model import Fact
from harness.errors import EnvironmentProblem, HarnessError, SuiteDefect

_ROOT = Path(__file__).resolve().parents[2]


def as_harness_error(error: BaseException, doing: str = "") -> HarnessError:
    """``error`` as a sentence with its blame; only what nobody expected is a defect of the suite."""
    if isinstance(error, HarnessError):
        return error
    where = doing or _doing(error)
    known = _of_gitlab(error, where) or _of_kubernetes(error, where) or _of_http(error, where)
    return known or _other(error, where)


def _of_gitlab(error: BaseException, doing: str) -> HarnessError | None:
    from harness.gitlab.errors import FAULTS, explain

    if not isinstance(error, FAULTS) or not isinstance(error, Exception):
        return None
    request = getattr(error, "request", None)
    return explain(error, doing, str(getattr(request, "url", "") or "GitLab"))


def _of_kubernetes(error: BaseException, doing: str) -> HarnessError | None:
    from kubernetes.client.exceptions import ApiException
    from kubernetes.dynamic.exceptions import DynamicApiError
    from urllib3.exceptions import HTTPError

    from harness.kube_errors import api_errors

    if not isinstance(error, ApiException | DynamicApiError | HTTPError):
        return None
    try:
        with api_errors(doing):
            raise error
    except HarnessError as translated:
        return translated


def _of_http(error: BaseException, doing: str) -> HarnessError | None:
    import httpx

    if not isinstance(error, httpx.HTTPError):
        return None
    status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
    why = classify([Fact("registry", doing, str(error) or "no answer", status=status)])
    assert why is not None  # the last rule on this source matches everything
    return EnvironmentProblem(why.sentence, why.do, reason_id=why.id)


def _other(error: BaseException, doing: str) -> HarnessError:
    lines = "".join(traceback.format_exception(error)[-3:])
    if isinstance(error, OSError):
        why = classify([Fact("step", doing, error.strerror or str(error), seen={"errno": error.errno})])
        name = f" ({error.filename})" if error.filename else ""
        text = f"{doing}: {error.strerror or error}{name}"
        return EnvironmentProblem(
            text, why.do if why else "see the host", evidence=lines, reason_id=why.id if why else ""
        )
    place = _place(error)
    return SuiteDefect(
        f"{doing}: a defect of the suite, which did not expect this{place}: {_named(error)}",
        "report it with the traceback below",
        evidence=lines,
        reason_id="suite/defect",
    )


def _named(error: BaseException) -> str:
    """The exception's words, with its class behind them: a class name is no reason to begin with."""
    text = " ".join(str(error).split())
    return f"{text or 'no words'} [{type(error).__name__}]"


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of our own code, innermost last."""
    found = traceback.extract_tb(error.__traceback__)
    return [it for it in found if Path(it.filename).is_relative_to(_ROOT)]


def _place(error: BaseException) -> str:
    frames = _frames(error)
    if not frames:
        return ""
    return f" in {Path(frames[-1].filename).relative_to(_ROOT)}:{frames[-1].lineno}"


def _doing(error: BaseException) -> str:
    """What was being done, as the innermost function of ours calls itself."""
    frames = _frames(error)
    return frames[-1].name.strip("_").replace("_", " ") if frames else "the run"
