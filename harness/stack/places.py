"""Where the parts of a stack are and what they are called: the how-to's names, or those that were found."""

from __future__ import annotations

from dataclasses import dataclass

from harness.stack import StackContext, cert_manager, olm


@dataclass(frozen=True)
class Places:
    """Namespaces, and names of Deployments. ``controller`` is empty where a CSV names it."""

    cert_manager: str
    cert_manager_deployments: tuple[str, ...]
    olm: str
    catalog: str
    operator: str
    controller: str = ""


def places(ctx: StackContext) -> Places:
    """Those of a stack."""
    found, wish = ctx.found, ctx.profile.operator
    if found is None:
        return Places(
            cert_manager.NAMESPACE, cert_manager.DEPLOYMENTS, olm.NAMESPACE, olm.NAMESPACE, wish.namespace
        )
    manager, there = found.cert_manager, found.operator
    space = found.olm_namespace or olm.NAMESPACE
    return Places(
        cert_manager=manager.namespace if manager else cert_manager.NAMESPACE,
        cert_manager_deployments=manager.deployments if manager else cert_manager.DEPLOYMENTS,
        olm=space,
        catalog=(there and there.catalog_namespace) or space,
        operator=wish.namespace,
        controller=there.deployment if there and not there.csv else "",
    )
