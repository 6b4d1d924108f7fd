"""A right in a cluster: what acceptance asks for, and what a run on a user's own cluster needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Right:
    """Verbs on resources of an API group, and what they are for."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        return f"{'/'.join(self.verbs)} {', '.join(self.names())} ({self.why})"

    def grants(self, group: str, resource: str, verb: str) -> bool:
        """Whether it covers a request; ``resource`` has its subresource behind a slash."""
        return group == self.group and resource in self.resources and verb in self.verbs

    def names(self) -> tuple[str, ...]:
        """The resources as kubectl writes them: ``runners.apps.gitlab.com``."""
        return tuple(f"{it}.{self.group}" if self.group else it for it in self.resources)
