"""What a run was asked to do, as plain data: from the command line or from pytest's options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CLUSTERS = ("k3s", "existing", "kind")


@dataclass(frozen=True)
class ProvisionOptions:
    """Options of a run. ``artifacts`` is ``auto``, ``upstream``, ``china`` or the path of a bundle.

    ``gitlab_url`` None means the embedded GitLab. ``registry_auth`` is a file with logins for registries, in
    the format of docker's config.json. ``substitute_images`` and ``wait_for_operator`` are turned off by the
    test that wants to see what happens without. ``beside`` is the run id of the stack that this one was made
    beside: ``down`` of that one removes this one too.
    """

    profile: str = "seed"
    overrides: Mapping[str, str | None] = field(default_factory=dict)
    artifacts: str = "auto"
    name: str | None = None
    keep: bool = False
    cluster: str = "k3s"
    kubeconfig: Path | None = None
    context: str | None = None
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
