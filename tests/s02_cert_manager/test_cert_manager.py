"""How-to, "Installing cert-manager": `kubectl apply -f …/v1.7.1/cert-manager.yaml`."""

from __future__ import annotations

import base64
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fixtures import expect
from fixtures.cert_manager import (
    CERTIFICATE,
    assert_served,
    certificate,
    controller_reason,
    webhook_configuration,
)
from fixtures.cluster import refused_with
from fixtures.stack import Reached
from fixtures.workloads import assert_rolled_out, image_tags, pods_of
from harness.kube import Kube, Object
from harness.stack import StackContext
from harness.stack.places import Places
from harness.versions.checks import MINIMUM_CERT_MANAGER
from harness.wait import Watched, wait_for

CRDS = (
    "certificaterequests.cert-manager.io",
    "certificates.cert-manager.io",
    "challenges.acme.cert-manager.io",
    "clusterissuers.cert-manager.io",
    "issuers.cert-manager.io",
    "orders.acme.cert-manager.io",
)

ISSUED_TIMEOUT_S = 150
"""Issued within a second; a controller that takes over from one that died waits for its lease: 60 s, and 15 s
more until it asks again."""


@pytest.mark.outcome("cert-manager/crds", needs=["cluster/node-ready"])
def test_its_six_kinds_are_served(cert_manager: Kube) -> None:
    """The release's six CRDs are there and Established.

    How-to, "Installing cert-manager": "customresourcedefinition …/certificaterequests.cert-manager.io
    created, certificates … created, challenges.acme … created, …".
    """
    for name in CRDS:
        crd = cert_manager.get("apiextensions.k8s.io/v1/CustomResourceDefinition", name)
        expect.fields(crd, {"status.conditions[type=Established].status": "True"}, f"CRD {name}")


@pytest.mark.outcome("cert-manager/webhook-configurations", needs=["cert-manager/crds"])
def test_both_webhook_configurations_are_there(cert_manager: Kube, places: Places) -> None:
    """The mutating and the validating webhook configuration exist and point at the webhook's Service.

    How-to, "Installing cert-manager": "mutatingwebhookconfiguration …/cert-manager-webhook created,
    validatingwebhookconfiguration …/cert-manager-webhook created".
    """
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        found = webhook_configuration(cert_manager, kind, places)
        expect.fields(
            found,
            {
                "webhooks[0].name": "webhook.cert-manager.io",
                "webhooks[0].failurePolicy": "Fail",
                "webhooks[0].clientConfig.service.name": places.cert_manager_deployments[-1],
                "webhooks[0].clientConfig.service.namespace": places.cert_manager,
            },
            f"{kind} cert-manager-webhook",
        )


@pytest.mark.outcome("cert-manager/deployments", needs=["cert-manager/crds", "cluster/pod-runs"])
def test_three_deployments_are_available(cert_manager: Kube, places: Places) -> None:
    """Controller, cainjector and webhook are rolled out.

    How-to, "Installing cert-manager": the manifest's many resources were installed and are used from here on.
    """
    for name in places.cert_manager_deployments:
        assert_rolled_out(cert_manager, places.cert_manager, name)


@pytest.mark.outcome("cert-manager/version", needs=["cert-manager/deployments"])
def test_it_is_the_version_asked_for(cert_manager: Kube, places: Places, reached: Reached) -> None:
    """All three run the version asked for, which is v1.7.1 or newer.

    How-to, introduction: "cert-manager must be v1.7.1 or above"; the URL applied says v1.7.1.
    """
    running = {
        tag
        for name in places.cert_manager_deployments
        for pod in pods_of(cert_manager, assert_rolled_out(cert_manager, places.cert_manager, name))
        for tag in image_tags(pod).values()
    }
    assert len(running) == 1, f"cert-manager's pods run different versions: {sorted(running)}"
    (version,) = running
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    assert numbers >= MINIMUM_CERT_MANAGER, f"cert-manager {version} is older than v1.7.1"
    reached("cert-manager", version)


@pytest.mark.outcome(
    "cert-manager/webhook-answers", needs=["cert-manager/deployments", "cert-manager/webhook-configurations"]
)
def test_the_webhook_really_answers(
    cert_manager: Kube, places: Places, stack: StackContext, probe_namespace: str
) -> None:
    """The webhook admits a good Certificate and refuses one that no schema would refuse.

    How-to, "Installing cert-manager": both webhook configurations were created, so the API server asks it.
    """
    if stack.found is not None:  # the API server may hold a connection open that no other client would get
        assert_served(cert_manager, places.cert_manager_deployments[-1], places.cert_manager)
    good = certificate("probe", probe_namespace, stack.run_id, ["probe.example"])
    cert_manager.apply(good, dry_run=True)
    nameless = certificate("nameless", probe_namespace, stack.run_id, [])
    message = refused_with(None, lambda: cert_manager.apply(nameless, dry_run=True))
    assert "webhook.cert-manager.io" in message, f"it was refused, but not by the webhook: {message}"
    assert "dnsNames" in message, f"the webhook doesn't say what is missing: {message}"


@pytest.mark.outcome("cert-manager/certificate-issued", needs=["cert-manager/webhook-answers"])
def test_a_self_signed_certificate_is_issued(self_signed: Object, kube: Kube) -> None:
    """A self-signed Certificate becomes a Secret whose key and certificate belong together.

    How-to, introduction: cert-manager is a prerequisite of the operator: it has to issue certificates.
    """
    name, namespace = self_signed["metadata"]["name"], self_signed["metadata"]["namespace"]
    wait_for(
        lambda: kube.get(CERTIFICATE, name, namespace),
        ready=lambda found: found is not None and expect.condition(found, "Ready") == "True",
        what=f"Certificate {name} Ready",
        timeout_s=ISSUED_TIMEOUT_S,
        hopeless=lambda found: controller_reason(kube),
        kube=kube,
        watch=[Watched(CERTIFICATE, namespace, name)],
    )
    secret = expect.there(kube.get("v1/Secret", f"{name}-tls", namespace), "the Certificate's Secret")
    data = {key: base64.b64decode(value) for key, value in secret["data"].items()}
    issued = x509.load_pem_x509_certificate(data["tls.crt"])
    key = load_pem_private_key(data["tls.key"], password=None)
    issued.verify_directly_issued_by(issued)
    assert issued.public_key() == key.public_key(), "the Secret's key is not the certificate's"
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["selfsigned.example"]
