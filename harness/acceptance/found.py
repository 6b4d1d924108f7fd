"""What was found on a cluster, as plain data, which the run's other processes read from its state."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.files import write_whole
from harness.given import FOUND
from harness.options import ProvisionOptions
from harness.profile import Profile, load_profile
from harness.stack import cert_manager
from harness.versions import facts

FILE = "found.json"
OLM, MANIFEST, HELM = "OLM", "a manifest", "Helm"
_K3S = re.compile(r"\+(k3s|lab)\d+$")


@dataclass(frozen=True)
class FoundCertManager:
    """Its namespace, version, and Deployments by component: controller, cainjector, webhook."""

    namespace: str = cert_manager.NAMESPACE
    version: str = ""
    deployments: tuple[str, ...] = cert_manager.DEPLOYMENTS


@dataclass(frozen=True)
class FoundOperator:
    """The operator: ``how`` it was installed; the names of OLM's objects are empty without OLM."""

    how: str = ""
    version: str = ""
    namespace: str = ""
    deployment: str = ""
    csv: str = ""
    package: str = ""
    subscription: str = ""
    channel: str = ""
    catalog: str = ""
    catalog_namespace: str = ""
    approval: str = ""


@dataclass(frozen=True)
class FoundRunner:
    """A Runner resource. ``config``: its own ConfigMap; ``version``: by its image's tag; "" for none."""

    namespace: str
    name: str
    secret: str = ""
    config: str = ""
    url: str = ""
    image: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Found:
    """A stack that somebody installed. ``unseen``: what could not be looked for, a sentence each."""

    kubernetes: str
    node: str = ""
    cert_manager: FoundCertManager | None = None
    olm_namespace: str = ""
    olm_version: str = ""
    operator: FoundOperator | None = None
    runners: tuple[FoundRunner, ...] = ()
    unseen: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    """What → the object that it was read from."""

    @property
    def is_k3s(self) -> bool:
        """Whether the node says that it is k3s's."""
        return _K3S.search(self.node) is not None

    def lines(self) -> list[str]:
        """For the reader: what was found, and where."""
        manager, there = self.cert_manager, self.operator
        return [
            f"Kubernetes {self.kubernetes}" + (f", nodes {self.node}" if self.node else ""),
            _line("cert-manager", manager.version, manager.namespace) if manager else _absent("cert-manager"),
            _line("OLM", self.olm_version, self.olm_namespace) if self.olm_namespace else _absent("OLM"),
            _operator_line(there) if there else _absent("operator"),
            f"Runners: {', '.join(map(str, self.runners)) or 'none'}",
            *self.unseen,
        ]

    def profile(self, options: ProvisionOptions) -> Profile:
        """The profile whose versions and names are those that were found.

        What was not found has the how-to's names, by which its absence is told. An operator that does not
        say its version is judged as the one that was asked for, else as the newest known. ``options``: a
        profile by name keeps its jobs and image substitutions.
        """
        base = load_profile("seed" if options.profile == FOUND else options.profile)
        there, wish = self.operator, base.operator
        if there is not None:
            wish = replace(
                wish,
                version=there.version
                or asked_for(options).get("operator")
                or load_profile("latest").operator.version,
                namespace=there.namespace,
                package=there.package or wish.package,
                subscription_name=there.subscription or wish.subscription_name,
                channel=there.channel or wish.channel,
                catalog=there.catalog or wish.catalog,
                approval=there.approval or wish.approval,
            )
        runner = next((it.version for it in self.runners if it.version), "")
        runner = runner or facts.SHIPPED_RUNNER.get(wish.version, base.runner)
        return replace(
            base,
            k3s=self.node if self.is_k3s else base.k3s,
            cert_manager=(self.cert_manager and self.cert_manager.version) or base.cert_manager,
            olm=self.olm_version or base.olm,
            operator=wish,
            runner=runner,
        )

    def save(self, directory: Path) -> None:
        """For the run's other processes."""
        write_whole(directory / FILE, json.dumps(dataclasses.asdict(self)), mode=0o600)

    @classmethod
    def load(cls, directory: Path) -> Found:
        """What ``save`` wrote."""
        return _from(json.loads((directory / FILE).read_text()))


def asked_for(options: ProvisionOptions) -> dict[str, str]:
    """Component → version, of what the user asked for by an option or by naming a profile; else nothing."""
    given = {name: value for name, value in options.overrides.items() if value is not None}
    if options.profile == FOUND:
        return {name: value for name, value in given.items() if name != "channel"}
    return load_profile(options.profile, given).requested


def chosen(found: Found, wanted: str | None) -> Found:
    """With ``--runner`` only that one. Raises UsageError for one that is not there."""
    if wanted is None:
        return found
    named = [it for it in found.runners if str(it) == wanted]
    if not named:
        there = ", ".join(map(str, found.runners)) or "none"
        raise UsageError(f"--runner {wanted}: there is no such Runner on this cluster", f"there are: {there}")
    return replace(found, runners=tuple(named))


def only_runner(found: Found) -> FoundRunner:
    """The Runner that a build is to run on. Raises UsageError where that is not one."""
    if len(found.runners) == 1:
        return found.runners[0]
    there = ", ".join(map(str, found.runners))
    if not there:
        raise UsageError("--with-pipeline: no Runner was found that could run a build", "is one installed?")
    raise UsageError(
        f"--with-pipeline runs one build, and {len(found.runners)} Runners are there: {there}",
        f"name one of them: --runner {found.runners[0]}",
    )


def _line(what: str, version: str, namespace: str) -> str:
    return f"{what} {version or 'of a version that it does not say'} in namespace {namespace}"


def _operator_line(there: FoundOperator) -> str:
    line = f"{_line('operator', there.version, there.namespace)}, installed by {there.how}"
    judged = "" if there.version else "; judged as the newest that is known, or as --operator-version says"
    return line + judged


def _absent(what: str) -> str:
    return f"{what}: none was found"


def _from(data: dict[str, Any]) -> Found:
    manager, operator = data.pop("cert_manager"), data.pop("operator")
    return Found(
        **{
            **data,
            "cert_manager": FoundCertManager(**{**manager, "deployments": tuple(manager["deployments"])})
            if manager
            else None,
            "operator": FoundOperator(**operator) if operator else None,
            "runners": tuple(FoundRunner(**it) for it in data["runners"]),
            "unseen": tuple(data["unseen"]),
        }
    )
