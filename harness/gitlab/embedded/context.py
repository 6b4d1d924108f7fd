"""What every part of the embedded GitLab is given: settings, state, repositories, queue and keys."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from harness.gitlab.embedded.git_storage import GitStorage
from harness.gitlab.embedded.http import parameters
from harness.gitlab.embedded.queue import RunnerQueue
from harness.gitlab.embedded.registry_keys import RegistryKeys
from harness.gitlab.embedded.settings import Settings
from harness.gitlab.embedded.store import Store
from harness.gitlab.embedded.traces import Traces


@dataclass(frozen=True)
class Context:
    """One embedded GitLab."""

    settings: Settings
    store: Store
    git: GitStorage
    traces: Traces
    queue: RunnerQueue
    keys: RegistryKeys

    async def parameters(self, request: Request) -> dict[str, object]:
        """Query and body of an API request."""
        return await parameters(request, self.settings.body_limit_bytes)

    def url(self, path: str) -> str:
        """An absolute address on this GitLab."""
        return f"{self.settings.external_url}/{path}"


def of(request: Request) -> Context:
    """The context of the application that serves ``request``."""
    context: Context = request.app.state.context
    return context
