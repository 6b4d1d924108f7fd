"""How-to, "Testing the Runner": the images of its job as they are written, one of them `latest`."""

from __future__ import annotations

import re

import pytest

from fixtures.pipeline import DIND, BuildMaker
from fixtures.plugin.outcomes import NotApplicable
from fixtures.stack import Note
from fixtures.steps.runner_setups import AS_WRITTEN, jobs_on
from harness.profile import HOW_TO_PAIR
from harness.stack import StackContext
from harness.versions import facts


@pytest.mark.steps(f"runner-{DIND.setup}")
@pytest.mark.outcome("pipeline/dind/as-written", needs=["pipeline/dind/succeeds"])
def test_the_how_to_s_own_images_build_too(build_of: BuildMaker, stack: StackContext, note: Note) -> None:
    """The same job with the images to the letter, docker:latest beside docker:20.10.7-dind, ends well.

    How-to, "Testing the Runner": "image: docker:latest … services: - docker:20.10.7-dind".
    """
    pair = jobs_on(stack.profile, stack.artifacts).pair
    if pair == HOW_TO_PAIR:
        raise NotApplicable("the other jobs use these images")
    build = build_of(DIND.setup, AS_WRITTEN)
    job = build.finished()
    refused = re.search(facts.TOO_NEW, build.log) if job.status == "failed" else None
    if refused:
        why = f"{HOW_TO_PAIR.docker} of today refuses {HOW_TO_PAIR.dind} ({refused[0]})"
        note(f"the how-to's own images no longer go together: {why}; {pair} does")
        raise NotApplicable(f"{why}; what docker-dind does was judged by {pair}")
    build.succeeded()
