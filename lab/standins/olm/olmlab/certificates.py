"""The serving certificates that OLM gives to APIServices and webhooks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Red Hat, Inc."),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def make_certificate(hosts: list[str], until: datetime) -> tuple[bytes, bytes, bytes]:
    """A CA and a serving certificate for `hosts`: (CA, certificate, key) as PEM."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    issuer = _name(f"olm-selfsigned-{serial & (2**64 - 1):x}")

    def build(subject: x509.Name, public: Any, number: int, *, ca: bool) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
        builder = builder.serial_number(number).not_valid_before(datetime.now(UTC) - timedelta(minutes=1))
        builder = builder.not_valid_after(until)
        return builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)

    ca = build(issuer, ca_key.public_key(), serial, ca=True).sign(ca_key, hashes.SHA256())
    serving = (
        build(_name(hosts[0]), key.public_key(), x509.random_serial_number(), ca=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(h) for h in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return ca.public_bytes(pem), serving.public_bytes(pem), private
