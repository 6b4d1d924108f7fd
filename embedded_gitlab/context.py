"""What every part of the embedded GitLab is given: settings, state, repositories, queue and keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from embedded_gitlab.git_storage import GitStorage
from embedded_gitlab.http import Bodies, parameters
from embedded_gitlab.queue import RunnerQueue
from embedded_gitlab.registry_keys import RegistryKeys
from embedded_gitlab.settings import Settings
from embedded_gitlab.store import Store
from embedded_gitlab.traces import Traces


@dataclass(frozen=True)
class Context:
    """One embedded GitLab."""

    settings: Settings
    store: Store
    git: GitStorage
    traces: Traces
    queue: RunnerQueue
    keys: RegistryKeys
    bodies: Bodies

    async def parameters(self, request: Request, limit_bytes: int | None = None) -> dict[str, Any]:
        """Query and body of an API request."""
        limit = self.settings.body_limit_bytes if limit_bytes is None else limit_bytes
        return await parameters(request, await self.bodies.read(request, limit))

    def url(self, path: str) -> str:
        """An absolute address on this GitLab."""
        return f"{self.settings.external_url}/{path}"


def of(request: Request) -> Context:
    """The context of the application that serves ``request``."""
    context: Context = request.app.state.context
    return context
