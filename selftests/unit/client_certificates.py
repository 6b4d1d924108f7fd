"""A user's client certificate, valid or not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def client_certificate(
    user: str, until: datetime, authority: str | None = None, key: str | None = None
) -> tuple[str, str]:
    """(certificate, key), both PEM, of ``user``; signed by an authority and its key, or else by itself."""
    own = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user)])
    issuer = x509.load_pem_x509_certificate(authority.encode()).subject if authority else subject
    signs = serialization.load_pem_private_key(key.encode(), None) if key else own
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(until, datetime.now(UTC)) - timedelta(days=1))
        .not_valid_after(until)
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signs, hashes.SHA256())  # type: ignore[arg-type]  # of the kinds of keys a CA has
    )
    private = own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), private.decode()
